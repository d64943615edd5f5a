"""``course check``: run the tests of a lab on the learner's code and explain the first failure."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import EXIT_FAILED, EXIT_OK, InputError
from common.exercises import progress
from common.exercises.catalog import Entry, discover, discover_tests
from common.exercises.explain import MESSAGE_LINES, blocker, explain, named, short
from common.exercises.grading import FAILED, NOT_RUN, PASSED

TIMEOUT_S = 60
POLL_S = 0.5


def run_tests(
    root: Path, work: Path, lab: str, *, exercises: Sequence[str] = (), stop: bool = True
) -> dict[str, Any]:
    """Run the tests of a lab's exercises in a process of their own, on the code in ``work``.

    Returns
    -------
    dict
        The JSON of ``--exercise-report`` with ``status`` (pytest's) and ``output`` added;
        ``exercises`` is empty when the process ended before it could report.
    """
    from common.process import supervised

    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        report, log = Path(folder, "report.json"), Path(folder, "output.txt")
        command = [sys.executable, "-m", "pytest"]
        command += pytest_arguments(root, lab, report, exercises=exercises, stop=stop)
        with supervised(command, log=log, env=environment(work), cwd=root, name="pytest") as child:
            status = child.wait()
        return written_report(report, log, status)


def environment(work: Path) -> dict[str, str]:
    """Environment of a pytest that grades the code in ``work``."""
    env = {**os.environ, "LABS_WORK": str(work), "PYTHONUNBUFFERED": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    return env


def written_report(report: Path, log: Path, status: int) -> dict[str, Any]:
    """What pytest reported, as :func:`run_tests` returns it."""
    written: dict[str, Any] = {"exercises": [], "broken": []}
    if report.is_file():
        written = json.loads(report.read_text(encoding="utf-8"))
    output = log.read_text(encoding="utf-8", errors="replace")
    return {**written, "status": status, "output": output}


def pytest_arguments(
    root: Path, lab: str, report: Path, *, exercises: Sequence[str] = (), stop: bool = True
) -> list[str]:
    """How pytest is called to grade exercises of a lab (all of them when none is named).

    It gets only the files that hold their tests: to import the others takes longer than to run most
    exercises.
    """
    files = {
        test.node.partition("::")[0]
        for test in discover_tests(root, lab)
        if not exercises or test.exercise in exercises
    }
    arguments = [*(sorted(files) or [f"tests/{lab}"]), "-m", "exercise", "-q"]
    # The plugin of schemathesis takes a second to import, and no exercise asks for it.
    arguments += ["-p", "no:cacheprovider", "-p", "no:schemathesis"]
    arguments += ["--continue-on-collection-errors"]
    arguments += ["-o", f"timeout={TIMEOUT_S}", "--exercise-report", str(report)]
    arguments += ["--exercise-stop"] if stop else []
    for exercise in exercises:
        arguments += ["--exercise", exercise]
    return arguments


def check(root: Path, work: Path, lab: str, entries: list[Entry]) -> int:
    """Check exercises of one lab in order, stop at the first failure, remember what passed.

    One that only waits for another's stub is blocked: it is no failure, and the check goes on.
    """
    if not any(entry.work_file(work).is_file() for entry in entries):
        raise InputError(
            f"there is no {entries[0].work_file(work)}; begin with `course start {short(lab)}`"
        )
    if not (root / "tests" / lab).is_dir():
        raise InputError(f"there is no {root / 'tests' / lab}: nothing to check {lab} with")
    progress.load(work)
    sources = progress.fingerprints(entries, work)
    print(f"{lab}: checking {work / lab}", flush=True)
    written = run_tests(root, work, lab, exercises=[entry.id for entry in entries])
    graded = {each["id"]: each for each in written["exercises"]}
    if not graded:
        tail = "\n".join(written["output"].rstrip().splitlines()[-MESSAGE_LINES:])
        print(f"{tail}\n\nnot run: the tests ended with status {written['status']} and no report")
        return EXIT_FAILED
    waits = {key: other for key, each in graded.items() if (other := blocker(each))}
    outcomes = {key: each["outcome"] for key, each in graded.items()}
    progress.record(work, outcomes, sources, waits)
    passed = [entry for entry in entries if outcomes[entry.id] == PASSED]
    points = sum(entry.points for entry in passed)
    if len(passed) == len(entries):
        print("\n".join(_row(entry, PASSED) for entry in entries))
        print(f"\nall public tests passed: {len(passed)} exercise(s), {points} points")
        return EXIT_OK
    shown, blocked_by, before = _show_outcomes(root, work, entries, graded, waits)
    if shown:
        tests = discover_tests(root, lab)
        failure = graded[shown.id]
        print(explain(shown, failure, work, tests, blocked_by=blocked_by, builds_on=before))
    else:
        print(f"\n{len(passed)} of {len(entries)} passed ({points} points), the others did not run")
    return EXIT_FAILED


def _show_outcomes(
    root: Path,
    work: Path,
    entries: list[Entry],
    graded: dict[str, dict[str, Any]],
    waits: dict[str, str],
) -> tuple[Entry | None, Entry | None, Entry | None]:
    """Print a line for each exercise.

    Returns
    -------
    tuple
        The exercise to explain (the first that failed, else the first that met another's stub),
        the one whose stub it met, and the one to pass before it.
    """
    everything = discover(root)
    by_id = {entry.id: entry for entry in everything}
    own = [entry for entry in everything if entry.lab == entries[0].lab]
    before = {row.entry.id: row.blocked_by for row in progress.rows(root, own, work)}
    met = {key: by_id[other] for key, other in waits.items() if other in by_id}
    stopped: Entry | None = None
    for entry in entries:
        each = graded[entry.id]
        outcome, told = each["outcome"], each["reason"] if each["outcome"] == NOT_RUN else ""
        blocked_by = met.get(entry.id)
        if stopped:
            outcome, told, blocked_by = NOT_RUN, f"{stopped.id} comes first", before[entry.id]
        print(_row(entry, outcome, told, blocked_by))
        broken = each["broken"] is not None and each["broken"]["outcome"] == FAILED
        if not stopped and not blocked_by and (outcome == FAILED or broken):
            stopped = entry
    shown = stopped or next((entry for entry in entries if entry.id in met), None)
    return (shown, met.get(shown.id), before[shown.id]) if shown else (None, None, None)


def _row(entry: Entry, outcome: str, told: str = "", blocked_by: Entry | None = None) -> str:
    if blocked_by:
        outcome, told = "blocked", ""
    row = f"  {outcome:<8} {entry.id:>5}  {entry.title}" + (f" ({told})" if told else "")
    return row + (f"; blocked by {named(blocked_by)}" if blocked_by else "")


def watch(root: Path, work: Path, lab: str, entries: list[Entry]) -> int:
    """Check, and again on every save, until Ctrl-C. A file that cannot be read ends nothing."""
    try:
        before = _saved(work / lab)
        check(root, work, lab, entries)
        while True:
            print("\nwatching for the next save, Ctrl-C ends", flush=True)
            while (now := _saved(work / lab)) == before:
                time.sleep(POLL_S)
            print("\n" + "-" * 72)
            before = now
            try:
                check(root, work, lab, entries)
            except InputError as error:
                print(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped watching", flush=True)
        return EXIT_OK


def _saved(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of each file; one that an editor is just replacing is seen at the next poll."""
    found: dict[str, tuple[int, int]] = {}
    if not folder.is_dir():
        return found
    for file in os.scandir(folder):
        if file.name.endswith(".py"):
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            found[file.name] = (stat.st_mtime_ns, stat.st_size)
    return found


def _short(lab: str) -> str:
    return lab.partition("_")[0]
