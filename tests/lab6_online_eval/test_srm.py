"""Exercise 6.5: the sample-ratio check: published numbers, edges, error rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from labs.lab6_online_eval import srm


@pytest.mark.exercise("6.5")
def test_the_published_example() -> None:
    """821,588 against 815,482 users: 50.2 % looks fine and is not; p is 1.82e-6."""
    result = srm.srm_test([821_588, 815_482], [0.5, 0.5])
    assert result.p == pytest.approx(1.8217928726e-6, rel=1e-9), (
        f"expected p = 1.8217928726e-6, got {result.p}"
    )
    assert result.statistic == pytest.approx(22.774, abs=5e-4), (
        f"expected X2 = 22.774, got {result.statistic}"
    )
    assert result.mismatch, f"p = {result.p} must be a mismatch"


@pytest.mark.exercise("6.5")
def test_a_large_mismatch_does_not_underflow_to_zero() -> None:
    """52,500 against 47,500: p is about 1e-55. The survival function knows; 1 - cdf says 0.

    A p of exactly 0 cannot be ranked, combined or plotted, and hides how broken the split is.
    """
    p = srm.srm_test([52_500, 47_500], [0.5, 0.5]).p
    assert 0 < p < 1e-50, f"expected p between 0 and 1e-50, got {p}"
    assert 1 - chi2.cdf(1000.0, 1) == 0.0


@pytest.mark.exercise("6.5")
def test_unequal_weights_and_three_arms_agree_with_scipy() -> None:
    """Arms of 50, 25 and 25 % are compared with their own shares, on k - 1 degrees of freedom.

    A test that assumes equal arms calls every planned 90/10 ramp broken.
    """
    counts, weights = [5100, 2450, 2450], [0.5, 0.25, 0.25]
    expected = chisquare(counts, [5000, 2500, 2500])
    result = srm.srm_test(counts, weights)
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue)), (
        f"expected X2, p = {expected}, got {result.statistic}, {result.p}"
    )
    assert (result.dof, result.expected) == (2, (5000, 2500, 2500)), (
        f"expected 2 degrees of freedom and (5000, 2500, 2500), got {result}"
    )
    assert not result.mismatch, f"p = {result.p} is no mismatch"


@pytest.mark.exercise("6.5")
def test_healthy_splits_raise_the_alarm_about_as_often_as_promised() -> None:
    """Of fair splits 5 % have p < .05: more would be false alarms, fewer a blind test."""
    rng = np.random.default_rng(0)
    draws = rng.binomial(10_000, 0.5, 2000)
    p = np.array([srm.srm_test([int(n), 10_000 - int(n)], [0.5, 0.5]).p for n in draws])
    rate, alarms = float(np.mean(p < 0.05)), float(np.mean(p < 0.001))
    assert rate == pytest.approx(0.05, abs=0.015), f"expected 5 % with p < .05, got {rate:.1%}"
    assert alarms < 0.004, f"expected about 0.1 % alarms, got {alarms:.2%}"


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ([10], [1.0], "at least two arms"),
        ([10, 10], [1.0], "must be 2, one an arm"),
        ([10, -1], [0.5, 0.5], "must not be negative"),
        ([10, 10], [1.0, 0.0], "leave empty arms out"),
        ([10, 10], [0.5, 0.4], "must sum to 1"),
        ([0, 0], [0.5, 0.5], "at least 5 for the chi-square law"),
    ],
)
def test_unusable_counts_are_refused(counts: list[int], weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        srm.srm_test(counts, weights)
