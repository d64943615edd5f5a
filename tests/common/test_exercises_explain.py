"""What a check says of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.authoring.feedback_time import Feedback, as_table, main
from common.exercises.catalog import Entry
from common.exercises.explain import blocker, explain

ENTRY = Entry("5.2", 3, "Double", "Twice.", "lab5_tiny", "sums", "double", Path("sums.py"), 4)


def failed(reason: str, *, blocked_by: str = "", exception: str = "AssertionError") -> dict:
    """An exercise in the report of the tests, one of whose tests failed."""
    test = {
        "node": "tests/lab5_tiny/test_sums.py::test_two_is_four[2.0]",
        "outcome": "failed",
        "reason": reason,
        "exception": exception,
        "assertion": exception == "AssertionError",
        "where": "",
        "doc": "Why it matters.",
        "printed": "",
        "blocked_by": blocked_by,
    }
    return {"id": "5.2", "tests": [test], "broken": None}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            "expected 1, got 2\nassert np.float64(2.0) == 1.0 \u00b1 1e-6\n  \n"
            "  comparison failed\n  Obtained: 2.0\n  Expected: 1.0 \u00b1 1e-6",
            ["Found      expected 1, got 2", "Compared   2.0 == 1.0 \u00b1 1e-6", "Why        Why"],
        ),
        (
            "three\nassert 3 == 1\n +  where 3 = <tests.x.Part object at 0x7f04>.queries",
            [
                "Found      three",
                "Compared   3 == 1",
                "           +  where 3 = <Part>.queries",
                "Why",
            ],
        ),
        ("no gradient\nassert False", ["Found      no gradient", "Why        Why it matters."]),
        ("assert [1] == [2]\n  Use -v to get more diff", ["Compared   [1] == [2]", "Why"]),
        ("nothing came", ["Found      nothing came", "Why"]),
    ],
)
def test_a_failure_says_what_was_found_without_noise(reason: str, expected: list[str]) -> None:
    """What pytest says twice, options that a learner has not, and addresses are left out."""
    lines = explain(ENTRY, failed(reason), Path("/nowhere"), []).splitlines()
    shown = [line.strip() for line in lines[lines.index("  Test       two is four (2.0)") + 1 :]]
    for line, begins in zip(shown, expected, strict=False):
        assert line.startswith(begins.strip()), (line, begins)


def test_only_when_every_failure_meets_the_stub_is_an_exercise_blocked() -> None:
    both = failed("NotImplementedError: exercise 5.3: Share", blocked_by="5.3")
    assert blocker(both) == "5.3"
    both["tests"] += failed("expected 1, got 2")["tests"]
    assert blocker(both) is None
    assert blocker({"id": "5.2", "tests": [], "broken": None}) is None
    reason = "NotImplementedError: exercise 5.3: Share"
    assert blocker({"id": "5.2", "tests": [], "broken": {"reason": reason}}) == "5.3"
    assert blocker({"id": "5.3", "tests": [], "broken": {"reason": reason}}) is None


def test_times_stand_by_lab_and_number() -> None:
    found = [
        Feedback("1.1", "lab1_fsdp", 4.0, 5.0),
        Feedback("1.2", "lab1_fsdp", 6.0, 5.0),
        Feedback("7.2", "capstone", 3.0, 5.0),
    ]
    assert as_table(found).splitlines() == [
        "| exercise | lab1 | capstone |",
        "|---:|---:|---:|",
        "| .1 | 4.0 |  |",
        "| .2 | 6.0 | 3.0 |",
        "| median | 5.0 | 3.0 |",
        "| slowest | 6.0 | 3.0 |",
    ]


def test_times_of_no_lab_are_bad_input(capsys) -> None:
    assert main(["--lab", "lab9"]) == 2
    assert "'lab9' is no lab" in capsys.readouterr().err
