"""The sample-ratio check against published numbers, at its edges, and its error rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from labs.lab6_online_eval.srm import srm_test


def test_the_published_example() -> None:
    """821,588 against 815,482 users: 50.2 % looks fine and is not."""
    result = srm_test([821_588, 815_482], [0.5, 0.5])
    assert result.p == pytest.approx(1.8217928726e-6, rel=1e-9)
    assert result.statistic == pytest.approx(22.774, abs=5e-4)
    assert result.mismatch


def test_a_large_mismatch_does_not_underflow_to_zero() -> None:
    result = srm_test([60_000, 40_000], [0.5, 0.5])
    assert 0 < srm_test([52_500, 47_500], [0.5, 0.5]).p < 1e-50
    assert 1 - chi2.cdf(result.statistic, 1) == 0.0


def test_it_agrees_with_scipy_on_three_arms() -> None:
    counts, weights = [5100, 2450, 2450], [0.5, 0.25, 0.25]
    expected = chisquare(counts, [5000, 2500, 2500])
    result = srm_test(counts, weights)
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert result.expected == (5000, 2500, 2500)
    assert not result.mismatch


def test_healthy_splits_raise_the_alarm_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    draws = rng.binomial(10_000, 0.5, 4000)
    p = np.array([srm_test([int(n), 10_000 - int(n)], [0.5, 0.5]).p for n in draws])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p < 0.001) < 0.004


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
        srm_test(counts, weights)
