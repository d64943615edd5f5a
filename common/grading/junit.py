"""JUnit XML: one test suite a submission, one test case an exercise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from common.grading.gradescope import explain
from common.grading.model import GradedExercise, GradedSubmission
from common.grading.text import clip

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped (section 2.2, Char)."""


def as_junit(submissions: Sequence[GradedSubmission]) -> str:
    """The XML document. A failed exercise is a failure; one that was not run is skipped."""
    suites = ElementTree.Element(
        "testsuites", _counts([s for g in submissions for s in g.exercises])
    )
    for graded in submissions:
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            {
                "name": _legal(f"{graded.lab}: {graded.student}"),
                **_counts(graded.exercises),
                "time": f"{graded.seconds:.3f}",
                "timestamp": graded.graded_at.removesuffix("Z"),
            },
        )
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in (("score", graded.score), ("max_score", graded.max_score)):
            ElementTree.SubElement(properties, "property", {"name": name, "value": str(value)})
        for each in graded.exercises:
            _case(suite, each)
        if graded.problems:
            out = ElementTree.SubElement(suite, "system-out")
            out.text = _legal(clip("\n".join(graded.problems)))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _case(suite: ElementTree.Element, each: GradedExercise) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": each.lab,
            "name": _legal(f"{each.id} {each.title}"),
            "time": f"{each.seconds:.3f}",
        },
    )
    if each.status == "passed":
        return
    kind = "skipped" if each.status == "not run" else "failure"
    found = ElementTree.SubElement(case, kind, {"message": _legal(clip(each.reason, 300))})
    if kind == "failure":
        found.text = _legal(clip(explain(each)))


def _counts(exercises: Sequence[GradedExercise]) -> dict[str, str]:
    status = [each.status for each in exercises]
    return {
        "tests": str(len(status)),
        "failures": str(status.count("failed")),
        "errors": "0",
        "skipped": str(status.count("not run")),
    }


def _legal(text: str) -> str:
    return ILLEGAL.sub("\ufffd", text)
