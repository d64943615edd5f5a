"""What ``course check`` says of a failure: which test, what came out, why it matters, where."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.exercises.catalog import Entry, ExerciseTest, locate, read_source, sentence
from common.exercises.grading import FAILED, first_line
from common.exercises.unsolved import PRINTED

MESSAGE_LINES = 14
LABEL = 11
WIDTH = 84
NOISE = re.compile(r"\s*(Use -v to get more diff|comparison failed|(Obtained|Expected): .*)?")
"""Lines of pytest that repeat its first one, or speak of options that a learner has not."""
ADDRESS = re.compile(r"<(?:[\w.]*\.)?(\w+) object at 0x[0-9a-f]+>")
SCALAR = re.compile(r"np\.\w+\((-?[\w.+-]+)\)")


def blocker(graded: dict[str, Any]) -> str | None:
    """The other exercise whose stub every failure of this one comes from."""
    failed = [test for test in graded["tests"] if test["outcome"] == FAILED]
    if failed:
        return failed[0]["blocked_by"] if all(test["blocked_by"] for test in failed) else None
    broken = graded["broken"]
    found = PRINTED.match(broken["reason"]) if broken else None
    return found[1] if found and found[1] != graded["id"] else None


def named(entry: Entry) -> str:
    """An exercise as a learner is told of it: ``2.3 (Train a product quantizer)``."""
    return f"{entry.id} ({entry.title})"


def short(lab: str) -> str:
    """A lab as it is typed: ``lab5`` of ``lab5_distillation``."""
    return lab.partition("_")[0]


def check_command(entry: Entry) -> str:
    """The command that checks one exercise."""
    return f"course check {short(entry.lab)} {entry.id}"


def explain(
    entry: Entry,
    graded: dict[str, Any],
    work: Path,
    tests: Iterable[ExerciseTest],
    *,
    blocked_by: Entry | None = None,
    builds_on: Entry | None = None,
) -> str:
    """One failing test, what came out of it, why it matters, where to look, and the next step.

    Parameters
    ----------
    graded
        The exercise's part of ``--exercise-report``.
    tests
        The tests of its lab.
    blocked_by
        The unsolved exercise that the failure comes from.
    builds_on
        An exercise that this one builds on and that has not passed: it may be the cause.
    """
    test = next((test for test in graded["tests"] if test["outcome"] == FAILED), None)
    found = test or graded["broken"]
    message, where = found["reason"], found["where"]
    if test is None and (syntax := _syntax_error(work / entry.lab)):
        message, where = syntax
    file = entry.work_file(work)
    rows = [("Test", _test(test["node"], tests) if test else "the tests cannot import your code")]
    if blocked_by:
        rows.append(("Blocked by", f"{named(blocked_by)}: not solved yet, and this needs it"))
    elif f"NotImplementedError: exercise {entry.id}: " in first_line(message):
        rows.append(("Not done", f"exercise {entry.id}: {entry.title} is still the stub"))
        where = ""
    else:
        rows += _result(message) if found.get("assertion") else [("Error", message)]
    if builds_on and not blocked_by:
        rows.append(("Builds on", f"{named(builds_on)}, not passed yet: it may be the cause"))
    if test and test["doc"] and not blocked_by:
        rows.append(("Why", _wrapped(test["doc"])))
    if test and test["printed"] and not blocked_by:
        rows.append(("Printed", test["printed"]))
    if blocked_by:
        rows.append(("Next", check_command(blocked_by)))
    else:
        rows.append(("Your code", f"{_show(str(file))}:{_line(file, entry.name)} ({entry.name})"))
        if where:
            rows.append(("Raised at", _show(where)))
        rows.append(("Hint", f"course hint {entry.id}"))
    return "\n".join(["", f"Exercise {entry.id}: {entry.title}", *(_row(*row) for row in rows)])


def _test(node: str, tests: Iterable[ExerciseTest]) -> str:
    """The test's name as a sentence, and below it where it stands."""
    base = node.partition("[")[0]
    places = [f"{base.partition('::')[0]}:{each.line}" for each in tests if each.node == base]
    return "\n".join([sentence(node), *places])


def _result(reason: str) -> list[tuple[str, str]]:
    """What an assertion's message says was found, and the comparison as pytest saw it."""
    lines = reason.splitlines()
    at = next((at for at, line in enumerate(lines) if line.startswith("assert ")), len(lines))
    told = "\n".join(_wrapped(line) for line in lines[:at])
    compared = [_plain(line) for line in lines[at:] if not NOISE.fullmatch(line)]
    if compared:
        compared[0] = compared[0].removeprefix("assert ")
        if told and compared[0] in ("False", "not True"):
            compared = compared[1:]
    compared = [*compared[:1], *textwrap.dedent("\n".join(compared[1:])).splitlines()]
    rows = [("Found", told), ("Compared", "\n".join(compared).strip().removeprefix("+  "))]
    return [row for row in rows if row[1].strip()] or [("Found", reason)]


def _plain(line: str) -> str:
    return SCALAR.sub(r"\1", ADDRESS.sub(r"<\1>", line))


def _wrapped(line: str) -> str:
    """A line of prose in the width of the answer; one that is set out in columns as it stands."""
    if line.startswith(" "):
        return line
    return "\n".join(textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False))


def _row(label: str, text: str) -> str:
    shown = [line.rstrip() for line in text.splitlines()] or [""]
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
