"""The frontier: which points nobody beats, and what post-processing offers at a method's gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import frontier
from labs.lab3_fairness.decisions import outcome
from labs.lab3_fairness.mitigation import Mitigated
from labs.lab3_fairness.relaxed_odds import score_bins
from labs.lab3_fairness.target_rules import ScoredRows

FEW = settings(derandomize=True, deadline=None, max_examples=40)


def synthetic(seed: int, n: int = 8000) -> ScoredRows:
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.4, "b", "a").astype(object)
    logits = rng.normal(np.where(groups == "a", -0.3, -1.2), 1.7)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return ScoredRows(1 / (1 + np.exp(-logits)), labels, groups)


def method(name: str, positive) -> Mitigated:
    return Mitigated(name, "in", np.asarray(positive, dtype=float), True, False, 0.0)


@FEW
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_the_pareto_set_is_what_no_point_beats(points):
    """Against the definition, pair by pair."""
    accuracy, dp, eo = np.array(points, dtype=float).T
    kept = frontier.pareto(accuracy, dp, eo)
    for i, (a, d, e) in enumerate(points):
        beaten = any(x >= a and y <= d and z <= e and (x, y, z) != (a, d, e) for x, y, z in points)
        assert kept[i] == (not beaten)


def test_paired_resamples_keep_what_the_rules_share():
    """Two rules that differ by one row in 100 differ by exactly that in every replicate's
    neighbourhood, however far accuracy itself scatters."""
    rows = synthetic(0)
    first = (rows.scores > 0.5).astype(float)
    second = first.copy()
    second[::100] = 1 - second[::100]
    observed, replicates = frontier.paired_gaps(rows.labels, first, second, rows.groups, n_boot=300)
    difference = replicates[:, 0, 0] - replicates[:, 1, 0]
    assert difference.std() < 0.5 * replicates[:, 0, 0].std()
    assert difference.mean() == pytest.approx(observed[0, 0] - observed[1, 0], abs=3e-4)


def test_paired_gaps_are_those_of_an_outcome():
    rows = synthetic(1)
    rules = [(rows.scores > cut).astype(float) for cut in (0.4, 0.6)]
    observed, _ = frontier.paired_gaps(rows.labels, *rules, rows.groups, n_boot=1)
    for row, rule in zip(observed, rules):
        found = outcome(rows.labels, rule, rows.groups, n_boot=1)
        assert row == pytest.approx([found.accuracy, found.dp_diff, found.eo_diff])


def test_a_worse_model_is_beaten_at_its_own_gaps_and_an_oracle_is_not():
    """The comparison can go either way: it is a measurement, not a theorem on finite data."""
    validation, test = synthetic(2), synthetic(3)
    noise = np.random.default_rng(0).normal(0, 0.25, len(test.labels))
    worse = method("worse", test.scores + noise > 0.5)
    oracle = method("oracle", np.where(noise > 0.35, test.scores > 0.5, test.labels))
    found = frontier.compare_with_programme([worse, oracle], validation, test, n_boot=300)
    assert found[0].beaten
    assert not found[0].ahead
    assert found[1].ahead
    assert not found[1].beaten


def test_a_method_held_to_its_own_gaps_loses_to_the_programme_no_more_than_noise():
    """Plain thresholding of the same scores: the programme does as well within the interval."""
    validation, test = synthetic(4), synthetic(5)
    (found,) = frontier.compare_with_programme(
        [method("same scores", test.scores > 0.5)], validation, test, n_boot=300
    )
    assert abs(found.gain) < 0.006
    assert found.eo_excess == pytest.approx(0, abs=0.05)


def test_the_surface_never_falls_and_is_flat_without_bounds():
    validation = synthetic(6)
    bins = score_bins(validation.scores, validation.labels, validation.groups, n_bins=40)
    bounds = (0.0, 0.05, 0.15, 1.0)
    surface = frontier.frontier_surface(bins, bounds, bounds)
    assert surface.shape == (4, 4)
    assert np.diff(surface, axis=0).min() >= -1e-7
    assert np.diff(surface, axis=1).min() >= -1e-7
    assert surface[0, 0] < surface[-1, -1]


def test_a_curve_is_judged_on_rows_that_did_not_choose():
    curve = frontier.frontier_curve(synthetic(7), synthetic(8), (0.0, 0.1, 1.0), (1.0, 1.0, 1.0))
    assert np.array_equal(curve.bounds, [0.0, 0.1, 1.0])
    assert np.diff(curve.promised).min() >= -1e-9
    assert curve.dp_diff[0] > 0
    assert np.abs(curve.accuracy - curve.promised).max() < 0.03


def test_points_that_do_not_pair_up_and_names_used_twice_are_errors():
    rows = synthetic(0, 500)
    with pytest.raises(InputError, match="align the points"):
        frontier.pareto([0.1, 0.2], [0.1])
    with pytest.raises(InputError, match="NaN"):
        frontier.pareto([0.1, np.nan], [0.1, 0.2])
    with pytest.raises(InputError, match="gaps"):
        frontier.pareto([0.1])
    twice = [method("a", rows.scores > 0.5)] * 2
    with pytest.raises(InputError, match="names of their own"):
        frontier.compare_with_programme(twice, rows, rows)
    with pytest.raises(InputError, match="pair up"):
        frontier.frontier_curve(rows, rows, (0.1,), (0.1, 0.2))
    short = method("short", rows.scores[:10] > 0.5)
    with pytest.raises(InputError, match="must both be"):
        frontier.compare_with_programme([short], rows, rows)


def test_fairlearns_rules_close_the_gap_they_were_made_for():
    """On the rows that chose them each rule's own gap is 0, up to the grid of common rates."""
    rows = synthetic(3)
    rules = {rule.name: rule for rule in frontier.fairlearn_rules(rows, rows)}
    assert list(rules) == ["threshold_optimizer_dp", "threshold_optimizer_eo"]
    parity, odds = (outcome(rows.labels, r.positive, rows.groups, n_boot=1) for r in rules.values())
    assert parity.dp_diff < 0.002
    assert odds.eo_diff < 0.005
    assert parity.eo_diff > 0.02, "groups of other base rates cannot have both"
    assert odds.dp_diff > 0.02
    assert all(rule.randomised and rule.needs_group for rule in rules.values())
