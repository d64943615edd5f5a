import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from common.errors import InputError
from common.statistics import proportion_ci
from labs.lab3_fairness import score_intervals
from labs.lab3_fairness.score_intervals import (
    all_pairs_z,
    difference_interval,
    largest_difference_interval,
    largest_gap_interval,
    ratio_interval,
    smallest_ratio_interval,
    wilson,
    wilson_mean,
)

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
EASY = {"derandomize": True, "deadline": None, "max_examples": 40}


@settings(**EASY)
@given(counts)
def test_wilson_is_that_of_statsmodels(pair):
    hits, n = pair
    expected = proportion_confint(hits, n, method="wilson")
    np.testing.assert_allclose(wilson(hits, n), expected, atol=1e-12)
    np.testing.assert_allclose(wilson(hits, n), proportion_ci(hits, n), atol=1e-12)


@settings(**EASY)
@given(counts, counts)
def test_the_difference_is_newcombes_of_statsmodels(first, second):
    expected = confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
    found = difference_interval(
        first[0] / first[1], wilson(*first), second[0] / second[1], wilson(*second)
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_newcombes_own_example():
    """56 of 70 against 48 of 80: 0.0524 to 0.3339 in Newcombe 1998, table II, method 10."""
    found = difference_interval(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    np.testing.assert_allclose(found, (0.0524, 0.3339), atol=5e-5)


@settings(**EASY)
@given(counts, counts.filter(lambda pair: pair[0] > 0))
def test_a_ratio_is_in_its_interval_when_the_difference_to_its_multiple_reaches_zero(first, second):
    """The limits of a ratio r are where the interval of p1 - r p2 touches 0."""
    p1, p2 = first[0] / first[1], second[0] / second[1]
    one, (low, high) = wilson(*first), wilson(*second)
    found = ratio_interval(p1, one, p2, (low, high))

    def end(r, side):
        return difference_interval(p1, one, r * p2, (r * low, r * high))[side]

    # As r grows p1 - r p2 falls: its lower end is 0 at the smallest r, its upper at the largest.
    for side in (0, 1):
        if 0 < found[side] < np.inf:
            assert abs(end(found[side], side)) < 1e-9, (side, found[side])
    assert found[0] <= p1 / p2 + 1e-12
    assert found[1] >= p1 / p2 - 1e-12


def test_five_of_five_is_not_certain():
    low, high = wilson(5, 5)
    assert (low, high) == (pytest.approx(0.5655, abs=1e-4), 1)
    assert wilson(0, 5)[0] == 0


def test_nobody_has_no_interval():
    assert np.isnan(wilson(0, 0)).all()


@pytest.mark.parametrize(("hits", "n", "says"), [(6, 5, "6 of n = 5"), (np.nan, 5, "finite")])
def test_what_is_no_count_is_refused(hits, n, says):
    with pytest.raises(InputError, match=says):
        wilson(hits, n)


def test_all_pairs_of_two_groups_are_one_pair():
    assert all_pairs_z(2) == pytest.approx(norm.ppf(0.975))
    assert all_pairs_z(3) == pytest.approx(3.314 / 2**0.5, abs=1e-3)  # q(.05; 3, inf), tables
    assert all_pairs_z(8) == pytest.approx(4.286 / 2**0.5, abs=1e-3)
    with pytest.raises(InputError, match="n_groups = 1"):
        all_pairs_z(1)


def limits(hits, n, g):
    return wilson(hits, n, z=all_pairs_z(g))


def test_the_largest_difference_of_two_groups_is_newcombes_without_its_sign():
    hits, n = np.array([48, 56]), np.array([80, 70])
    found = largest_difference_interval(hits / n, limits(hits, n, 2))
    np.testing.assert_allclose(found, (0.0524, 0.3339), atol=5e-5)
    swapped = largest_difference_interval((hits / n)[::-1], limits(hits[::-1], n[::-1], 2))
    np.testing.assert_allclose(found, swapped)


def test_a_gap_that_chance_may_have_made_reaches_zero():
    hits, n = np.array([10, 12, 14]), np.full(3, 40)
    low, high = largest_difference_interval(hits / n, limits(hits, n, 3))
    assert low == 0 < high
    low, high = smallest_ratio_interval(hits / n, limits(hits, n, 3))
    assert 0 < low < 10 / 14 < high == 1


def test_a_group_without_a_value_stays_out():
    hits, n = np.array([10, 0, 30]), np.array([40, 0, 40])
    with np.errstate(invalid="ignore"):
        values = hits / n
    both = np.array([0, 2])
    for of in (largest_difference_interval, smallest_ratio_interval):
        found = of(values, limits(hits, n, 2))
        np.testing.assert_allclose(found, of(values[both], limits(hits[both], n[both], 2)))
        alone = of(values[:2], limits(hits[:2], n[:2], 2))
        assert np.isnan(alone).all(), alone


def test_a_value_without_limits_leaves_the_largest_difference_without_them():
    """Not 0 to minus infinity, and not the pairs that are left: the bare value may be anywhere."""
    values = np.array([[0.5, 0.7, np.nan], [0.5, 0.7, 0.1]])
    low, high = values - 0.1, values + 0.1
    for of in (largest_difference_interval, smallest_ratio_interval):
        assert np.isfinite(of(values, (low, high))).all()
        bare = np.where(values == 0.7, np.nan, low), np.where(values == 0.7, np.nan, high)
        assert np.isnan(of(values, bare)).all()
        assert np.isnan(of(values, (np.full((2, 3), np.nan),) * 2)).all()


@settings(**EASY)
@given(counts)
def test_the_interval_of_a_mean_of_zeros_and_ones_is_wilsons(pair):
    hits, n = pair
    np.testing.assert_allclose(wilson_mean(hits, hits, n), wilson(hits, n), atol=1e-12)


def test_the_design_effect_is_that_of_the_variance():
    """Shares .2 and .6, 50 rows of each: m = .4, s² = .04, so 100 rows count as 600."""
    total, squares = 50 * 0.2 + 50 * 0.6, 50 * 0.04 + 50 * 0.36
    found = wilson_mean(total, squares, 100)
    np.testing.assert_allclose(found, wilson(0.4 * 600, 600))
    assert wilson_mean(30.0, 9.0, 100) == (pytest.approx(0.3), pytest.approx(0.3))
    same = np.full(10_001, 0.3)
    np.testing.assert_allclose(wilson_mean(same.sum(), (same**2).sum(), 10_001), (0.3, 0.3))
    assert np.isnan(wilson_mean(0, 0, 0)).all()


def test_the_largest_gap_of_two_rates_holds_each_at_half_the_error():
    hits, n = np.array([[30.0, 50], [4, 9]]), np.array([[60.0, 80], [70, 90]])
    rates = [(x, x, m) for x, m in zip(hits, n)]
    z = all_pairs_z(2, 0.975)
    each = [largest_difference_interval(x / m, wilson(x, m, z=z)) for x, m in zip(hits, n)]
    expected = max(low for low, _ in each), max(high for _, high in each)
    np.testing.assert_allclose(largest_gap_interval(rates), expected)
    one = largest_difference_interval(hits[0] / n[0], limits(hits[0], n[0], 2))
    np.testing.assert_allclose(largest_gap_interval(rates[:1]), one)
    with pytest.raises(InputError, match="rates = 0"):
        largest_gap_interval([])


def test_leading_axes_are_data_sets():
    rng = np.random.default_rng(0)
    n = np.array([20, 50, 90])
    hits = rng.binomial(n, 0.3, size=(6, 3))
    together = largest_difference_interval(hits / n, limits(hits, n, 3))
    for row in range(6):
        alone = largest_difference_interval(hits[row] / n, limits(hits[row], n, 3))
        np.testing.assert_allclose([end[row] for end in together], alone)


def test_nobody_selected_anywhere_says_nothing_about_the_ratio():
    hits, n = np.zeros(2), np.full(2, 30)
    assert smallest_ratio_interval(hits / n, limits(hits, n, 2)) == (0, 1)
    assert score_intervals.ratio_interval(0.5, (0.4, 0.6), 0.0, (0.0, 0.1))[1] == np.inf
