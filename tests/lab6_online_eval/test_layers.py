"""Exercise 6.6: enrolment in many experiments; GrowthBook's namespaces and filters."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from common.errors import InputError
from labs.lab6_online_eval import layers
from labs.lab6_online_eval.assignment import assign_many, unit_points
from labs.lab6_online_eval.experiment import Arm, Experiment, Kind, Metric, Role

IDS = np.arange(40_000).astype(np.str_)

# GrowthBook SDK specification, cases.json, "inNamespace": unit, namespace, low, high, in it?
NAMESPACES = [
    (str(unit), f"namespace{number}", low, high, high_part is (low > 0))
    for unit, number, high_part in [
        (1, 1, True),
        (1, 2, True),
        (2, 1, True),
        (2, 2, True),
        (3, 1, True),
        (3, 2, False),
        (4, 1, True),
        (4, 2, False),
    ]
    for low, high in [(0.0, 0.4), (0.4, 1.0)]
]


def experiment(name: str, layer: str = "", low: float = 0.0, high: float = 1.0) -> Experiment:
    return Experiment(
        name=name,
        hypothesis="none",
        owner="nobody",
        arms=(Arm("control", 0.5), Arm("treatment", 0.5)),
        metrics=(Metric("clicks", Kind.MEAN, Role.SUCCESS, "click"),),
        start=datetime(2026, 1, 1, tzinfo=UTC),
        days=7,
        layer=layer,
        range=(low, high),
    )


@pytest.mark.exercise("6.6")
def test_a_user_is_in_one_experiment_of_a_layer_at_most() -> None:
    """Three ranges of one layer share nobody and together hold everybody, the borders included.

    Each range owns its lower end and not its upper one. If a user could be in two of them, two
    changes to the same list would meet on one screen.
    """
    plan = [
        experiment("one", "ranking", 0.0, 0.3),
        experiment("two", "ranking", 0.3, 0.5),
        experiment("three", "ranking", 0.5, 1.0),
    ]
    arms = layers.enrol(IDS, plan)
    inside = sum((arms[each.name] >= 0).astype(int) for each in plan)
    assert inside.max() == 1, f"{(inside > 1).sum()} users are in two experiments of one layer"
    assert inside.min() == 1, f"{(inside == 0).sum()} users of the layer are in no experiment"
    share = (arms["one"] >= 0).mean()
    assert abs(share - 0.3) < 0.01, f"a range of 0.3 of the layer: expected 0.3, got {share}"


@pytest.mark.exercise("6.6")
def test_half_of_a_layer_still_fills_both_arms() -> None:
    """In a range of the layer the arms are as large as their weights say.

    The layer's point and the arm's point come from hashes of two names. With one hash for both, the
    lower half of the layer is exactly the control, and the treatment is empty.
    """
    arms = layers.enrol(IDS, [experiment("one", "ranking", 0.0, 0.5)])["one"]
    counts = [int((arms == arm).sum()) for arm in (0, 1)]
    assert all(abs(count - 10_000) < 450 for count in counts), f"expected 10,000 each: {counts}"
    points = unit_points(IDS, "ranking")
    expected = np.where(points < 0.5, assign_many(IDS, "one", (0.5, 0.5)), -1)
    found = int((arms != expected).sum())
    assert found == 0, f"expected the arms of assign_many inside the range; {found} units differ"


@pytest.mark.exercise("6.6")
def test_who_is_held_out_is_in_no_experiment() -> None:
    """The same users are out of every experiment, in a layer or not; the others are untouched.

    A holdout drawn anew in each experiment holds nobody out of all of them, and measures nothing.
    """
    holdout = layers.Holdout("season-1", 0.05)
    plan = [experiment("one", "ranking", 0.0, 0.5), experiment("free"), experiment("two", "layout")]
    held = holdout.holds(IDS)
    arms, without = layers.enrol(IDS, plan, holdout), layers.enrol(IDS, plan)
    for name in arms:
        n = int((arms[name][held] >= 0).sum())
        assert n == 0, f"expected nobody of the holdout in {name!r}, got {n}"
        moved = int((arms[name][~held] != without[name][~held]).sum())
        assert moved == 0, f"expected the others of {name!r} where they were, {moved} moved"


@pytest.mark.exercise("6.6")
def test_layers_are_independent_of_each_other() -> None:
    """Being in half of one layer says nothing of the other layer, nor of the arm there.

    Expected: a quarter of the users in both, half of those in each arm.
    """
    plan = [experiment("one", "ranking", 0.0, 0.5), experiment("two", "layout", 0.0, 0.5)]
    arms = layers.enrol(IDS, plan)
    both = (arms["one"] >= 0) & (arms["two"] >= 0)
    assert abs(both.mean() - 0.25) < 0.01, f"expected a quarter in both, got {both.mean()}"
    share = (arms["two"][both & (arms["one"] == 1)] == 1).mean()
    assert abs(share - 0.5) < 0.03, f"expected half of one's treated in two's, got {share}"


@pytest.mark.parametrize(("unit", "namespace", "low", "high", "inside"), NAMESPACES)
def test_namespaces_are_those_that_growthbook_publishes(
    unit: str, namespace: str, low: float, high: float, inside: bool
) -> None:
    assert layers.in_namespace(unit, namespace, low, high) is inside
    point = layers.namespace_points(np.array([unit, "longer"]), namespace)[0]
    assert bool(low <= point < high) is inside


def test_layers_are_the_filters_that_growthbook_publishes() -> None:
    """cases.json, "Filtered": by the hash of the seed "seed", version 2."""
    one, anonymous = unit_points(["1", "fsdafsda"], "seed")
    assert 0.2 <= one < 0.4
    assert 0.8 <= anonymous < 1.0
    plan = [experiment("filtered", "seed", 0.2, 0.4)]
    assert (layers.enrol(np.array(["1", "fsdafsda"]), plan)["filtered"] >= 0).tolist() == [
        True,
        False,
    ]


def test_namespaces_with_similar_names_depend_on_each_other_and_layers_do_not() -> None:
    """Why enrol does not use the older hash."""
    ids = np.arange(100_000).astype(np.str_)
    old = {n: (layers.namespace_points(ids, n) >= 0.5).astype(np.int64) for n in ("ns1", "ns2")}
    new = {n: (unit_points(ids, n) >= 0.5).astype(np.int64) for n in ("ns1", "ns2")}
    assert layers.independence(old, "ns1", "ns2").p < 1e-20
    assert layers.independence(new, "ns1", "ns2").p > 0.001


def test_the_test_of_independence_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    arms = {"a": rng.integers(-1, 3, 2000), "b": rng.integers(-1, 2, 2000)}
    found = layers.independence(arms, "a", "b")
    statistic, p, dof, _ = chi2_contingency(found.table, correction=False)
    assert (found.statistic, found.p, found.dof) == pytest.approx((statistic, p, dof), rel=1e-9)


def test_a_pair_that_depends_is_named() -> None:
    rng = np.random.default_rng(1)
    arms = {name: rng.integers(0, 2, 5000) for name in "abc"}
    assert layers.dependent_pairs(arms) == []
    arms["b"] = np.where(rng.random(5000) < 0.2, arms["a"], arms["b"])
    assert [(pair.first, pair.second) for pair in layers.dependent_pairs(arms)] == [("a", "b")]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True))
def test_any_partition_of_a_layer_holds_each_user_once(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 100]
    plan = [experiment(f"e{low}", "layer", low / 100, high / 100) for low, high in pairwise(edges)]
    arms = layers.enrol(IDS[:2000], plan)
    assert (sum((arm >= 0).astype(int) for arm in arms.values()) == 1).all()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([experiment("a", "x", 0, 0.6), experiment("b", "x", 0.5, 1)], "must not overlap"),
        ([experiment("a"), experiment("a")], "must have different names"),
        ([experiment("a", "", 0, 0.5)], "needs a layer"),
        ([experiment("a", "b"), experiment("b")], "must not be the name of an experiment"),
    ],
)
def test_a_plan_that_collides_is_refused(plan: list[Experiment], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layers.enrol(IDS[:10], plan)


def test_bad_holdouts_and_pairs_without_a_common_user_are_refused() -> None:
    with pytest.raises(InputError, match="share of the holdout"):
        layers.Holdout("h", 1.0)
    arms = {"a": np.array([0, -1]), "b": np.array([-1, 0])}
    with pytest.raises(InputError, match="share no unit"):
        layers.independence(arms, "a", "b")
    few = {"a": np.array([0, 1, 0]), "b": np.array([0, 1, 1])}
    with pytest.raises(InputError, match="at least 5"):
        layers.independence(few, "a", "b")
