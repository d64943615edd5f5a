"""Exercises that build on others: found in the sources, and shown to the learner as blocked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from common.exercises import progress
from common.exercises.catalog import discover
from common.exercises.cli import main
from common.exercises.prerequisites import prerequisites
from tests.common.learner_tree import write_tree

RATES = """
from common.exercises import exercise
from labs.lab5_tiny.counts import share


@exercise("5.1", points=2, title="Rates of groups", hint="Share, twice.")
def rates(groups):
    return _each(groups)


def _each(groups):
    return [share(group) for group in groups]


@exercise("5.2", points=2, title="Largest gap", hint="Largest minus smallest.")
def gap(values):
    return max(values) - min(values)


@exercise("5.4", points=2, title="Report", hint="A sentence.")
def report(values):
    if len(values) > 100:
        return str(gap(values))
    return str(values)
"""
COUNTS = """
from common.exercises import exercise


@exercise("5.3", points=2, title="Share of ones", hint="Sum over length.")
def share(values):
    return sum(values) / len(values)


class Table:
    def __init__(self, values):
        self.values = values

    def total(self):
        return sum(self.values)

    def share(self):
        return share(self.values)
"""
TESTS = '''
import pytest
from labs.lab5_tiny import counts
from labs.lab5_tiny.counts import share
from labs.lab5_tiny.rates import gap, rates, report


@pytest.fixture
def spread():
    return gap


@pytest.mark.exercise("5.1")
def test_rates():
    """The rate of a group is its share."""
    assert rates([[0, 1], [1, 1]]) == [0.5, 1.0]


@pytest.mark.exercise("5.2")
def test_the_gap():
    assert counts.Table([1, 2]).total() == 3
    assert gap([1, 4]) == 3, f"expected 3, got {gap([1, 4])}"


@pytest.mark.exercise("5.3")
def test_half():
    assert share([0, 1]) == 0.5


@pytest.mark.exercise("5.4")
def test_a_report_of_the_gap(spread):
    assert report([spread([1, 2])]) == "[1]"
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab: 5.1 calls 5.3, the test of 5.4 takes 5.2 from a fixture, 5.2 and 5.3 stand alone."""
    files = {
        "labs/lab5_tiny/__init__.py": "",
        "labs/lab5_tiny/rates.py": RATES,
        "labs/lab5_tiny/counts.py": COUNTS,
        "tests/lab5_tiny/test_rates.py": TESTS,
    }
    return write_tree(tmp_path, files, monkeypatch)


def solve(tree: Path, module: str) -> None:
    shutil.copy(tree / f"labs/lab5_tiny/{module}.py", tree / f"work/lab5_tiny/{module}.py")


def test_what_an_exercise_builds_on_is_read_from_its_code_and_its_tests(tree: Path) -> None:
    """Through a helper, through a fixture; not through a method that nothing calls.

    The share that a method of ``Table`` takes is not needed by who takes only its total.
    """
    found = prerequisites(tree, discover(tree))
    assert found == {"5.1": ["5.3"], "5.2": [], "5.3": [], "5.4": ["5.2"]}


def test_what_the_learner_wrote_counts_too(tree: Path) -> None:
    """A stub says nothing of what its solution calls; in a student's repository ours are stubs."""
    main(["start", "lab5"], tree)
    shutil.copytree(tree / "work" / "lab5_tiny", tree / "labs" / "lab5_tiny", dirs_exist_ok=True)
    entries = discover(tree)
    assert prerequisites(tree, entries)["5.1"] == []
    (tree / "work" / "lab5_tiny" / "rates.py").write_text(RATES)
    assert prerequisites(tree, entries, tree / "work")["5.1"] == ["5.3"]
    (tree / "work" / "lab5_tiny" / "rates.py").write_text("def (")
    assert prerequisites(tree, entries, tree / "work")["5.1"] == []


def test_a_check_names_the_blocker_and_goes_on(tree: Path, capsys) -> None:
    """5.1 is right but needs 5.3: no failure of its own. The first real failure is explained."""
    main(["start", "lab5"], tree)
    solve(tree, "rates")
    capsys.readouterr()
    assert main(["check", "lab5"], tree) == 1
    out = capsys.readouterr().out
    for line in (
        "blocked    5.1  Rates of groups; blocked by 5.3 (Share of ones)",
        "passed     5.2  Largest gap",
        "failed     5.3  Share of ones",
        "not run    5.4  Report (5.3 comes first)",
        "Exercise 5.3: Share of ones",
    ):
        assert line in out, out
    assert "Exercise 5.1" not in out


def test_a_check_of_one_blocked_exercise_says_what_to_do_first(tree: Path, capsys) -> None:
    main(["start", "lab5"], tree)
    solve(tree, "rates")
    assert main(["check", "lab5", "5.1"], tree) == 1
    out = capsys.readouterr().out
    assert "Blocked by 5.3 (Share of ones): not solved yet, and this needs it" in out
    assert "Next       course check lab5 5.3" in out
    assert "Hint" not in out

    solve(tree, "counts")
    assert main(["check", "lab5", "5.3"], tree) == 0
    rows = {row.entry.id: row.text for row in progress.rows(tree, discover(tree), tree / "work")}
    assert rows["5.1"] == "not checked", "what it waited for has passed"


def test_a_blocker_that_was_not_begun_is_named_too(
    tree: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a student's repository our modules are stubs: without a file of one's own they are met."""
    main(["start", "lab5", "5.1"], tree)
    entries, work = discover(tree), tree / "work"
    assert progress.rows(tree, entries, work)[0].text == "not checked", "our 5.3 is used"
    monkeypatch.setattr(progress, "in_student_repository", lambda: True)
    rows = progress.rows(tree, entries, work)
    assert rows[0].text == "blocked by 5.3 (Share of ones)"
    monkeypatch.undo()
    progress.record(work, {"5.2": "failed"}, {}, {"5.2": "5.3"})
    rows = progress.rows(tree, entries, work)
    assert rows[1].text == "blocked by 5.3 (Share of ones)", "its last check met the stub"


def test_a_failure_names_the_exercise_that_may_be_its_cause(tree: Path, capsys) -> None:
    """5.3 is wrong, not missing: what 5.1 gives is its own failure as far as one can see."""
    main(["start", "lab5"], tree)
    solve(tree, "rates")
    file = tree / "work" / "lab5_tiny" / "counts.py"
    file.write_text(COUNTS.replace("sum(values) / len(values)", "0.0"))
    assert main(["check", "lab5", "5.1"], tree) == 1
    out = capsys.readouterr().out
    assert "failed     5.1" in out
    assert "Builds on  5.3 (Share of ones), not passed yet: it may be the cause" in out
    assert "Compared   [0.0, 0.0] == [0.5, 1.0]" in out


def test_progress_shows_what_is_blocked_and_what_comes_next(tree: Path, capsys) -> None:
    assert main(["progress"], tree) == 0
    assert "next: course start lab5" in capsys.readouterr().out
    main(["start", "lab5"], tree)
    entries, work = discover(tree), tree / "work"
    rows = {row.entry.id: row.text for row in progress.rows(tree, entries, work)}
    assert rows == {
        "5.1": "blocked by 5.3 (Share of ones)",
        "5.2": "not checked",
        "5.3": "not checked",
        "5.4": "blocked by 5.2 (Largest gap)",
    }
    capsys.readouterr()
    assert main(["progress"], tree) == 0
    out = capsys.readouterr().out
    assert "blocked by 5.3" in out
    assert out.endswith("next: course check lab5 5.2\n")


def test_next_stays_in_the_lab_that_was_checked_last(tree: Path) -> None:
    for lab in ("lab5_tiny", "lab6_other"):
        text = COUNTS.replace("5.3", "6.1").replace("share", "other")
        file = tree / "labs" / "lab6_other" / "others.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        main(["start", lab], tree)
    entries, work = discover(tree), tree / "work"
    rows = progress.rows(tree, entries, work)
    assert progress.next_command(rows, {}) == "course check lab5 5.2"
    state = {"6.1": {"outcome": "failed", "checked_at": "2026-01-02T00:00:00Z"}}
    assert progress.next_command(rows, state) == "course check lab6 6.1"
    done = [progress.Row(row.entry, "passed") for row in rows]
    assert progress.next_command(done, state) is None


def write_run(tree: Path) -> None:
    results = tree / "runs" / "lab5_tiny" / "latest" / "results.json"
    results.parent.mkdir(parents=True)
    rows = [
        {"claim": "p99 < 10 ms", "measured": 2.5, "passed": True, "reason": ""},
        {"claim": "10M <vectors>", "measured": None, "passed": None, "reason": "too few"},
    ]
    results.write_text(json.dumps({"lab": "lab5_tiny", "mine": True, "deliverables": rows}))


def test_the_page_holds_exercises_and_deliverables_and_loads_nothing(tree: Path, capsys) -> None:
    main(["start", "lab5"], tree)
    write_run(tree)
    file = tree / "progress.html"
    assert main(["progress", "--html", str(file)], tree) == 0
    page = file.read_text(encoding="utf-8")
    for text in (
        "blocked by 5.3 (Share of ones)",
        "course check lab5 5.2",
        "0 of 8",
        "2.5",
        "10M &lt;vectors&gt;",
        "too few",
        "your code",
        "@media print",
    ):
        assert text in page, text
    assert "http" not in page
    assert "src=" not in page


def test_the_page_replaces_only_an_earlier_page(tree: Path, capsys) -> None:
    file = tree / "progress.html"
    assert main(["progress", "--html", str(file)], tree) == 0
    assert main(["progress", "--html", str(file)], tree) == 0
    file.write_text("<html>my notes</html>")
    assert main(["progress", "--html", str(file)], tree) == 2
    assert file.read_text() == "<html>my notes</html>"
    assert "name another file" in capsys.readouterr().err
    assert main(["progress", "--html", str(tree / "no" / "page.html")], tree) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["progress", "--html", str(tree / "labs")], tree) == 2
