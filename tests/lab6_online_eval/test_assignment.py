"""Exercise 6.1: assignment by hashing; and its vectorised form."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval.assignment import (
    assign,
    assign_many,
    fnv32a,
    unit_points,
    unit_points_v1,
)

HALVES = [0.5, 0.5]

# GrowthBook SDK specification, cases.json, "hash", version 2: seed, value, point.
VECTORS = [
    ("seed", "a", 0.0505),
    ("seed", "b", 0.2696),
    ("foo", "ab", 0.2575),
    ("foo", "def", 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 0.124),
    ("90850943850283058242805", "123", 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 0.0128),
]
# Version 1, whose seed in the specification is appended to the value.
VECTORS_V1 = [
    ("", "a", 0.22),
    ("", "b", 0.077),
    ("b", "a", 0.946),
    ("ef", "d", 0.652),
    ("asdf", "8952klfjas09ujk", 0.549),
    ("", "123", 0.011),
    ("", '___)((*":&', 0.563),
]


@pytest.mark.exercise("6.1")
@pytest.mark.parametrize(("experiment", "unit", "point"), VECTORS)
def test_the_point_of_a_unit_is_the_published_one(experiment: str, unit: str, point: float) -> None:
    """The published hash vectors of GrowthBook's version 2 put each unit at an exact point.

    An arm that ends at the point does not hold it, an arm that ends one bucket later does. If your
    points differ, another service, in another language, shows the same user the other arm.
    """
    before = assign(unit, experiment, [point, 1 - point])
    after = assign(unit, experiment, [point + 1e-4, 1 - point - 1e-4])
    assert before == 1, f"arm 0 ends at {point}, where the unit lies: expected arm 1, got {before}"
    assert after == 0, f"arm 0 ends just above {point}: expected arm 0, got {after}"


@pytest.mark.exercise("6.1")
def test_two_experiments_on_the_same_users_are_independent() -> None:
    """Half of exp1's treated users are treated in exp2, as the experiment's name is in the hash.

    Without the name (or with one pass of the hash) the same users are treated again and again, and
    one experiment's effect is counted as the other's.
    """
    n = 20_000
    cells = Counter(
        (assign(str(i), "exp1", HALVES), assign(str(i), "exp2", HALVES)) for i in range(n)
    )
    limit = 4 * np.sqrt(n * 3 / 16)
    for cell in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        assert abs(cells[cell] - n / 4) < limit, (
            f"users in arms {cell}: expected {n // 4} within {limit:.0f}, got {cells[cell]}"
        )


@pytest.mark.exercise("6.1")
@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    unit=st.text(max_size=12),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    share=st.floats(0.05, 0.95),
)
def test_raising_the_coverage_never_moves_a_unit(
    unit: str, low: float, high: float, share: float
) -> None:
    """Whoever is in at 10 % stays in the same arm at 50 %: a ramp-up only lets units in.

    If the arms' ranges are packed side by side after scaling by the coverage, each step of the ramp
    moves users from one arm to the other, and both arms are contaminated.
    """
    low, high = sorted((low, high))
    weights = [share, 1 - share]
    before, after = assign(unit, "ramp", weights, low), assign(unit, "ramp", weights, high)
    assert before is None or before == after, (
        f"{unit!r} was in arm {before} at coverage {low} and is in arm {after} at {high}"
    )


@pytest.mark.exercise("6.1")
def test_shares_are_those_of_the_weights_and_of_the_coverage() -> None:
    """With weights .2, .3, .5 and coverage .5 the arms get 10, 15 and 25 %; the rest gets None.

    Units outside the coverage must stay outside: sending them to the last arm breaks its share.
    """
    n = 20_000
    counts = Counter(assign(f"u{i}", "shares", [0.2, 0.3, 0.5], 0.5) for i in range(n))
    for arm, share in [(0, 0.1), (1, 0.15), (2, 0.25), (None, 0.5)]:
        measured = counts[arm] / n
        assert abs(measured - share) < 0.012, f"arm {arm}: expected {share}, got {measured}"


def test_the_hash_matches_published_values() -> None:
    """Reference values of FNV-1a, 32 bits (Noll's test suite)."""
    expected = {"": 0x811C9DC5, "a": 0xE40C292C, "ab": 0x4D2505CA, "foobar": 0xBF9CF968}
    assert {text: fnv32a(text) for text in expected} == expected


@pytest.mark.parametrize(("experiment", "unit", "point"), VECTORS)
def test_vectorised_points_match_the_published_ones(
    experiment: str, unit: str, point: float
) -> None:
    assert unit_points(["zz", unit, "a longer one, so that this is padded"], experiment)[1] == point


@pytest.mark.parametrize(("experiment", "unit", "point"), VECTORS_V1)
def test_version_1_matches_the_published_points(experiment: str, unit: str, point: float) -> None:
    assert unit_points_v1([unit, "another"], experiment)[0] == point


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    units=st.lists(st.text(st.characters(exclude_characters="\0"), max_size=10), max_size=8),
    coverage=st.floats(0, 1),
)
def test_assign_many_agrees_with_assign(units: list[str], coverage: float) -> None:
    weights = [0.2, 0.3, 0.5]
    expected = [assign(unit, "many", weights, coverage) for unit in units]
    found = assign_many(np.array(units, dtype=np.str_), "many", weights, coverage)
    assert found.tolist() == [-1 if arm is None else arm for arm in expected]


def test_version_1_leaves_two_experiments_dependent_and_version_2_does_not() -> None:
    ids = np.arange(100_000).astype(str)
    tables = {}
    for name, points in (("v1", unit_points_v1), ("v2", unit_points)):
        first, second = points(ids, "exp1") >= 0.5, points(ids, "exp2") >= 0.5
        tables[name] = np.array(
            [[int(((first == a) & (second == b)).sum()) for b in (0, 1)] for a in (0, 1)]
        )
    assert tables["v1"].tolist() == [[23600, 26514], [26268, 23618]]
    assert np.abs(tables["v2"] - 25_000).max() < 4 * np.sqrt(100_000 * 3 / 16)


@pytest.mark.parametrize(
    ("weights", "coverage", "message"),
    [
        ([0.5, 0.6], 1.0, "must sum to 1, not 1.1"),
        ([1.5, -0.5], 1.0, "must not be negative"),
        ([0.5, 0.5], 1.5, r"coverage = 1\.5 must be between 0 and 1"),
        ([], 1.0, "must name at least one arm"),
    ],
)
def test_bad_shares_are_refused(weights: list[float], coverage: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign("u", "e", weights, coverage)
    with pytest.raises(ValueError, match=message):
        assign_many(["u"], "e", weights, coverage)


def test_ids_that_are_not_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unit ids of type int64 must be text"):
        assign_many(np.arange(3), "e", HALVES)


def test_no_units_give_no_arms() -> None:
    assert assign_many(np.array([], dtype=np.str_), "e", HALVES).tolist() == []
