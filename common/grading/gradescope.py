"""The ``results.json`` that Gradescope reads: only fields that its documentation names.

Reference: https://gradescope-autograders.readthedocs.io/en/latest/specs/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.grading.model import GradedExercise, GradedSubmission
from common.grading.text import clip


def as_gradescope(
    exercises: Sequence[GradedExercise], *, output: str, seconds: float
) -> dict[str, Any]:
    """One test an exercise, all or nothing; what was not run is a failed test that says so.

    Every text has the format ``text``: Gradescope shows it escaped, whatever a submission printed.

    Parameters
    ----------
    exercises
        In the order in which they are shown.
    output
        Stands above the tests: what this is a grade of.
    seconds
        How long the grading took.
    """
    return {
        "score": sum(each.score for each in exercises),
        "execution_time": round(seconds),
        "output": output,
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [_test(each) for each in exercises],
    }


def results(graded: GradedSubmission) -> dict[str, Any]:
    """What a student is given: no alert, no seed, nothing of how the grader confines."""
    return as_gradescope(graded.exercises, output=summary(graded), seconds=graded.seconds)


def summary(graded: GradedSubmission) -> str:
    """The points, what was not run, and what is wrong with the files as handed in."""
    lines = [
        f"{graded.lab}: {graded.score} of {graded.max_score} points. An exercise counts when each "
        "of its tests passes; these ran with other random inputs than the public tests."
    ]
    if waiting := [each.id for each in graded.exercises if each.status == "not run"]:
        lines.append(f"Not run, so without points: {', '.join(waiting)}.")
    lines += [f"Problem: {problem}" for problem in graded.problems]
    return clip("\n".join(lines))


def _test(each: GradedExercise) -> dict[str, Any]:
    return {
        "number": each.id,
        "name": each.title,
        "score": each.score,
        "max_score": each.points,
        "status": "passed" if each.status == "passed" else "failed",
        "output": clip(explain(each)),
        "output_format": "text",
        "tags": [each.lab],
        "visibility": "visible",
    }


def explain(each: GradedExercise) -> str:
    """What a student reads of one exercise: how many tests passed, or what kept the points back."""
    if each.status == "passed":
        ran = each.tests.get("passed", 0)
        return f"{ran} test{'' if ran == 1 else 's'} passed"
    text = f"{each.status}: {each.reason}" if each.reason else each.status
    return f"{text}\n\n{each.feedback}" if each.feedback else text
