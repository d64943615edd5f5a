"""What a check found: problems, each with its place, and how much was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One fault. ``place`` is a file with its line, an exercise, or a row of the map."""

    place: str
    message: str


@dataclass
class Check:
    """One check over the repository; ``counted`` things were looked at, in the way ``how`` says."""

    name: str
    how: str
    counted: int = 0
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a check that found nothing to look at has not passed."""
        return not self.problems and self.counted > 0

    def fault(self, place: str, message: str) -> None:
        self.problems.append(Problem(place, message))


@dataclass
class ExerciseRecord:
    """What holds for one exercise. ``seconds`` are those of its runs, by test, where it was run."""

    id: str
    lab: str
    points: int
    tests: int
    wrong: int
    killed: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Verified:
    """Everything that one run of ``course verify`` found."""

    checks: list[Check]
    exercises: list[ExerciseRecord]
    whole: bool

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The JSON of ``course verify --json``."""
        return {
            "schema": 1,
            "passed": self.passed,
            "whole": self.whole,
            "totals": self.totals(),
            "checks": [asdict(check) | {"passed": check.passed} for check in self.checks],
            "exercises": [asdict(each) for each in self.exercises],
        }

    def totals(self) -> dict[str, int | None]:
        """Counts over all exercises; ``killed`` is None when no wrong solution was run."""
        killed = [each.killed for each in self.exercises if each.killed is not None]
        return {
            "exercises": len(self.exercises),
            "points": sum(each.points for each in self.exercises),
            "tests": sum(each.tests for each in self.exercises),
            "wrong": sum(each.wrong for each in self.exercises),
            "killed": sum(killed) if killed else None,
        }


def place(root: Path, file: Path, line: int) -> str:
    """``file:line`` as seen from the root of the repository."""
    return f"{file.relative_to(root).as_posix()}:{line}"


def listed(words: Iterable[str], most: int = 8) -> str:
    """Words with commas between them, cut after ``most``."""
    found = list(words)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
