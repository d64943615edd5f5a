"""Rules without a coin: they reach the point, they repeat themselves, and rounding is bounded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import derandomize
from labs.lab3_fairness.decisions import expected_rates
from labs.lab3_fairness.relaxed_odds import (
    bin_rates,
    isotonic_labels,
    monotone_relaxed_odds,
    relaxed_odds,
    score_bins,
)

FEW = settings(derandomize=True, deadline=None, max_examples=15)


def synthetic(seed: int, n: int = 6000):
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.4, "b", "a")
    logits = rng.normal(np.where(groups == "a", -0.3, -1.2), np.where(groups == "a", 1.2, 2.0))
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    return 1 / (1 + np.exp(-logits)), labels, groups


def rates_at(rule, scores, labels, groups):
    smooth = isotonic_labels(scores, labels, groups)
    positive = rule.positive(scores, groups)
    points = []
    for name in ("a", "b"):
        rows = groups == name
        p, y = positive[rows], smooth[rows]
        points.append(((p * (1 - y)).sum() / (1 - y).sum(), (p * y).sum() / y.sum()))
    return np.array(points)


@FEW
@given(st.integers(0, 1000), st.sampled_from([(1.0, 0.0), (1.0, 0.03), (0.05, 0.1)]))
def test_bands_stand_where_the_programme_stands(seed, bounds):
    """On smoothed validation labels each group's rates are those asked for, without a coin."""
    scores, labels, groups = synthetic(seed)
    smooth = isotonic_labels(scores, labels, groups)
    bins = score_bins(scores, smooth, groups, n_bins=60)
    rule = monotone_relaxed_odds(bins, dp_bound=bounds[0], eo_bound=bounds[1])
    bands = derandomize.band_rule(scores, labels, groups, rule.roc_points)
    assert np.isin(bands.positive(scores, groups), (0, 1)).all()
    found = rates_at(bands, scores, labels, groups)
    assert np.abs(found - rule.roc_points).max() < 0.012, (found, rule.roc_points)


def test_a_point_on_the_curve_needs_no_band():
    """A threshold reaches it, and nobody is passed over."""
    scores, labels, groups = synthetic(1)
    rule = monotone_relaxed_odds(score_bins(scores, labels, groups, n_bins=60))
    bands = derandomize.band_rule(scores, labels, groups, rule.roc_points)
    assert [band.passed_over for band in bands.bands.values()] == [0, 0]
    assert [band.inversion for band in bands.bands.values()] == [0, 0]


def test_a_point_below_the_curve_passes_over_people_with_higher_scores():
    """Those between the ends are rejected, lower scores accepted: the price is visible."""
    scores, labels, groups = synthetic(2)
    bands = derandomize.band_rule(scores, labels, groups, [(0.1, 0.4), (0.1, 0.4)]).bands
    for name, band in bands.items():
        values = scores[groups == name]
        between = np.mean((values > band.high) & (values <= band.top))
        assert band.low < band.high < band.top
        assert between == pytest.approx(band.passed_over, abs=0.001)
        assert band.inversion > 0


@FEW
@given(st.integers(0, 1000), st.floats(0, 0.2))
def test_rounding_a_vertex_costs_at_most_half_its_fractional_bins(seed, bound):
    """The loss has a bound before anything is measured: the shares of three bins."""
    bins = score_bins(*synthetic(seed, 2000), n_bins=50)
    rule = relaxed_odds(bins, eo_bound=bound)
    flat = derandomize.rounded(rule)
    assert flat.fractional == 0
    loose = (rule.accept > 0) & (rule.accept < 1)
    counts = (bins.positives + bins.negatives, bins.positives, bins.negatives)
    before = bin_rates(rule.accept, bins.positives, bins.negatives)
    after = bin_rates(flat.accept, bins.positives, bins.negatives)
    for count, old, new in zip(counts, before, after):
        allowed = 0.5 * (count * loose).sum(axis=1) / count.sum(axis=1)
        assert (np.abs(new - old) <= allowed + 1e-9).all()


def people(n: int = 20_000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"age": rng.integers(0, 10**6, n), "job": rng.choice(["x", "y"], n)})


def test_the_hash_is_uniform_fixed_and_blind_to_the_row_number():
    """Same person, same coin, in any order; the coins of many people are uniform."""
    rows = people()
    coins = derandomize.hashed_coin(rows, "salt")
    order = np.random.default_rng(1).permutation(len(rows))
    assert np.array_equal(derandomize.hashed_coin(rows.iloc[order], "salt"), coins[order])
    counts = np.histogram(coins, bins=20, range=(0, 1))[0]
    # Chi-squared with 19 degrees of freedom exceeds 43.8 once in 1,000.
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 43.8


def test_another_salt_or_another_hour_of_work_tosses_again():
    """Arbitrary: a change that means nothing decides anew for half of those in the lottery."""
    rows = people()
    before = derandomize.decide_by_hash(np.full(len(rows), 0.5), rows, "salt")
    for other, salt in ((rows, "pepper"), (rows.assign(age=rows["age"] + 1), "salt")):
        after = derandomize.decide_by_hash(np.full(len(rows), 0.5), other, salt)
        assert float(np.mean(before != after)) == pytest.approx(0.5, abs=0.02)


def test_the_hash_keeps_the_rates_of_the_lottery():
    scores, labels, groups = synthetic(3, 20_000)
    chances = np.clip(scores, 0.2, 0.8)
    decided = derandomize.decide_by_hash(chances, pd.DataFrame({"s": scores}), "salt")
    expected = expected_rates(labels, chances, groups)
    found = expected_rates(labels, decided, groups)
    assert np.abs(found[["tpr", "fpr"]] - expected[["tpr", "fpr"]]).to_numpy().max() < 0.03


def test_certain_decisions_are_not_touched_by_the_hash():
    rows = people(100)
    assert derandomize.decide_by_hash(np.ones(100), rows, "s").all()
    assert not derandomize.decide_by_hash(np.zeros(100), rows, "s").any()


def test_bad_points_salts_and_groups_are_errors():
    scores, labels, groups = synthetic(0, 500)
    with pytest.raises(InputError, match="roc_points"):
        derandomize.band_rule(scores, labels, groups, [(0.1, 0.4)])
    with pytest.raises(InputError, match="salt"):
        derandomize.hashed_coin(people(3), "")
    with pytest.raises(InputError, match="one a row"):
        derandomize.decide_by_hash([0.5], people(3), "s")
    rule = derandomize.band_rule(scores, labels, groups, [(0.1, 0.4), (0.1, 0.4)])
    with pytest.raises(InputError, match="'c' has no band"):
        rule.positive(np.array([0.5]), np.array(["c"]))


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_row_without_a_score_is_not_decided_about(score):
    """NaN is in no band: the person would be refused and nobody would know why."""
    rule = derandomize.band_rule(*synthetic(0, 500), [(0.1, 0.4), (0.1, 0.4)])
    with pytest.raises(InputError, match=r"scores\[1\] = (nan|inf) is not finite"):
        rule.positive([0.5, score], ["a", "b"])


@pytest.mark.parametrize("chance", [np.nan, 1.5, -0.1])
def test_a_chance_that_is_none_is_not_tossed(chance):
    """NaN would be a refusal and 1.5 an acceptance, both without a coin."""
    with pytest.raises(InputError, match=r"positive\[2\]"):
        derandomize.decide_by_hash([0.5, 1.0, chance], people(3), "s")
