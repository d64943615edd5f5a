"""Filters over a payload: a small typed language, checked against the schema before it runs.

What a filter means is :func:`matches`, on one row; :mod:`labs.lab2_vector_db.payload_index`
answers the same for a million rows at once.

**Missing values.** A value that is not there satisfies no comparison. ``Not`` is the complement of
a set of rows: ``Not(Eq("year", 2020))`` matches rows without a year too, as must_not does in
Qdrant and Elasticsearch, and De Morgan's laws hold. (In SQL, ``NOT (year = 2020)`` is unknown for
such a row and leaves it out; that is ``Exists("year") & ~Eq("year", 2020)`` here.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np

from common.errors import InputError
from labs.lab2_vector_db.payload import PYTHON_TYPES, Fields, FieldType, Value

MAX_DEPTH = 32
MAX_VALUES = 65_536
INT64 = np.iinfo(np.int64)
BOUNDS = ("gt", "gte", "lt", "lte")


class Filter:
    """A condition on a row's payload; combine with ``&``, ``|`` and ``~``. Hashable."""

    def __and__(self, other: Filter) -> Filter:
        return And(self, other)

    def __or__(self, other: Filter) -> Filter:
        return Or(self, other)

    def __invert__(self) -> Filter:
        return Not(self)


@dataclass(frozen=True)
class Eq(Filter):
    """The field has this value."""

    field: str
    value: Value


@dataclass(frozen=True)
class In(Filter):
    """The field has one of these values; at least one must be given."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if isinstance(self.values, list | set | frozenset | range | np.ndarray):
            object.__setattr__(self, "values", tuple(self.values))


@dataclass(frozen=True)
class Range(Filter):
    """The field, an int or a float, lies within the bounds; at least one must be given."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True)
class Exists(Filter):
    """The field has a value."""

    field: str


@dataclass(frozen=True, init=False)
class And(Filter):
    """All clauses hold; at least one must be given."""

    clauses: tuple[Filter, ...]

    def __init__(self, *clauses: Filter) -> None:
        object.__setattr__(self, "clauses", clauses)


@dataclass(frozen=True, init=False)
class Or(Filter):
    """One clause holds or more; at least one must be given."""

    clauses: tuple[Filter, ...]

    def __init__(self, *clauses: Filter) -> None:
        object.__setattr__(self, "clauses", clauses)


@dataclass(frozen=True)
class Not(Filter):
    """The clause does not hold; so for a missing value, which satisfies no comparison, it does."""

    clause: Filter


def matches(condition: Filter, row: Mapping[str, Value]) -> bool:
    """Whether a row's payload (the missing values left out) satisfies a filter.

    The definition, in plain Python; values of a float field compare as float64.

    >>> matches(Eq("year", 2020), {"year": 2020}), matches(Not(Eq("year", 2020)), {})
    (True, True)
    """
    match condition:
        case And(clauses):
            return all(matches(clause, row) for clause in clauses)
        case Or(clauses):
            return any(matches(clause, row) for clause in clauses)
        case Not(clause):
            return not matches(clause, row)
        case Exists(field):
            return field in row
        case Eq(field, value):
            return field in row and row[field] == value
        case In(field, values):
            return field in row and row[field] in values
        case Range(field, gt, gte, lt, lte):
            found: Any = row.get(field)
            above = found is not None and (gt is None or found > gt)
            above = above and (gte is None or found >= gte)
            return bool(above and (lt is None or found < lt) and (lte is None or found <= lte))
    raise InputError(f"{condition!r} is no filter")


def check(condition: Filter, fields: Fields) -> None:
    """Compare a filter with the schema.

    Raises
    ------
    InputError
        For a field that does not exist, a value of another type than the field's, a range over
        keywords or bools, no values, no bounds or no clauses, or more than 32 levels; names the
        field and its type.
    """
    for leaf in leaves(condition):
        kind = fields.get(leaf.field)
        if kind is None:
            known = ", ".join(f"{name} ({each})" for name, each in fields.items())
            raise InputError(
                f"filter field {leaf.field!r} is not in the schema, which has {known or 'no field'}"
            )
        where = f"filter on field {leaf.field!r} of type {kind}"
        match leaf:
            case Eq(_, value):
                plain(value, kind, where)
            case In(_, values):
                if not isinstance(values, tuple) or not 1 <= len(values) <= MAX_VALUES:
                    raise InputError(
                        f"{where}: In takes a list of 1 to {MAX_VALUES} values: {values!r:.80}"
                    )
                for value in values:
                    plain(value, kind, where)
            case Range():
                _check_range(leaf, kind, where)


def _check_range(leaf: Range, kind: FieldType, where: str) -> None:
    given = {name: bound for name in BOUNDS if (bound := getattr(leaf, name)) is not None}
    if kind not in ("int", "float"):
        raise InputError(f"{where}: a range needs an int or a float field; use Eq or In")
    if not given:
        raise InputError(f"{where}: a range needs one of {', '.join(BOUNDS)}")
    if {"gt", "gte"} <= set(given) or {"lt", "lte"} <= set(given):
        raise InputError(f"{where}: a range takes one bound a side, found {', '.join(given)}")
    for bound in given.values():
        plain(bound, kind, where)


def plain(value: Any, kind: FieldType, where: str) -> Value:
    """The value as a field of this type compares it.

    Raises
    ------
    InputError
        When it has another type, or is no number that the field could hold.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, PYTHON_TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        wanted = " or ".join(each.__name__ for each in PYTHON_TYPES[kind])
        raise InputError(f"{where}: {value!r:.80} is {type(value).__name__}, expected {wanted}")
    number: Any = value
    if kind == "int" and not INT64.min <= number <= INT64.max:
        raise InputError(f"{where}: {number} does not fit into 64 bits")
    if kind == "float":
        if isinstance(number, int) and abs(number) > 2**53:
            raise InputError(f"{where}: {number!r:.80} is no float64; give it as a float")
        if not math.isfinite(number):
            raise InputError(f"{where}: {number} is not finite; leave the bound out, or use Exists")
        number = float(number)
    plain_value: Value = number
    return plain_value


def leaves(condition: Filter) -> Iterator[Eq | In | Range | Exists]:
    """The comparisons of a filter, having checked that the whole is well-formed."""
    waiting = [(condition, 1)]
    while waiting:
        clause, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InputError(f"a filter has more than {MAX_DEPTH} levels; flatten And and Or")
        match clause:
            case And(clauses) | Or(clauses):
                if not clauses:
                    raise InputError(f"{type(clause).__name__}() has no clause; give at least one")
                waiting += [(each, depth + 1) for each in reversed(clauses)]
            case Not(inner):
                waiting.append((inner, depth + 1))
            case Eq() | In() | Range() | Exists():
                yield clause
            case _:
                raise InputError(
                    f"{clause!r:.80} is no filter; use Eq, In, Range, Exists, And, Or or Not"
                )


def filter_to_json(condition: Filter) -> dict[str, Any]:
    """The filter as :func:`filter_from_json` reads it."""
    match condition:
        case And(clauses):
            return {"and": [filter_to_json(clause) for clause in clauses]}
        case Or(clauses):
            return {"or": [filter_to_json(clause) for clause in clauses]}
        case Not(clause):
            return {"not": filter_to_json(clause)}
        case Exists(field):
            return {"field": field, "exists": True}
        case Eq(field, value):
            return {"field": field, "eq": value}
        case In(field, values):
            return {"field": field, "in": list(values)}
        case Range(field):
            found = {each.name: getattr(condition, each.name) for each in fields_of(condition)}
            return {name: value for name, value in found.items() if value is not None}
    raise InputError(f"{condition!r} is no filter")


def filter_from_json(given: Any, *, depth: int = 1) -> Filter:
    """A filter from parsed JSON; :func:`check` compares it with a schema afterwards.

    One of ``{"and": [...]}``, ``{"or": [...]}``, ``{"not": {...}}``, and for a field
    ``{"field": "year", "eq": 2020}``, ``"in": [2019, 2020]``, ``"exists": true``, or bounds:
    ``{"field": "year", "gte": 2015, "lt": 2020}``.

    Raises
    ------
    InputError
        For anything else; says what was found.
    """
    if depth > MAX_DEPTH:
        raise InputError(f"a filter has more than {MAX_DEPTH} levels; flatten and, or")
    if not isinstance(given, dict):
        raise InputError(
            f"a filter is an object such as {{'field': ..., 'eq': ...}}: {given!r:.80}"
        )
    keys = set(given)
    for name, kind in (("and", And), ("or", Or)):
        if keys == {name} and isinstance(given[name], list):
            return kind(*(filter_from_json(each, depth=depth + 1) for each in given[name]))
    if keys == {"not"}:
        return Not(filter_from_json(given["not"], depth=depth + 1))
    field = given.get("field")
    if isinstance(field, str):
        if keys == {"field", "eq"}:
            return Eq(field, given["eq"])
        if keys == {"field", "in"} and isinstance(given["in"], list):
            return In(field, tuple(given["in"]))
        if keys == {"field", "exists"} and given["exists"] is True:
            return Exists(field)
        bounds = {name: given[name] for name in BOUNDS if given.get(name) is not None}
        if bounds and keys == {"field", *bounds}:
            return Range(field, **bounds)
    raise InputError(
        f"a filter has one of and, or (lists), not; or a field with eq, in (a list), exists (true) "
        f"or gt, gte, lt, lte: {given!r:.80}"
    )
