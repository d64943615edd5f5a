"""What comes out of a grading: results.json, JUnit XML, grades.csv, the gradebook."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from common.grading import gradebook, gradescope
from common.grading.batch import Fault
from common.grading.grades_csv import COLUMNS, as_csv
from common.grading.junit import as_junit
from common.grading.model import GradedExercise, GradedSubmission

SCHEMA = json.loads(Path(__file__).with_name("gradescope.schema.json").read_text(encoding="utf-8"))
LAB = "lab5_tiny"
HOSTILE = [
    '<script>alert("x")</script>',
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "'; DROP TABLE students; --",
    "../../etc/passwd",
    "a,b\nc",
    "\u202eabc",
    "bad\udcff",
    "\x1b[31mred\x00",
    "]]><!-- {{ 7777 * 7 }}",
]


def graded(student: str = "ada", **changed: Any) -> GradedSubmission:
    exercises = [
        GradedExercise("5.2", "Double", LAB, 3, "passed", tests={"passed": 2}, seconds=1.5),
        GradedExercise("5.3", "Shout", LAB, 2, "failed", "it is loud: got 'a'", "Expected 'A'."),
        GradedExercise("5.10", "On a GPU", LAB, 4, "not run", "needs 1 NVIDIA GPU, there is none"),
    ]
    settings: dict[str, Any] = {
        "exercises": exercises,
        "problems": ["words.py: not UTF-8"],
        "alerts": ["looked for the reference"],
        "isolation": {"network": "a namespace of its own"},
        "seconds": 3.2,
        "graded_at": "2026-11-29T12:00:00Z",
    }
    return GradedSubmission(student, LAB, **settings | changed)


def page(*grades: GradedSubmission, faults: tuple[Fault, ...] = ()) -> str:
    about = gradebook.About(LAB, "Lab 5", "2026-11-29 12:00 UTC", "3f2a91", "9c0d", "94fb2f4")
    by_folder = {f"folder{n}": each for n, each in enumerate(grades)}
    return gradebook.render(by_folder, faults, graded().exercises, about)


# --- results.json -----------------------------------------------------------------------------


def test_results_have_the_published_fields_and_no_other() -> None:
    """Gradescope shows an error instead of a grade when a field is unknown or of another type."""
    written = gradescope.results(graded())
    jsonschema.validate(written, SCHEMA)
    double, shout, gpu = written["tests"]
    assert (written["score"], double["score"], double["max_score"]) == (3, 3, 3)
    assert (double["status"], double["output"]) == ("passed", "2 tests passed")
    assert (shout["number"], shout["status"], shout["score"]) == ("5.3", "failed", 0)
    assert shout["output"] == "failed: it is loud: got 'a'\n\nExpected 'A'."
    assert (gpu["status"], gpu["score"]) == ("failed", 0)
    assert gpu["output"].startswith("not run: needs 1 NVIDIA GPU")
    assert "words.py: not UTF-8" in written["output"]
    assert "Not run, so without points: 5.10" in written["output"]


@pytest.mark.parametrize(
    "change", [{"grade": 1}, {"visibility": "public"}, {"tests": [{"status": "skipped"}]}]
)
def test_the_schema_refuses_what_is_not_published(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(gradescope.results(graded()) | change, SCHEMA)


def test_a_student_is_told_no_alert_and_nothing_of_the_confinement() -> None:
    """What the grader noticed, and how it confines, helps the next attempt to get past it."""
    written = json.dumps(gradescope.results(graded())) + as_junit([graded()])
    assert "looked for the reference" not in written
    assert "namespace" not in written


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 10**6])
def test_what_a_submission_printed_can_be_written_and_is_short(text: str) -> None:
    """One that prints without end, or signs that no UTF-8 has, must not lose the grade."""
    each = GradedExercise("5.2", "Double", LAB, 3, "failed", text, text)
    written = gradescope.results(graded(exercises=[], problems=[text]))
    written["tests"] = gradescope.as_gradescope([each], output="", seconds=0)["tests"]
    jsonschema.validate(written, SCHEMA)
    whole = json.dumps(written, ensure_ascii=False).encode("utf-8")
    assert len(whole) < 20_000
    assert json.loads(whole)["tests"][0]["output_format"] == "text"


# --- JUnit XML --------------------------------------------------------------------------------


def test_junit_has_a_suite_a_submission_and_counts_that_agree() -> None:
    """A consumer reads the totals from the attributes and the cases from below."""
    root = ElementTree.fromstring(as_junit([graded("ada"), graded("bob")]))
    assert [suite.get("name") for suite in root] == [f"{LAB}: ada", f"{LAB}: bob"]
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("6", "2", "2")
    for suite in root:
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases)) == "3"
        assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) == "1"
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped"))) == "1"
        assert cases[0].get("name") == "5.2 Double"
        assert cases[0].get("time") == "1.500"
        assert "Expected 'A'." in (suite.findtext("testcase/failure") or "")


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_stays_well_formed_whatever_a_submission_says(text: str) -> None:
    """XML cannot hold control characters, escaped or not: one of them would lose the file."""
    each = GradedExercise("5.2", text, LAB, 3, "failed", text, text)
    root = ElementTree.fromstring(as_junit([graded(text, exercises=[each], problems=[text])]))
    assert len(root.findall("testsuite/testcase/failure")) == 1
    assert len(list(root.iter())) == 8


# --- grades.csv -------------------------------------------------------------------------------


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_grades_have_the_columns_of_nbgrader_in_its_order() -> None:
    """Scripts that import nbgrader's export go by these names."""
    names = "assignment,duedate,timestamp,student_id,last_name,first_name,email,raw_score,"
    names += "late_submission_penalty,score,max_score"
    text = as_csv([graded("bob"), graded("ada")], ungraded=[("cyd", LAB)])
    assert text.splitlines()[0] == names == ",".join(COLUMNS)
    ada, bob, cyd = rows(text)
    assert (ada["assignment"], ada["student_id"], bob["student_id"]) == (LAB, "ada", "bob")
    assert (ada["raw_score"], ada["score"], ada["max_score"]) == ("3", "3", "9")
    assert (cyd["student_id"], cyd["score"], cyd["max_score"]) == ("cyd", "", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_cell_is_a_formula(name: str) -> None:
    """A spreadsheet runs a cell that begins with = + - @, also after a tab."""
    text = as_csv([graded(name)])
    text.encode("utf-8")
    (row,) = rows(text)
    for cell in row.values():
        assert not re.match(r"\s*[=+\-@\t]", cell), cell
    assert row["score"] == "3"


def test_a_student_with_two_submissions_has_one_row() -> None:
    """An import takes the last row of a student, whichever that is."""
    twice = [graded("ada", exercises=[]), graded("ada"), graded("bob")]
    found = rows(as_csv(twice))
    assert [(row["student_id"], row["score"]) for row in found] == [("ada", "3"), ("bob", "3")]


# --- the gradebook ----------------------------------------------------------------------------


class _Page(HTMLParser):
    """Tags, addresses and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("href", "src", "srcset", "data", "action"):
                self.addresses.append(value or "")
            if name == "id":
                self.anchors.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_gradebook_names_what_an_instructor_must_know() -> None:
    """Problems, alerts, what was not run, who has no grade, and how it was confined."""
    found = _Page(page(graded("ada"), faults=(Fault("cyd", "the grader ended"),))).text
    for named in ("ada", "words.py: not UTF-8", "looked for the reference", "cyd", "9c0d"):
        assert named in found, named
    for named in ("the grader ended", "a namespace of its own", "needs 1 NVIDIA GPU", "3f2a91"):
        assert named in found, named


def test_the_gradebook_needs_no_network_and_leads_only_to_what_is_there() -> None:
    """It is one file: it can be mailed, and it loads nothing that could be watched."""
    text = page(graded("ada"), graded("bob"))
    found = _Page(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert "url(" not in text
    assert "@import" not in text
    for address in found.addresses:
        inside = address.removeprefix("#") in found.anchors
        assert inside or re.fullmatch(r"folder\d/results\.json", address), address


@pytest.mark.parametrize("text", HOSTILE)
def test_the_gradebook_escapes_what_a_submission_says(text: str) -> None:
    """A student's name or message must not run in the instructor's browser, nor hide."""
    each = GradedExercise("5.2", "Double", LAB, 3, "failed", text, text)
    rest = graded().exercises[1:]
    hostile = graded(text, exercises=[each, *rest], problems=[text], alerts=[text])
    written = page(hostile, faults=(Fault(text, text),))
    written.encode("utf-8")
    assert _Page(written).tags == _Page(page(graded(), faults=(Fault("a", "b"),))).tags
    assert not re.search("[\x00\x1b\u202e]", written)
    assert "54439" not in written


def test_the_histogram_holds_every_submission_once() -> None:
    """100 % belongs to the last tenth."""
    found = gradebook.histogram([0, 9.9, 10, 55, 99.9, 100])
    assert sum(count for _, count in found) == 6
    assert (found[0], found[1], found[-1]) == (("0–9", 2), ("10–19", 1), ("90–100", 2))


def test_what_is_wrong_with_many_files_is_one_line() -> None:
    """An empty submission is one thing to read, not one for each module of the lab."""
    exercises = [
        GradedExercise(f"5.{n}", "A title", LAB, 1, "failed", f"{LAB}/m{n}.py: not handed in")
        for n in range(3)
    ]
    problems = [each.reason for each in exercises]
    about = gradebook.About(LAB, "Lab 5", "today", "3f2a91", "9c0d", "94fb2f4")
    nothing = graded("ada", exercises=exercises, problems=problems)
    found = _Page(gradebook.render({"ada": nothing}, [], exercises, about)).text
    line = "not handed in: m0.py, m1.py, m2.py"
    assert found.count(line) == 2, "once as a problem, once as what cost the points"
    assert re.search(rf"all\s*failed\s*{line}", found)


def test_a_module_left_out_is_no_problem_in_the_files() -> None:
    """Most leave some out; an instructor looks for the few whose files could not be read."""
    left = graded("ada", problems=[f"{LAB}/words.py: not handed in"])
    both = graded("bob", problems=["words.py: not UTF-8", f"{LAB}/sums.py: not handed in"])
    plain = graded("cyd", problems=[])
    found = page(left, both, plain)
    assert "<b>1</b><span>with problems in the files</span>" in found
    assert "<b>2</b><span>with a module left out</span>" in found
    assert found.count(">problem</span>") == 1, "one flag beside a name"
    assert "words.py: not handed in" in found, "it is still named"


def test_a_gradebook_of_nobody_says_so() -> None:
    """A batch that was stopped before its first grade still leaves a page."""
    assert "not graded yet" in page(faults=(Fault("ada", "not graded yet"),))
