"""``grades.csv``: the columns of nbgrader's export, in its order, one row a student.

Reference: https://nbgrader.readthedocs.io/en/stable/plugins/export-plugin.html
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from common.grading.model import GradedSubmission
from common.grading.text import clip

COLUMNS = (
    *("assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email"),
    *("raw_score", "late_submission_penalty", "score", "max_score"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A cell that begins so is run by a spreadsheet (OWASP, CSV injection)."""


def as_csv(graded: Sequence[GradedSubmission], ungraded: Sequence[tuple[str, str]] = ()) -> str:
    """The table.

    Parameters
    ----------
    graded
        Each submission with a grade; of a student's several the best. Names, dates and penalties
        are not known to the grader: their cells are empty, the penalty is 0.
    ungraded
        Student and lab of what the grader could not grade: the cells of the points stay empty, so
        that no import takes them for zero.
    """
    rows: dict[str, dict[str, str | int]] = {
        student: {"assignment": lab, "student_id": student} for student, lab in ungraded
    }
    for each in sorted(graded, key=lambda each: each.score):
        rows[each.student] = {
            "assignment": each.lab,
            "student_id": each.student,
            "raw_score": each.score,
            "late_submission_penalty": 0,
            "score": each.score,
            "max_score": each.max_score,
        }
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="")
    writer.writeheader()
    for student in sorted(rows):
        writer.writerow({name: safe_cell(value) for name, value in rows[student].items()})
    return stream.getvalue()


def safe_cell(value: str | int) -> str | int:
    """A text that a spreadsheet would run as a formula, behind an apostrophe (and valid UTF-8)."""
    if isinstance(value, int):
        return value
    text = clip(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
