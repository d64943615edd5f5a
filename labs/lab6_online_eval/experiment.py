"""An experiment, written down before it runs: a typed file that people and programs read alike.

What is decided here cannot be decided after the result is known: the hypothesis, the arms, the
metrics and which of them must win or must not lose, the error rates, the length, and how often
anybody looks.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.errors import InputError, require
from labs.lab6_online_eval.assignment import check_shares

STRICT = {"extra": "forbid", "strict": True}
"""How pydantic reads a file into these classes: no unknown key, no text in place of a number."""


class Kind(StrEnum):
    """What one number a metric is."""

    MEAN = "mean"
    """Sum of the events' values a unit."""
    PROPORTION = "proportion"
    """Share of units with at least one event."""
    RATIO = "ratio"
    """Sum of one event over sum of another, units being what was randomised: clicks a session."""
    QUANTILE = "quantile"
    """A quantile of the events' values, such as the p99 of latency."""


class Role(StrEnum):
    """What a metric may decide."""

    SUCCESS = "success"
    """At least one of these must improve."""
    GUARDRAIL = "guardrail"
    """None of these may be worse by more than its margin."""
    INFORMATION = "information"
    """Reported, decides nothing."""


class Looks(StrEnum):
    """When the result may be looked at and acted on."""

    ONCE = "once"
    """A fixed horizon: at the end."""
    ALWAYS = "always"
    """An asymptotic confidence sequence holds at every look."""
    PLANNED = "planned"
    """Group-sequential: at the given number of equally spaced looks."""


@dataclass(frozen=True)
class Metric:
    """One metric of an experiment.

    Attributes
    ----------
    event
        Name of the logged event whose values are summed, counted or ranked.
    denominator
        Ratio: the event below the line.
    quantile
        Quantile: which, between 0 and 1.
    higher_is_better
        The direction of improvement.
    margin
        Guardrail: the relative loss that would still be accepted, > 0 (0.01 is 1 %).
    cuped
        Whether the same metric before the exposure adjusts it.
    """

    name: str
    kind: Kind
    role: Role
    event: str
    denominator: str | None = None
    quantile: float | None = None
    higher_is_better: bool = True
    margin: float | None = None
    cuped: bool = True

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name", self.name, "must not be empty")
        where = f"metric {self.name}: "
        require(bool(self.event.strip()), where + "event", self.event, "must not be empty")
        require(
            (self.kind is Kind.RATIO) == (self.denominator is not None),
            where + "denominator",
            self.denominator,
            "is what a ratio needs and nothing else has",
        )
        require(
            (self.kind is Kind.QUANTILE) == (self.quantile is not None),
            where + "quantile",
            self.quantile,
            "is what a quantile needs and nothing else has",
        )
        if self.quantile is not None:
            require(0 < self.quantile < 1, where + "quantile", self.quantile, "must be in (0, 1)")
        require(
            (self.role is Role.GUARDRAIL) == (self.margin is not None),
            where + "margin",
            self.margin,
            "is what a guardrail needs and nothing else has",
            "the relative loss that would still be accepted, such as 0.01",
        )
        if self.margin is not None:
            require(0 < self.margin < 1, where + "margin", self.margin, "must be in (0, 1)")


@dataclass(frozen=True)
class Arm:
    """One arm: the first of an experiment is the control."""

    name: str
    weight: float

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name", self.name, "must not be empty")
        require(0 < self.weight < 1, f"arm {self.name}: weight", self.weight, "must be in (0, 1)")


@dataclass(frozen=True)
class Experiment:
    """A whole experiment, as its file says.

    Attributes
    ----------
    name
        The seed of the assignment; never reuse one.
    hypothesis, owner
        Whom to ask, and what they expect to see and why.
    arms
        At least two; weights sum to 1; the first is the control.
    start, days
        When it begins (UTC), and how long it runs.
    coverage
        Share of the units in its range that enter.
    layer, range
        Experiments of one layer with disjoint ranges never share a unit (see `layers`).
    alpha, power
        Two-sided error rate of success metrics; power of success *and* guardrail metrics.
    looks, n_looks
        When the result may be acted on.
    before_days
        Length of the period before exposure that CUPED reads.
    """

    name: str
    hypothesis: str
    owner: str
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    start: datetime
    days: int
    coverage: float = 1.0
    layer: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    alpha: float = 0.05
    power: float = 0.8
    looks: Looks = Looks.ONCE
    n_looks: int = 1
    before_days: int = 14

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name", self.name, "must not be empty")
        require(bool(self.hypothesis.strip()), "hypothesis", self.hypothesis, "must not be empty")
        require(len(self.arms) >= 2, "arms", len(self.arms), "must be at least 2")
        names = [arm.name for arm in self.arms]
        require(len(set(names)) == len(names), "arms", names, "must have different names")
        check_shares(self.weights, self.coverage)
        require(self.start.tzinfo is not None, "start", self.start, "must say its time zone (UTC)")
        require(self.days >= 1, "days", self.days, "must be at least 1")
        require(self.before_days >= 0, "before_days", self.before_days, "must be at least 0")
        require(0 < self.alpha < 1, "alpha", self.alpha, "must be in (0, 1)", "try 0.05")
        require(0 < self.power < 1, "power", self.power, "must be in (0, 1)", "try 0.8")
        low, high = self.range
        require(0 <= low < high <= 1, "range", self.range, "must be 0 <= low < high <= 1")
        require(
            (self.looks is Looks.PLANNED) == (self.n_looks > 1),
            "n_looks",
            self.n_looks,
            "must be above 1 for planned looks, and 1 otherwise",
        )
        metrics = [metric.name for metric in self.metrics]
        require(len(set(metrics)) == len(metrics), "metrics", metrics, "must have different names")
        require(
            any(metric.role is Role.SUCCESS for metric in self.metrics),
            "metrics",
            metrics,
            "must hold at least one with the role success",
        )

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each arm."""
        return tuple(arm.weight for arm in self.arms)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file (TOML); its keys are the attributes of `Experiment`.

    Arms stand under ``[[arms]]``, metrics under ``[[metrics]]``, in the order in which they are to
    be reported.

    Raises
    ------
    InputError
        No such file, not TOML, a key that is unknown or missing, a value of the wrong type or out
        of its limits. The message names the file, and every key that is at fault.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        # JSON is pydantic's mode in which a list may be a tuple and a text an enumeration's member
        text = json.dumps(content, default=_iso)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no experiment file: {error}") from error
    try:
        experiment = TypeAdapter(Experiment).validate_json(text)
    except ValidationError as error:
        faults = [_fault(each) for each in error.errors()]
        raise InputError(f"{path}: " + "; ".join(faults)) from None
    return replace(experiment, start=experiment.start.astimezone(UTC))


def _iso(value: object) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in an experiment file")


def _fault(error: Any) -> str:
    """One fault that pydantic found, as ``key = value: what it must be``."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    where = where.lstrip(".")
    kind, given = error["type"], error["input"]
    if kind == "value_error":  # from __post_init__, which has named the value and its limit
        return (f"{where}: " if where else "") + str(error["ctx"]["error"])
    if kind == "unexpected_keyword_argument":
        owner: type = next(
            (c for key, c in (("arms", Arm), ("metrics", Metric)) if where.startswith(f"{key}[")),
            Experiment,
        )
        known = ", ".join(field.name for field in fields(owner))
        return f"{where} = {given!r} is unknown; known are {known}"
    if kind == "missing_argument" or kind == "missing":
        return f"{where} is missing"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{where} = {given!r}: {message.replace('input', 'it')}"
