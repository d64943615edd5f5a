"""Grade a capstone submission against its rubric: ``python -m capstone.rubric RUN``.

RUN is a finished run's folder (``results.json`` and the files beside it), with the learner's
``DECISION.md`` in it. Every criterion is checked on evidence that the run measured: a row of the
scorecard, a metric with its limit, a file, exercises passed, or figures that the decision quotes
and that must be the run's own. Nothing is graded by opinion; what was not measured gives no points
and says why.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, require
from common.results import OPERATORS, Op

RUBRIC = Path(__file__).with_name("rubric.toml")
DECISION = "DECISION.md"
Kind = Literal["deliverable", "metric", "file", "exercises", "decision", "quoted"]
QUOTED = re.compile(r"`([a-z0-9_]+(?:\.[a-z0-9_]+)+)`\s*[:=]\s*(-?\d[\d,]*\.?\d*(?:e-?\d+)?)", re.I)
HEADING = re.compile(r"^#+\s+(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Criterion:
    """One line of the rubric.

    ``deliverable``: ``name`` is an outcome of the scorecard that must have passed. ``metric``:
    ``name`` with ``op`` and ``target``. ``file``: ``name`` must be there with at least ``target``
    characters. ``exercises``: points in proportion to the capstone's exercises passed.
    ``decision``: ``DECISION.md`` has every heading of ``sections``, each with at least ``target``
    words. ``quoted``: it quotes at least ``target`` metrics, each with the run's value.
    """

    id: str
    title: str
    points: int
    kind: Kind
    name: str = ""
    op: Op = ">="
    target: float = 0.0
    sections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """What a criterion gave, and the evidence."""

    criterion: Criterion
    points: float
    evidence: str


def read_rubric(path: Path = RUBRIC) -> list[Criterion]:
    """The criteria of a rubric file.

    Raises
    ------
    InputError
        For a kind or operator that does not exist, or points that are not positive.
    """
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["criterion"]
    found = [Criterion(**row | {"sections": tuple(row.get("sections", ()))}) for row in rows]
    for each in found:
        require(each.kind in CHECKS, f"{each.id}: kind", each.kind, f"must be of {list(CHECKS)}")
        require(each.op in OPERATORS, f"{each.id}: op", each.op, f"must be of {list(OPERATORS)}")
        require(each.points > 0, f"{each.id}: points", each.points, "must be > 0")
    return found


def grade(run: Path, rubric: Sequence[Criterion], exercises: Mapping[str, str]) -> list[Mark]:
    """Marks of a run, in the rubric's order.

    Parameters
    ----------
    exercises
        Exercise id to outcome (``"passed"`` or another), of the capstone's exercises.

    Raises
    ------
    InputError
        When ``run`` holds no readable results of the capstone.
    """
    path = run / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give the folder of a finished run") from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); run make capstone again") from error
    if not isinstance(results, dict) or results.get("lab") != "capstone":
        raise InputError(f"{path} is not of the capstone; give a folder of runs/capstone")
    return [CHECKS[each.kind](each, run, results, exercises) for each in rubric]


def _deliverable(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    for row in results["deliverables"]:
        if row["id"] == c.name:
            shown = f"{row['metric']} = {row['measured']}, asked {row['op']} {row['target']}"
            if row["passed"] is None:
                shown = f"not measured: {row['reason']}"
            return Mark(c, c.points if row["passed"] is True else 0, shown)
    return Mark(c, 0, f"the scorecard has no {c.name}")


def _metric(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    metric = results["metrics"].get(c.name)
    if metric is None or metric["value"] is None:
        return Mark(c, 0, f"{c.name} was not measured: {(metric or {}).get('reason', 'not run')}")
    passed = bool(OPERATORS[c.op](metric["value"], c.target))
    return Mark(c, c.points if passed else 0, f"{c.name} = {metric['value']:.4g}, asked {c.op} "
                f"{c.target:g}")  # fmt: skip


def _file(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    text = _read(run / c.name)
    if text is None:
        return Mark(c, 0, f"{c.name} is missing")
    return Mark(c, c.points if len(text) >= c.target else 0, f"{c.name}: {len(text)} characters")


def _exercises(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    if not exercises:
        return Mark(c, 0, "no exercise report was given (--exercises)")
    passed = sum(outcome == "passed" for outcome in exercises.values())
    share = passed / len(exercises)
    return Mark(c, round(c.points * share, 1), f"{passed} of {len(exercises)} passed")


def _decision(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    text = _read(run / DECISION)
    if text is None:
        return Mark(c, 0, f"{DECISION} is missing")
    found = _sections(text)
    short = [
        name for name in c.sections if len(found.get(name.lower(), "").split()) < c.target
    ]  # fmt: skip
    if short:
        return Mark(c, 0, f"missing or under {c.target:g} words: {', '.join(short)}")
    return Mark(c, c.points, f"{len(c.sections)} sections")


def _quoted(c: Criterion, run: Path, results: Any, exercises: Mapping[str, str]) -> Mark:
    quotes = dict(QUOTED.findall(_read(run / DECISION) or ""))
    wrong = []
    for name, text in quotes.items():
        value = (results["metrics"].get(name) or {"value": None})["value"]
        if value is None or not _same(value, text):
            wrong.append(f"{name} = {text}, measured {value}")
    if wrong:
        return Mark(c, 0, "not the run's: " + "; ".join(wrong))
    passed = len(quotes) >= c.target
    return Mark(c, c.points if passed else 0, f"{len(quotes)} figures quoted, asked {c.target:g}")


CHECKS = {
    "deliverable": _deliverable,
    "metric": _metric,
    "file": _file,
    "exercises": _exercises,
    "decision": _decision,
    "quoted": _quoted,
}


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _sections(text: str) -> dict[str, str]:
    """Heading (lower case) to the text below it."""
    parts = HEADING.split(text)
    return {name.lower(): body for name, body in zip(parts[1::2], parts[2::2])}


def _same(value: float, text: str) -> bool:
    """Whether ``text`` is ``value`` rounded to the digits that it shows."""
    quoted = float(text.replace(",", ""))
    decimals = len(text.lower().partition("e")[0].partition(".")[2])
    scale = 10.0 ** (math.floor(math.log10(abs(quoted))) if "e" in text.lower() and quoted else 0)
    return abs(quoted - value) <= 0.5001 * scale * 10.0**-decimals


@dataclass(frozen=True)
class Options:
    """Grade a capstone run against the rubric."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, such as runs/capstone/latest."""
    exercises: Path | None = None
    """JSON that ``pytest tests/capstone --exercise-report FILE`` wrote for the submission."""
    out: Path | None = None
    """Write the marks as JSON to this file as well."""


def main() -> int:
    options = tyro.cli(Options, prog="python -m capstone.rubric", description=__doc__)
    try:
        outcomes = _outcomes(options.exercises)
        marks = grade(options.run, read_rubric(), outcomes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    for mark in marks:
        c = mark.criterion
        print(f"{c.id:<5} {mark.points:>5g} of {c.points:<3} {c.title}: {mark.evidence}")
    total, most = sum(mark.points for mark in marks), sum(mark.criterion.points for mark in marks)
    print(f"\n{total:g} of {most} points")
    if options.out:
        rows = [
            {"id": m.criterion.id, "title": m.criterion.title, "points": m.points,
             "of": m.criterion.points, "evidence": m.evidence}
            for m in marks
        ]  # fmt: skip
        options.out.write_text(
            json.dumps({"points": total, "of": most, "criteria": rows}, indent=1)
        )
    return EXIT_OK if total == most else EXIT_FAILED


def _outcomes(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    if not path.is_file():
        raise InputError(f"--exercises {path} is no file; pytest --exercise-report writes one")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        return {row["id"]: row["outcome"] for row in rows if row["id"].startswith("7.")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--exercises {path} is no exercise report ({error!r})") from error


if __name__ == "__main__":
    sys.exit(main())
