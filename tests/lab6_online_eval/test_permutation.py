"""Permutation tests against scipy, by hand, and under arms that differ in spread only."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_test
from scipy.stats import ttest_ind

from labs.lab6_online_eval import permutation


def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def welch(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return ttest_ind(x, y, axis=axis, equal_var=False).statistic


def test_six_units_by_hand() -> None:
    """1, 2, 3 against 4, 5, 6: of 20 assignments two are as extreme, this one and its mirror."""
    result = permutation.permutation_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert result.exact
    assert (result.n_assignments, result.p, result.statistic) == (20, 0.1, 3.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_tests_equal_scipy(seed: int) -> None:
    """All assignments of ten units: p to 1e-9, with the difference and with Welch's t.

    scipy doubles the smaller tail; with arms of equal size both tails are the same.
    """
    rng = np.random.default_rng(seed)
    control, treatment = rng.exponential(1, 5), rng.exponential(2, 5)
    for mine, statistic in (
        (permutation.permutation_test, difference),
        (permutation.studentised_permutation_test, welch),
    ):
        its = scipy_test((treatment, control), statistic, vectorized=True, n_resamples=np.inf)
        found = mine(control, treatment)
        assert found.p == pytest.approx(its.pvalue, abs=1e-9)
        assert found.statistic == pytest.approx(its.statistic, abs=1e-9)


def test_a_sample_of_assignments_is_near_all_of_them() -> None:
    """And counts itself: with 999 assignments no p is below 1/1000."""
    rng = np.random.default_rng(3)
    control, treatment = rng.normal(0, 1, 9), rng.normal(0.9, 1, 9)
    exact = permutation.permutation_test(control, treatment, n_resamples=50_000)
    sampled = permutation.permutation_test(control, treatment, n_resamples=20_000, seed=1)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p / 20_000))
    far = permutation.permutation_test(control, control[:8] + 100, n_resamples=999)
    assert far.p == pytest.approx(1 / 1000)


def test_equal_values_are_ties_whatever_the_rounding() -> None:
    """Tenths do not add up exactly; an assignment with the same values is as extreme."""
    control, treatment = [0.1, 0.2, 0.3], [0.3, 0.1, 0.2]
    assert permutation.permutation_test(control, treatment).p == 1.0
    values = [0.1, 0.1, 0.7, 0.1, 0.7, 0.7]
    found = permutation.permutation_test(values[:3], values[3:])
    observed = abs(sum(values[3:]) - sum(values[:3]))
    extreme = sum(
        abs(2 * sum(chosen) - sum(values)) >= observed - 1e-12 for chosen in combinations(values, 3)
    )
    assert found.p == pytest.approx(extreme / 20)


def test_a_difference_in_spread_alone_fools_the_plain_test() -> None:
    """Equal means; 12 units with three times the spread of 36: 5 % becomes far more.

    The studentised test stays near it.
    """
    rng = np.random.default_rng(4)
    plain = studentised = 0
    n = 300
    for seed in range(n):
        control, treatment = rng.normal(0, 1, 36), rng.normal(0, 3, 12)
        options = {"n_resamples": 199, "seed": seed}
        plain += permutation.permutation_test(control, treatment, **options).p < 0.05
        studentised += (
            permutation.studentised_permutation_test(control, treatment, **options).p < 0.05
        )
    assert plain / n > 0.15, plain / n
    assert studentised / n < 0.09, studentised / n


def test_the_interval_is_near_students_where_students_holds() -> None:
    """Normal values: the quantile of |T*| is Student's, up to the sampling of assignments."""
    rng = np.random.default_rng(5)
    control, treatment = rng.normal(0, 1, 40), rng.normal(1, 1, 40)
    low, high = permutation.permutation_interval(control, treatment, n_resamples=4000)
    its = ttest_ind(treatment, control, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((its.low, its.high), abs=0.05)
    narrow = permutation.permutation_interval(control, treatment, alpha=0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(ValueError, match="variance within arms"):
        permutation.permutation_interval([1.0, 1.0], [2.0, 2.0])


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        (([1.0], [2.0, 3.0]), {}, "values in control = 1 must be at least 2"),
        (([1.0, np.nan], [2.0, 3.0]), {}, "not finite = 1 must be 0"),
        (([1.0, 1.0], [1.0, 1.0]), {}, "a constant needs no test"),
        (([1.0, 2.0], [2.0, 3.0]), {"n_resamples": 20}, "n_resamples = 20 must be at least 99"),
    ],
)
def test_unusable_input_is_refused(arms: tuple, options: dict, message: str) -> None:
    for test in (permutation.permutation_test, permutation.studentised_permutation_test):
        with pytest.raises(ValueError, match=message):
            test(*arms, **options)
