"""What grading one submission yields: plain values that survive JSON, made only by the grader."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "not run"]
"""``not run`` is kept for what this machine cannot run (no GPU); it earns nothing and says why."""
NOT_HANDED_IN = "not handed in"


@dataclass(frozen=True)
class Submission:
    """One student's work as it was handed in.

    Parameters
    ----------
    student
        Who: the name of the folder or of the zip without ``.zip``.
    path
        The folder or the zip.
    problem
        Why it cannot be graded at all (unreadable zip, a second one of the same student, ...);
        empty when it can.
    """

    student: str
    path: Path
    problem: str = ""


@dataclass
class GradedExercise:
    """One exercise of one submission. All or nothing; ``reason`` says why points were not earned.

    ``feedback`` is what the student may read (expected, found, why it matters; never the answer);
    ``tests`` counts those of the manifest by what they did.
    """

    id: str
    title: str
    lab: str
    points: int
    status: Status
    reason: str = ""
    feedback: str = ""
    seconds: float = 0.0
    tests: dict[str, int] = field(default_factory=dict)

    @property
    def score(self) -> int:
        return self.points if self.status == "passed" else 0


@dataclass
class GradedSubmission:
    """The whole grade of a student.

    ``problems`` name what is wrong with the files as handed in (missing, renamed, binary, too
    large, a syntax error); ``alerts`` are for the instructor alone (signs of tampering, a limit
    that was hit); ``isolation`` says how it was confined (network, user, limits).
    """

    student: str
    lab: str
    exercises: list[GradedExercise]
    problems: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    isolation: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    graded_at: str = ""
    sha256: str = ""
    """Of the submission's files and of what it was graded with: the key to resume by."""

    @property
    def left_out(self) -> list[str]:
        """Those ``problems`` that only say that a module was not handed in."""
        return [problem for problem in self.problems if problem.endswith(f": {NOT_HANDED_IN}")]

    @property
    def broken(self) -> bool:
        """Whether something that was handed in is wrong; who leaves a module out breaks nothing."""
        return len(self.problems) > len(self.left_out)

    @property
    def score(self) -> int:
        return sum(each.score for each in self.exercises)

    @property
    def max_score(self) -> int:
        return sum(each.points for each in self.exercises)

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "score": self.score, "max_score": self.max_score}

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> GradedSubmission:
        """Read what :meth:`as_json` wrote; ``KeyError`` or ``TypeError`` when it is damaged."""
        kept = {key: written[key] for key in cls.__dataclass_fields__}
        return cls(**kept | {"exercises": [GradedExercise(**each) for each in kept["exercises"]]})
