"""Every exercise of every lab: its stub fails, our solution passes, each wrong solution is caught.

One process a lab for the stubs, one for our solutions, as ``course check`` starts it. One for each
wrong solution, and for a stub that an earlier one hides, forked from a server that has imported the
libraries. That an exercise has tests, wrong solutions and a place in its lesson is a matter of
``course verify``.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import pytest

from common.authoring.feedback_time import LIMIT_S, measure
from common.exercises import check
from common.exercises.catalog import (
    CatalogError,
    Entry,
    discover,
    discover_tests,
    find_root,
    lab_folders,
    wrong_solutions,
)
from common.exercises.check import environment, pytest_arguments, run_tests, written_report
from common.exercises.start import start
from common.exercises.stubs import splice, stub
from tests.fork_server import forked

ROOT = find_root()
LABS = [folder.name for folder in lab_folders(ROOT)]
read_tests = cache(discover_tests)


@cache
def entries() -> list[Entry]:
    try:
        return discover(ROOT)
    except CatalogError:
        return []  # test_the_catalog_is_sound says what is wrong with it


def of_lab(lab: str) -> list[Entry]:
    return [entry for entry in entries() if entry.lab == lab]


EXERCISES = [pytest.param(entry, id=entry.id) for entry in entries()]
WRONG = [
    pytest.param(entry, file, id=f"{entry.id}-{file.stem}")
    for entry in entries()
    for file in wrong_solutions(ROOT, entry)
]


@pytest.fixture(autouse=True)
def _no_work_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test files do not change meanwhile, and nobody reads the smallest failing example."""
    monkeypatch.setattr(check, "discover_tests", read_tests)
    monkeypatch.setenv("LABS_NO_SHRINK", "1")


def graded(work: Path, lab: str, *exercises: str) -> dict[str, dict]:
    written = run_tests(ROOT, work, lab, exercises=exercises, stop=False)
    assert written["exercises"], written["output"]
    return {each["id"]: each for each in written["exercises"]}


def graded_in_a_fork(server: Path, work: Path, entry: Entry, folder: Path, *, stop: bool) -> dict:
    """The grade of one exercise, as :func:`run_tests` finds it, without a cold start of Python."""
    report, log = folder / "report.json", folder / "output.txt"
    arguments = pytest_arguments(ROOT, entry.lab, report, exercises=[entry.id], stop=stop)
    command = ["-m", "pytest", *arguments, "--tb=native"]  # nobody reads the lines of the source
    with forked(command, server=server, log=log, env=environment(work)) as child:
        status = child.wait()
    written = written_report(report, log, status)
    assert written["exercises"], written["output"]
    (grade,) = written["exercises"]
    return grade


def names_itself(entry: Entry, grade: dict) -> bool:
    """Whether a test failed with the NotImplementedError of this exercise's stub."""
    named = f"NotImplementedError: exercise {entry.id}: {entry.title}"
    return any(named in test["reason"] for test in grade["tests"] if test["outcome"] == "failed")


def test_the_catalog_is_sound() -> None:
    """Every marker has an id of its own lab, a title, points and a hint."""
    discover(ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("lab", [lab for lab in LABS if of_lab(lab)])
def test_every_stub_fails_by_name(lab: str, tmp_path: Path, server: Path) -> None:
    start(of_lab(lab), tmp_path)
    found = graded(tmp_path, lab)
    for entry in of_lab(lab):
        grade = found[entry.id]
        assert grade["outcome"] == "failed", f"{entry.id}: {grade['outcome']}: {grade['reason']}"
        if not names_itself(entry, grade):
            # Its tests meet an earlier stub first; with only its own stub they must name it.
            alone = tmp_path / f"only-{entry.id}"
            file = entry.work_file(alone)
            file.parent.mkdir(parents=True)
            reference = entry.file.read_text(encoding="utf-8")
            only = splice(reference, entry.name, stub(reference), keep_decorators=False)
            file.write_text(only, encoding="utf-8")
            grade = graded_in_a_fork(server, alone, entry, alone, stop=False)
            assert names_itself(entry, grade), [test["reason"] for test in grade["tests"]]


@pytest.mark.slow
@pytest.mark.parametrize("lab", [lab for lab in LABS if of_lab(lab)])
def test_every_reference_passes_as_a_learners_file(lab: str, tmp_path: Path, server: Path) -> None:
    """And a learner waits less than ten seconds for each: a cold start and the exercise's tests.

    The start is what this run takes beside the tests. On a machine that does other work meanwhile
    the slowest exercise may seem too slow; then it is checked once more by itself, and its seconds
    of CPU may stand for those on the clock.
    """
    for entry in of_lab(lab):
        file = entry.work_file(tmp_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(entry.file.read_bytes())
    began = time.monotonic()
    found = graded(tmp_path, lab)
    whole = time.monotonic() - began
    not_passed = {key: each["reason"] for key, each in found.items() if each["outcome"] != "passed"}
    assert not_passed == {}
    assert set(found) == {entry.id for entry in of_lab(lab)}
    seconds = {key: sum(test["seconds"] for test in each["tests"]) for key, each in found.items()}
    slowest = max(of_lab(lab), key=lambda entry: seconds[entry.id])
    assert seconds[slowest.id] < LIMIT_S, seconds
    if whole - sum(seconds.values()) + seconds[slowest.id] >= LIMIT_S:
        alone = measure(ROOT, slowest, tmp_path, tmp_path / "log.txt")
        assert min(alone.seconds, alone.cpu_s) < LIMIT_S, (alone, seconds)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "wrong"), WRONG)
def test_every_wrong_solution_is_caught(
    entry: Entry, wrong: Path, tmp_path: Path, server: Path
) -> None:
    work = tmp_path / "work"
    file = entry.work_file(work)
    file.parent.mkdir(parents=True)
    reference = entry.file.read_text(encoding="utf-8")
    mistaken = splice(reference, entry.name, wrong.read_text(encoding="utf-8"))
    file.write_text(mistaken, encoding="utf-8")
    # One test that rejects it is enough; the first to fail may have crashed, so then all run.
    for stop in (True, False):
        grade = graded_in_a_fork(server, work, entry, tmp_path, stop=stop)
        failed = [test for test in grade["tests"] if test["outcome"] == "failed"]
        by_assertion = [test["node"] for test in failed if test["assertion"]]
        if by_assertion or not failed:
            break
    assert grade["broken"] is None, grade["broken"]
    assert failed, f"{wrong.name} passes the tests of {entry.id}: {grade['reason']}"
    assert by_assertion, [(test["node"], test["reason"]) for test in failed]
