"""What a gate promises, as a file: rules on metrics by group, read from TOML and checked.

The bounds of a policy are chosen by people, before the model is seen. The file is where that
choice is written down, reviewed and versioned; ``reason`` says why this bound.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, require
from labs.lab3_fairness.untrusted import safe, shown

METRICS = (
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "false_negative_rate",
    "positive_predictive_value",
    "accuracy",
)
DIRECTION = {"difference": "at_most", "ratio": "at_least"}  # a gap has one bad side
KINDS = (*DIRECTION, "worst_group")
DIRECTIONS = ("at_most", "at_least")
MAX_CONFIDENCE = 0.99  # the limits of gate_bounds keep their error rate up to here
MAX_ROWS = 10**12
MAX_BYTES = 1_000_000

_POLICY_KEYS = ("title", "columns", "defaults", "rules")
_COLUMN_KEYS = ("label", "prediction", "score", "threshold", "group", "missing_group")
_DEFAULT_KEYS = ("confidence", "min_rows")
_RULE_KEYS = (
    "name",
    "metric",
    "kind",
    "bound",
    "direction",
    "groups",
    "confidence",
    "min_rows",
    "reason",
)


@dataclass(frozen=True)
class Columns:
    """Where the table of predictions has what.

    Either ``prediction`` (0 or 1) is named, or ``score`` with the ``threshold`` at or above which
    the decision is 1. Several ``group`` columns are judged as their intersection. With
    ``keep_missing`` a marker of a missing group, such as "?", is the name of a group.
    """

    label: str
    group: tuple[str, ...]
    prediction: str | None = None
    score: str | None = None
    threshold: float | None = None
    keep_missing: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """All columns the table must have."""
        decision = self.prediction if self.prediction is not None else self.score
        assert decision is not None
        return (self.label, decision, *self.group)


@dataclass(frozen=True)
class Rule:
    """One promise about one metric.

    ``kind`` says what is compared with ``bound``: ``difference`` is the largest minus the
    smallest group's value, ``ratio`` the smallest over the largest, ``worst_group`` the smallest
    value (``at_least``) or the largest (``at_most``). ``groups`` None means all in the data.
    """

    name: str
    metric: str
    kind: str
    bound: float
    direction: str
    groups: tuple[str, ...] | None = None
    confidence: float = 0.95
    min_rows: int = 30
    reason: str = ""

    @property
    def promise(self) -> str:
        """The rule in words: ``selection_rate ratio >= 0.8``."""
        sign = ">=" if self.direction == "at_least" else "<="
        return f"{self.metric} {self.kind} {sign} {self.bound:g}"


@dataclass(frozen=True)
class Policy:
    """Rules that a table of predictions must pass, and where that table has its columns."""

    title: str
    columns: Columns
    rules: tuple[Rule, ...]


def read_policy(path: Path | str) -> Policy:
    """Read and check a policy file.

    Raises
    ------
    InputError
        When it cannot be read, is no TOML, or says something :func:`parse_policy` refuses.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"policy {path}: {error.strerror or error}") from None
    require(len(content) <= MAX_BYTES, "policy", str(path), f"must be at most {MAX_BYTES} bytes")
    try:
        parsed = tomllib.loads(content.decode("utf-8"))
    except RecursionError:
        raise InputError(f"policy {path} is nested too deeply; a policy has two levels") from None
    except ValueError as error:  # no UTF-8, no TOML, an integer of thousands of digits
        raise InputError(f"policy {path} is no TOML: {error}") from None
    return parse_policy(parsed, str(path))


def parse_policy(content: Mapping[str, Any], source: str = "policy") -> Policy:
    """Check a parsed TOML document.

    Parameters
    ----------
    content
        Tables ``columns``, ``defaults`` (optional) and a list ``rules``.
    source
        Named in errors.

    Raises
    ------
    InputError
        For unknown or missing keys, a wrong type, an unknown metric, kind or direction, a bound
        that cannot be met or missed, or two rules of one name. A misspelt key is an error: a
        rule that silently took a default is a promise nobody made.
    """
    _only(content, _POLICY_KEYS, source)
    columns = _columns(_table(content, "columns", source), f"{source}: columns")
    defaults = _table(content, "defaults", source) if "defaults" in content else {}
    _only(defaults, _DEFAULT_KEYS, f"{source}: defaults")
    rules = content.get("rules")
    if (
        not isinstance(rules, list)
        or not rules
        or not all(isinstance(rule, dict) for rule in rules)
    ):
        raise InputError(f"{source}: rules must hold at least one rule; begin one with [[rules]]")
    made = tuple(_rule({**defaults, **rule}, f"{source}: rule {i}") for i, rule in enumerate(rules))
    twice = [name for name, count in Counter(rule.name for rule in made).items() if count > 1]
    if twice:
        raise InputError(f"{source}: two rules are called {twice[0]!r}; a verdict needs one name")
    title = _text(content, "title", source) if "title" in content else Path(source).stem
    return Policy(title, columns, made)


def _columns(content: Mapping[str, Any], where: str) -> Columns:
    _only(content, _COLUMN_KEYS, where)
    group = content.get("group")
    names: list[Any] = group if isinstance(group, list) else [group]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{where}: group = {shown(group)} must be a column or a list of columns")
    names = [safe(name, f"{where}: group") for name in names]
    keep = _one_of(content, "missing_group", ("refuse", "keep"), where, "refuse") == "keep"
    scored = {"score", "threshold"} & set(content)
    if ("prediction" in content) == bool(scored):
        raise InputError(f"{where}: name either prediction, or score and threshold")
    if scored:
        made = Columns(
            _text(content, "label", where),
            tuple(names),
            score=_text(content, "score", where),
            threshold=_number(content, "threshold", where),
            keep_missing=keep,
        )
    else:
        made = Columns(
            _text(content, "label", where),
            tuple(names),
            prediction=_text(content, "prediction", where),
            keep_missing=keep,
        )
    twice = [name for name, count in Counter(made.needed).items() if count > 1]
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} is named twice; each has one role")
    return made


def _rule(content: Mapping[str, Any], where: str) -> Rule:
    _only(content, _RULE_KEYS, where)
    name = _text(content, "name", where)
    where = f"{where} ({name})"
    metric = _one_of(content, "metric", METRICS, where)
    kind = _one_of(content, "kind", KINDS, where)
    bound = _number(content, "bound", where)
    require(
        0 < bound < 1,
        f"{where}: bound",
        bound,
        "must lie between 0 and 1",
        "0 and 1 are kept by any data or can be shown by none",
    )
    if kind in DIRECTION:
        direction = DIRECTION[kind]
        given = _one_of(content, "direction", DIRECTIONS, where, direction)
        require(
            given == direction, f"{where}: direction", given, f"must be {direction!r} for {kind}"
        )
    else:
        direction = _one_of(content, "direction", DIRECTIONS, where)
    confidence = _number(content, "confidence", where) if "confidence" in content else 0.95
    require(
        0.5 < confidence <= MAX_CONFIDENCE,
        f"{where}: confidence",
        confidence,
        f"must be above 0.5 and at most {MAX_CONFIDENCE}",
        "try 0.95",
    )
    min_rows = content.get("min_rows", 30)
    whole = isinstance(min_rows, int) and not isinstance(min_rows, bool)
    if not whole or not 1 <= min_rows <= MAX_ROWS:
        raise InputError(
            f"{where}: min_rows = {shown(min_rows)} must be a whole number >= 1, at most {MAX_ROWS}"
        )
    reason = _text(content, "reason", where, lines=True) if "reason" in content else ""
    groups = _groups(content.get("groups", "all"), kind, where)
    return Rule(name, metric, kind, bound, direction, groups, confidence, min_rows, reason)


def _groups(given: Any, kind: str, where: str) -> tuple[str, ...] | None:
    if given == "all":
        return None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f'{where}: groups = {shown(given)} must be "all" or a list of names')
    least = 1 if kind == "worst_group" else 2
    require(
        len(given) == len(set(given)) >= least,
        f"{where}: groups",
        given,
        f"must be at least {least} different names",
    )
    return tuple(safe(name, f"{where}: group") for name in given)


def _only(content: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(names)}"
            raise InputError(f"{where}: unknown key {shown(key)}; {meant}")


def _table(content: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a table; begin it with [{key}]")
    return value


def _text(content: Mapping[str, Any], key: str, where: str, lines: bool = False) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} = {shown(value)} must be text")
    return safe(" ".join(value.split()) if lines else value, f"{where}: {key}")


def _number(content: Mapping[str, Any], key: str, where: str) -> float:
    value = content.get(key)
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{where}: {key} = {shown(value)} must be a finite number")
    return number


def _one_of(
    content: Mapping[str, Any],
    key: str,
    known: Iterable[str],
    where: str,
    default: str | None = None,
) -> str:
    value, names = content.get(key, default), list(known)
    if value not in names:
        near = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{where}: {key} = {shown(value)} must be one of {', '.join(names)}{meant}"
        )
    return str(value)
