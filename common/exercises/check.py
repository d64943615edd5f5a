"""``course check``: run the tests of a lab on the learner's code and explain the first failure."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import EXIT_FAILED, EXIT_OK, InputError
from common.exercises import progress
from common.exercises.catalog import Entry, discover_tests, locate, read_source, sentence
from common.exercises.grading import FAILED, NOT_RUN, PASSED, first_line

TIMEOUT_S = 60
POLL_S = 0.5
MESSAGE_LINES = 14
LABEL = 11
WIDTH = 84


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
    """Check exercises of one lab in order, stop at the first failure, remember what passed."""
    if not any(entry.work_file(work).is_file() for entry in entries):
        raise InputError(
            f"there is no {entries[0].work_file(work)}; begin with `course start {_short(lab)}`"
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
    progress.record(work, {key: each["outcome"] for key, each in graded.items()}, sources)

    stopped: Entry | None = None
    for entry in entries:
        each = graded[entry.id]
        outcome = each["outcome"]
        reason = each["reason"] if outcome == NOT_RUN else ""
        if stopped:
            outcome, reason = NOT_RUN, f"{stopped.id} comes first"
        print(f"  {outcome:<8} {entry.id:>5}  {entry.title}" + (f" ({reason})" if reason else ""))
        broken = each["broken"] is not None and each["broken"]["outcome"] == FAILED
        if stopped is None and (outcome == FAILED or broken):
            stopped = entry
    if stopped:
        print(_explain(stopped, graded[stopped.id], work))
        return EXIT_FAILED
    passed = [entry for entry in entries if graded[entry.id]["outcome"] == PASSED]
    points = sum(entry.points for entry in passed)
    if len(passed) < len(entries):
        print(f"\n{len(passed)} of {len(entries)} passed ({points} points), the others did not run")
        return EXIT_FAILED
    print(f"\nall public tests passed: {len(passed)} exercise(s), {points} points")
    return EXIT_OK


def watch(root: Path, work: Path, lab: str, entries: list[Entry]) -> int:
    """Check, and again on every save, until Ctrl-C."""
    try:
        while True:
            before = _saved(work / lab)
            check(root, work, lab, entries)
            print("\nwatching for the next save, Ctrl-C ends", flush=True)
            while _saved(work / lab) == before:
                time.sleep(POLL_S)
            print("\n" + "-" * 72)
    except KeyboardInterrupt:
        print("\nstopped watching", flush=True)
        return EXIT_OK


def _saved(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of each file; one that an editor is just replacing is seen at the next poll."""
    found = {}
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


def _explain(entry: Entry, graded: dict[str, Any], work: Path) -> str:
    """Which test failed, what was expected, why it matters, where to look, and the hint."""
    test = next((test for test in graded["tests"] if test["outcome"] == FAILED), None)
    found = test or graded["broken"]
    message, where = found["reason"], found["where"]
    if test is None and (syntax := _syntax_error(work / entry.lab)):
        message, where = syntax
    file = entry.work_file(work)
    lines = ["", f"Exercise {entry.id}: {entry.title}"]
    lines.append(
        _row("Test", sentence(test["node"]) if test else "the tests cannot import your code")
    )
    if found["exception"] == "NotImplementedError" and message.startswith(
        "NotImplementedError: ex"
    ):
        lines.append(
            _row("Not done", f"{first_line(message).partition(': ')[2]} is still the stub")
        )
    else:
        lines.append(_row("Expected" if found.get("assertion") else "Error", message))
    if test and test["doc"]:
        lines.append(_row("Why", test["doc"]))
    if test and test["printed"]:
        lines.append(_row("Printed", test["printed"]))
    lines.append(_row("Your code", f"{_show(str(file))}:{_line(file, entry.name)} ({entry.name})"))
    if where:
        lines.append(_row("Raised at", _show(where)))
    lines.append(_row("Hint", f"course hint {entry.id}"))
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    shown = [
        piece
        for line in text.splitlines()
        for piece in (textwrap.wrap(line, WIDTH) if label == "Why" else [line.rstrip()])
    ] or [""]
    if len(shown) > MESSAGE_LINES:
        shown = [*shown[:MESSAGE_LINES], f"... {len(shown) - MESSAGE_LINES} more lines"]
    pad = " " * (LABEL + 2)
    return f"  {label:<{LABEL}}" + ("\n" + pad).join(shown)


def _show(place: str) -> str:
    """A path as short as it can be written from here."""
    here = str(Path.cwd()) + os.sep
    return place.removeprefix(here)


def _line(file: Path, name: str) -> int:
    """Where the learner's definition stands, found by its text when the file does not parse."""
    if not file.is_file():
        return 1
    source = read_source(file)
    try:
        node = locate(source, name)
        return node.lineno if node else 1
    except SyntaxError:
        opening = re.compile(rf"\s*(async\s+def|def|class)\s+{name.rpartition('.')[2]}\b")
        lines = enumerate(source.splitlines(), start=1)
        return next((number for number, line in lines if opening.match(line)), 1)


def _syntax_error(folder: Path) -> tuple[str, str] | None:
    """Message with the offending line, and ``file:line``, of the first file that does not parse."""
    for file in sorted(folder.glob("*.py")):
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except SyntaxError as error:
            place = f"{file}:{error.lineno}"
            message = f"{_show(place)}: {error.msg}"
            text = (error.text or "").rstrip("\n")
            if text:
                caret = " " * max(0, (error.offset or 1) - 1) + "^"
                message += f"\n    {text}\n    {caret}"
            return message, place
    return None
