"""Intervals: they hold what they promise, and refuse what they cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.statistics import bootstrap_ci, mean_ci, proportion_ci


def test_the_bootstrap_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = bootstrap_ci(values)
    mean, normal_low, normal_high = mean_ci(values)
    assert low < mean < high
    assert (low, high) == pytest.approx((normal_low, normal_high), abs=0.02)


def test_the_bootstrap_covers_the_truth_about_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(300):
        low, high = bootstrap_ci(rng.exponential(1.0, 200), n_boot=300, seed=trial)
        inside += low <= 1.0 <= high
    assert 0.90 <= inside / 300 <= 0.98, f"coverage {inside / 300}"


def test_the_same_seed_gives_the_same_interval_and_chunks_do_not_matter() -> None:
    values = np.random.default_rng(2).normal(size=9000)
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


def test_other_statistics_are_taken_along_the_resamples() -> None:
    values = np.arange(101.0)
    low, high = bootstrap_ci(values, np.median)
    assert 30 < low < 50 < high < 70


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError):
        bootstrap_ci(values)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="n_boot = 10 must be at least 100"):
        bootstrap_ci([1.0, 2.0], n_boot=10)


def test_wilson_interval_matches_published_values() -> None:
    """Newcombe (1998), 81 of 263: .2553 to .3662; none of 20: 0 to .1611."""
    assert proportion_ci(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert proportion_ci(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
