"""From test reports to points: an exercise is earned only when each of its tests ran and passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.exercises.catalog import Entry, ExerciseTest, order, sentence

Outcome = Literal["passed", "failed", "not run"]
PASSED: Outcome = "passed"
FAILED: Outcome = "failed"
NOT_RUN: Outcome = "not run"
WORST_FIRST: tuple[Outcome, ...] = (FAILED, NOT_RUN, PASSED)


@dataclass
class TestResult:
    """What one test did.

    ``where`` is the last line of the learner's code in the traceback; ``blocked_by`` the other
    exercise whose stub raised the error.
    """

    __test__ = False

    node: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    exception: str = ""
    assertion: bool = False
    doc: str = ""
    where: str = ""
    printed: str = ""
    blocked_by: str = ""

    @property
    def sentence(self) -> str:
        return sentence(self.node)


@dataclass
class BrokenFile:
    """A test file that could not be collected, and so every exercise tested there."""

    node: str
    outcome: Outcome
    reason: str
    exception: str = ""
    where: str = ""


@dataclass
class Grade:
    """An exercise with its points; ``reason`` says why they were not earned."""

    id: str
    title: str
    points: int
    lab: str
    module: str
    name: str
    outcome: Outcome
    reason: str
    broken: BrokenFile | None = None
    tests: list[TestResult] = field(default_factory=list)

    @property
    def score(self) -> int:
        return self.points if self.outcome == PASSED else 0


def grade(
    entries: Sequence[Entry],
    expected: Iterable[ExerciseTest],
    results: Mapping[str, Sequence[TestResult]],
    broken: Sequence[BrokenFile],
    work: Path | None,
) -> list[Grade]:
    """Grade each exercise.

    Parameters
    ----------
    entries
        The exercises to grade: each gets a grade, whatever ran.
    expected
        The tests that stand in the source. One that did not report keeps the points back.
    results
        What ran, by exercise id.
    broken
        Test files that could not be collected.
    work
        The learner's folder. Without a file of the learner's there is nothing to grade: our own
        solution passing earns nothing. None grades our code (used to check the tests).
    """
    nodes: dict[str, list[str]] = {}
    for test in expected:
        nodes.setdefault(test.exercise, []).append(test.node)
    return [
        _grade(entry, nodes.get(entry.id, []), list(results.get(entry.id, [])), broken, work)
        for entry in sorted(entries, key=lambda entry: order(entry.id))
    ]


def _grade(
    entry: Entry,
    expected: list[str],
    tests: list[TestResult],
    broken: Sequence[BrokenFile],
    work: Path | None,
) -> Grade:
    files = {node.partition("::")[0] for node in expected}
    blocked = next((file for file in broken if file.node.partition("::")[0] in files), None)
    ran = {test.node.partition("[")[0] for test in tests}
    missing = [node for node in expected if node not in ran]
    worst = next((test for kind in WORST_FIRST for test in tests if test.outcome == kind), None)
    outcome, reason = NOT_RUN, ""
    if work is not None and not entry.work_file(work).is_file():
        reason = f"there is no {entry.work_file(work)}; begin with `course start {entry.lab}`"
    elif worst is not None and worst.outcome == FAILED:
        outcome, reason = FAILED, f"{worst.sentence}: {first_line(worst.reason)}"
    elif blocked is not None:
        reason = f"{blocked.node} could not be collected: {first_line(blocked.reason)}"
    elif worst is None and not missing:
        reason = "it has no test"
    elif missing:
        reason = f"{sentence(missing[0])}: the test was not collected, deselected or not reached"
    elif worst is not None and worst.outcome == NOT_RUN:
        reason = f"{worst.sentence}: {first_line(worst.reason)}"
    else:
        outcome = PASSED
    return Grade(
        id=entry.id,
        title=entry.title,
        points=entry.points,
        lab=entry.lab,
        module=entry.module,
        name=entry.name,
        outcome=outcome,
        reason=reason,
        broken=blocked,
        tests=tests,
    )


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def as_report(grades: Sequence[Grade], broken: Sequence[BrokenFile]) -> dict[str, Any]:
    """The JSON of ``--exercise-report``."""
    return {
        "schema": 1,
        "exercises": [asdict(each) | {"score": each.score} for each in grades],
        "broken": [asdict(file) for file in broken],
    }


def as_gradescope(grades: Sequence[Grade], seconds: float) -> dict[str, Any]:
    """The results.json that Gradescope reads, of the public tests: they are not the grade."""
    from common.grading import gradescope
    from common.grading.model import GradedExercise

    total, most = sum(each.score for each in grades), sum(each.points for each in grades)
    output = f"Public tests only: {total} of {most} points. They are not the grade: "
    output += "that is taken with other random inputs."
    exercises = [
        GradedExercise(
            id=each.id,
            title=each.title,
            lab=each.lab,
            points=each.points,
            status=each.outcome,
            reason=each.reason,
            feedback=_feedback(each),
            tests={PASSED: len(each.tests)} if each.outcome == PASSED else {},
        )
        for each in grades
    ]
    return gradescope.as_gradescope(exercises, output=output, seconds=seconds)


def _feedback(graded: Grade) -> str:
    """Test, expectation and why it matters, of each test that failed."""
    blocks = []
    for test in graded.tests:
        if test.outcome == FAILED:
            lines = [f"Test: {test.sentence}", f"Expected: {test.reason}"]
            lines += [f"Why it matters: {test.doc}"] if test.doc else []
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
