"""The gradebook: one self-contained page about a whole class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from common.grading.batch import Fault
from common.grading.model import GradedExercise, GradedSubmission
from common.grading.text import by_message, printable

BINS = 10
MOST_REASONS = 2
LONGEST_REASON = 240


@dataclass(frozen=True)
class About:
    """What was graded, with what. ``seed_hash`` is all that the page tells of the secret seed."""

    lab: str
    title: str
    finished_at: str
    seed_hash: str
    tree_hash: str
    commit: str
    limits: dict[str, str] = field(default_factory=dict)


def render(
    graded: Mapping[str, GradedSubmission],
    faults: Sequence[Fault],
    exercises: Sequence[GradedExercise],
    about: About,
) -> str:
    """The page as HTML; every text of a submission is escaped.

    Parameters
    ----------
    graded, faults
        Submissions with a grade, by their folder beside the page, and those that have none.
    exercises
        The lab's, in order: id, title and points are read.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["line"] = lambda text: printable(text, LONGEST_REASON)
    students = [_student(each, folder) for folder, each in graded.items()]
    students.sort(key=lambda student: (student["name"].casefold(), student["folder"]))
    grades = list(graded.values())
    return environment.get_template("gradebook.html.j2").render(
        about=about,
        students=students,
        faults=sorted(faults, key=lambda fault: fault.student.casefold()),
        reasons=_by_reason(faults),
        exercises=[_of_class(exercise, grades) for exercise in exercises],
        max_score=sum(exercise.points for exercise in exercises),
        tally=_tally(grades, faults),
        histogram=histogram([_percent(each) for each in grades]),
        isolation=_alike([each.isolation for each in grades]),
        not_run=_not_run(grades),
    )


def histogram(percents: Sequence[float]) -> list[tuple[str, int]]:
    """Submissions by tenths of the points: ``("0-9", 3), ..., ("90-100", 7)``."""
    counts = Counter(min(int(percent * BINS / 100), BINS - 1) for percent in percents)
    width = 100 // BINS
    labels = [f"{low}\u2013{low + width - 1}" for low in range(0, 100 - width, width)]
    labels.append(f"{100 - width}\u2013100")
    return [(label, counts[index]) for index, label in enumerate(labels)]


def _percent(each: GradedSubmission) -> float:
    return 100 * each.score / each.max_score if each.max_score else 0.0


def _student(each: GradedSubmission, folder: str) -> dict[str, Any]:
    """A row of the table, with the exercises that earned nothing grouped by why."""
    grouped: dict[tuple[str, str], list[GradedExercise]] = {}
    for exercise in each.exercises:
        if exercise.status != "passed":
            message = exercise.reason.partition(".py: ")[2] or exercise.reason
            grouped.setdefault((exercise.status, message), []).append(exercise)
    lost = [
        (
            "all" if len(alike) == len(each.exercises) > 1 else ", ".join(one.id for one in alike),
            status,
            "; ".join(by_message(one.reason for one in alike)),
        )
        for (status, _), alike in grouped.items()
    ]
    return {
        "name": printable(each.student),
        "folder": folder,
        "anchor": f"student-{folder}",
        "score": each.score,
        "percent": _percent(each),
        "by_id": {exercise.id: exercise for exercise in each.exercises},
        "lost": lost,
        "problems": by_message(each.problems),
        "broken": each.broken,
        "alerts": each.alerts,
        "seconds": each.seconds,
    }


def _of_class(exercise: GradedExercise, graded: Sequence[GradedSubmission]) -> dict[str, Any]:
    """How the class did on one exercise, and what most often kept its points back."""
    found = [one for each in graded for one in each.exercises if one.id == exercise.id]
    status = Counter(one.status for one in found)
    reasons = Counter(
        # the fault of a file, or the test without the values it found
        printable(one.reason.partition(".py: ")[2] or one.reason.partition(": ")[0], 110)
        for one in found
        if one.status == "failed" and one.reason
    )
    return {
        "id": exercise.id,
        "title": exercise.title,
        "points": exercise.points,
        "passed": status["passed"],
        "failed": status["failed"],
        "not_run": status["not run"],
        "of": len(found),
        "seconds": median([one.seconds for one in found]) if found else 0.0,
        "reasons": reasons.most_common(MOST_REASONS),
    }


def _tally(graded: Sequence[GradedSubmission], faults: Sequence[Fault]) -> list[tuple[str, str]]:
    percents = [_percent(each) for each in graded]
    rows = [(str(len(graded)), "graded")]
    if percents:
        rows.append((f"{median(percents):.0f} %", "median of the points"))
        rows.append((str(sum(percent == 100 for percent in percents)), "with all points"))
    rows.append((str(sum(each.broken for each in graded)), "with problems in the files"))
    rows.append((str(sum(bool(each.left_out) for each in graded)), "with a module left out"))
    rows.append((str(sum(bool(each.alerts) for each in graded)), "with alerts"))
    rows.append((str(len(faults)), "without a grade"))
    return rows


def _by_reason(faults: Sequence[Fault]) -> list[tuple[str, list[str]]]:
    """Each reason for which there is no grade, with its students."""
    grouped: dict[str, list[str]] = {}
    for fault in faults:
        grouped.setdefault(fault.reason, []).append(printable(fault.student))
    return [(reason, sorted(names, key=str.casefold)) for reason, names in grouped.items()]


def _alike(found: Sequence[dict[str, str]]) -> list[tuple[int, list[tuple[str, str]]]]:
    """The ways in which submissions were confined, the most frequent first."""
    counts = Counter(tuple(sorted(each.items())) for each in found)
    return [(count, list(items)) for items, count in counts.most_common()]


def _not_run(graded: Sequence[GradedSubmission]) -> list[tuple[str, str, int]]:
    """Exercise, reason and number of submissions of what this machine could not run."""
    counts = Counter(
        (one.id, one.reason) for each in graded for one in each.exercises if one.status == "not run"
    )
    return [(identifier, reason, count) for (identifier, reason), count in counts.most_common()]
