"""Every stub, reference and wrong solution, run: by ``tests/test_every_exercise.py`` alone.

That file is the one implementation; CI runs it as a test, and ``course verify`` calls it and reads
its report.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.authoring.model import Check, ExerciseRecord
from common.errors import InputError
from common.exercises.catalog import Entry, wrong_solutions

FILE = "tests/test_every_exercise.py"
STUB = "test_every_stub_fails_by_name"
REFERENCE = "test_every_reference_passes_as_a_learners_file"
WRONG = "test_every_wrong_solution_is_caught"
PERCENT = re.compile(r"\[ *(\d+)%\]")
POLL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What one test of that file did: ``fault`` is empty when it passed."""

    fault: str
    seconds: float


def run_every_exercise(
    root: Path, labs: Sequence[str], entries: Sequence[Entry], jobs: int, say: Callable[[str], None]
) -> dict[str, Outcome]:
    """Run the stubs, references and wrong solutions of labs; outcomes by test, without its file.

    Raises
    ------
    InputError
        When the repository has no such tests: a student's repository has none.
    """
    from common.process import supervised

    if not (root / FILE).is_file():
        raise InputError(f"there is no {root / FILE}; `course verify --fast` needs no tests")
    nodes = [f"{FILE}::{name}[{lab}]" for lab in labs for name in (STUB, REFERENCE)]
    nodes += [f"{FILE}::{each}" for each in wrong_tests(root, labs, entries)]
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        report, log = Path(folder, "report.xml"), Path(folder, "output.txt")
        listed = Path(folder, "nodes.txt")
        listed.write_text("\n".join(nodes), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-n", str(jobs), "--dist", "load"] if jobs > 1 else []
        command += [f"--junitxml={report}", f"@{listed}"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        with supervised(command, log=log, cwd=root, env=environment, name="pytest") as child:
            while child.poll() is None:
                time.sleep(POLL_S)
                if found := PERCENT.findall(log.read_text(encoding="utf-8", errors="replace")):
                    say(f"{found[-1]} % of {len(nodes)} runs")
            tail = child.tail()
        if not report.is_file():
            raise InputError(f"the tests of {FILE} did not run: {tail}")
        return read_report(report.read_text(encoding="utf-8"))


def wrong_tests(root: Path, labs: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """The tests of the wrong solutions of labs, as pytest names them."""
    return [
        f"{WRONG}[{entry.id}-{file.stem}]"
        for entry in entries
        if entry.lab in labs
        for file in wrong_solutions(root, entry)
    ]


def read_report(text: str) -> dict[str, Outcome]:
    """Outcomes by test from pytest's JUnit XML; one that was skipped is a fault."""
    found: dict[str, Outcome] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        message = (bad[0].get("message") or bad[0].tag).strip().splitlines()[0] if bad else ""
        found[case.get("name", "")] = Outcome(message, float(case.get("time", 0)))
    return found


def check_outcomes(
    root: Path,
    labs: Sequence[str],
    entries: Sequence[Entry],
    outcomes: dict[str, Outcome],
    records: Sequence[ExerciseRecord],
) -> list[Check]:
    """Judge what ran, and note in the records how many wrong solutions were killed, in what time.

    A test that should have run and did not is a fault.
    """
    stubs = Check("stubs", "run: every stub fails with its own name")
    references = Check("references", "run: every reference passes as a learner's file")
    wrong = Check("wrong solutions", "run: a test rejects each by an assertion")
    missing = Outcome("its test did not run", 0.0)
    for lab in labs:
        exercises = sum(entry.lab == lab for entry in entries)
        for check, name in ((stubs, STUB), (references, REFERENCE)):
            check.counted += exercises
            found = outcomes.get(f"{name}[{lab}]", missing)
            check.seconds += found.seconds
            if found.fault:
                check.fault(lab, found.fault)
    by_id = {record.id: record for record in records}
    for test in wrong_tests(root, labs, entries):
        exercise, _, file = test.removeprefix(f"{WRONG}[").removesuffix("]").partition("-")
        found = outcomes.get(test, missing)
        record = by_id[exercise]
        record.killed = (record.killed or 0) + (not found.fault)
        record.seconds[file] = found.seconds
        wrong.counted += 1
        wrong.seconds += found.seconds
        if found.fault:
            wrong.fault(f"{exercise} {file}", found.fault)
    return [stubs, references, wrong]
