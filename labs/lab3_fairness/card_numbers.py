"""The numbers of a model card: each is one that a run measured, found by its name.

A card outlives the notebook it was typed from. So nobody types: a number is looked up in the
``results.json`` of a run, with its interval and n, and a card that holds any other is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, require
from common.results import SCHEMA
from labs.lab3_fairness.untrusted import shown

UNNAMED = ("ratio", "difference", "probability", "share", "")  # units that a reader need not see
OUTSIDE = "**the value lies outside**"
MAX_COUNT = 10**15
KIND = {"schema": int, "lab": str, "scale": str, "seed": int, "started_at": str} | {
    "commit": str,
    "mine": bool,
    "versions": dict,
    "data": list,
    "metrics": dict,
}
IDENTIFIER = re.compile(r"(?<![\w.])[A-Za-z][A-Za-z0-9_-]*")  # F1, GPT-2: digits that only name
NUMBER = re.compile(r"(?<![\w.,])[-−+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Measured:
    """One number of a run; ``n`` and ``ci95`` are None where the run recorded none."""

    name: str
    value: float | int
    unit: str
    n: int | None
    ci95: tuple[float, float] | None

    @property
    def shown(self) -> str:
        """The value as the card prints it: four significant digits, and its unit."""
        unit = "" if self.unit in UNNAMED else f" {self.unit}"
        return formatted(self.value) + unit

    @property
    def interval(self) -> str:
        """``low to high``, or that there is none; and a warning when the value is not inside."""
        if self.ci95 is None:
            return "no interval recorded"
        outside = not self.ci95[0] <= self.value <= self.ci95[1]
        return " to ".join(map(formatted, self.ci95)) + (f", {OUTSIDE}" if outside else "")

    @property
    def counted(self) -> str:
        """n, or that it was not recorded."""
        return "not recorded" if self.n is None else formatted(self.n)

    @property
    def sentence(self) -> str:
        """The value with what a reader needs to judge it, for use in prose."""
        known = [f"95 % interval {self.interval}"] if self.ci95 else []
        known += [f"n = {self.counted}"] if self.n is not None else []
        return self.shown + (f" ({', '.join(known)})" if known else "")

    def numbers(self) -> list[str]:
        """Every number of it, as printed."""
        parts = [self.value, *(self.ci95 or ()), *([] if self.n is None else [self.n])]
        return [formatted(part) for part in parts]


def formatted(value: float | int) -> str:
    """Counts in full with separators, anything else with four significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


@dataclass(frozen=True)
class Source:
    """Where a data set came from, as the run recorded it."""

    name: str
    source: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class RunResults:
    """What a card may say of a run. ``unmeasured`` gives the reasons for metrics without value."""

    file: str
    sha256: str
    lab: str
    scale: str
    seed: int
    started_at: str
    commit: str
    mine: bool
    versions: Mapping[str, str]
    data: tuple[Source, ...]
    metrics: Mapping[str, Measured]
    unmeasured: Mapping[str, str]

    def lookup(self, name: str) -> Measured:
        """The metric of a name.

        Raises
        ------
        InputError
            When the run has no such metric, or has it without a value.
        """
        if name in self.metrics:
            return self.metrics[name]
        if name in self.unmeasured:
            raise InputError(
                f"metric {name!r} was not measured: {self.unmeasured[name]}; leave it out of the "
                "words, declare its line optional, or run what measures it"
            )
        near = difflib.get_close_matches(name, self.metrics, 3)
        raise InputError(
            f"no metric {name!r} in {self.file}"
            + (f"; did you mean {', '.join(near)}?" if near else "; a card types no numbers")
        )

    def reason(self, name: str) -> str | None:
        """Why a metric has no value, None when it has one."""
        if name in self.metrics:
            return None
        return self.unmeasured.get(name, "this run did not record it")

    def source(self, name: str) -> Source:
        """The provenance of a data set; InputError when the run did not use it."""
        for each in self.data:
            if each.name == name:
                return each
        used = ", ".join(each.name for each in self.data) or "none"
        raise InputError(f"data {name!r} is not among those of {self.file}: {used}")


def read_results(path: Path) -> RunResults:
    """Read the ``results.json`` of a run.

    Raises
    ------
    InputError
        When the file is missing, is no JSON, has another schema, lacks a field, or holds a
        metric that is not a finite number.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a run's file") from error
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise InputError(f"is a {type(found).__name__}; it must be an object")
        require(found.get("schema") == SCHEMA, "schema", found.get("schema"), f"must be {SCHEMA}")
        top = {name: _typed(found, name, kind) for name, kind in KIND.items()}
        versions = {name: _typed(top["versions"], name, str) for name in top["versions"]}
        metrics: dict[str, Measured] = {}
        unmeasured: dict[str, str] = {}
        for name in top["metrics"]:
            entry = _typed(top["metrics"], name, dict)
            if "value" in entry and entry["value"] is None:
                reason = _typed(entry, "reason", str) if "reason" in entry else ""
                unmeasured[name] = reason or "no reason was recorded"
            else:
                metrics[name] = _measured(name, entry)
        return RunResults(
            file=path.name,
            sha256=hashlib.sha256(raw).hexdigest(),
            **{key: top[key] for key in ("lab", "scale", "seed", "started_at", "commit", "mine")},
            versions=versions,
            data=tuple(_source(entry) for entry in top["data"]),
            metrics=metrics,
            unmeasured=unmeasured,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be the results.json of a run") from None
    except ValueError as error:  # no UTF-8, no JSON, an integer of thousands of digits
        raise InputError(f"{path}: not the results.json of a run ({error})") from None


def _typed(entry: Mapping[str, Any], name: str, kind: type) -> Any:
    """The entry's field, of exactly this type: True is no number."""
    if name not in entry:
        raise InputError(f"no {name!r}; every results.json of a run has one")
    if type(entry[name]) is not kind:
        raise InputError(f"{name} = {shown(entry[name])} must be of type {kind.__name__}")
    return entry[name]


def _count(value: Any, name: str, least: int) -> int:
    if type(value) is not int or not least <= value <= MAX_COUNT:
        raise InputError(f"{name} = {shown(value)} must be a whole number, at least {least}")
    return value


def _source(entry: Any) -> Source:
    if not isinstance(entry, dict):
        raise InputError(f"data holds {shown(entry)}; each must be an object")
    texts = {name: _typed(entry, name, str) for name in ("name", "source", "sha256")}
    return Source(**texts, rows=_count(entry.get("rows"), f"rows of {texts['name']!r}", 0))


def _measured(name: str, entry: Mapping[str, Any]) -> Measured:
    where = f"metric {name!r}"
    try:
        value, unit = entry.get("value"), _typed(entry, "unit", str)
        n = None if entry.get("n") is None else _count(entry["n"], "n", 1)
        interval = entry.get("ci95")
        if interval is not None and (not isinstance(interval, list) or len(interval) != 2):
            raise InputError(f"has the interval {shown(interval)}; it must be [low, high]")
        for number in (value, *(interval or ())):
            if type(number) not in (int, float) or not _finite(number):
                raise InputError(f"holds {shown(number)}; it must be a finite number")
        if interval is not None and interval[0] > interval[1]:
            raise InputError(f"has the interval {interval}; it must be [low, high]")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    assert isinstance(value, int | float)
    low_high = None if interval is None else (float(interval[0]), float(interval[1]))
    return Measured(name, value, unit, n, low_high)


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False


def untraceable(text: str, numbers: Iterable[str], literal: Iterable[str]) -> list[str]:
    """The numbers in a text that are not among those given.

    Parameters
    ----------
    text
        Of a card, below its metadata.
    numbers
        Printed forms that may stand in it.
    literal
        Strings that hold digits without stating a number (hashes, dates, metric names); they are
        taken out before the text is read. Longest first, so that none is torn by another.
    """
    for known in sorted({each for each in literal if each}, key=len, reverse=True):
        # Not within a longer number: the year 1994 does not vouch for 0.1994.
        text = re.sub(rf"(?<![\w.,]){re.escape(known)}(?!\w|[.,]\d)", " ", text)
    allowed = set(numbers)
    found = (match.group().rstrip(",.") for match in NUMBER.finditer(IDENTIFIER.sub(" ", text)))
    return [each for each in found if each not in allowed]
