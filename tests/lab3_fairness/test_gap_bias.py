import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness.gap_bias import fair_gap, fair_gaps, null_of_fair_data


def test_eight_groups_of_fifty_have_a_gap_of_eighteen_points():
    """Known answers: E[DPD] 0.184, and the four-fifths rule fails on 99.5 % (simulated 0.994)."""
    found = fair_gap(8, 50, 0.3)
    assert found.expected_gap == pytest.approx(0.184, abs=5e-4)
    assert found.four_fifths_fails == pytest.approx(0.995, abs=1e-3)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(2, 10), st.integers(1, 60), st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_the_formula_is_what_simulation_gives(n_groups, size, rate):
    hits = np.random.default_rng(0).binomial(size, rate, size=(20_000, n_groups))
    low, high = hits.min(axis=1), hits.max(axis=1)
    gaps = (high - low) / size
    found = fair_gap(n_groups, size, rate)
    assert found.expected_gap == pytest.approx(gaps.mean(), abs=5 * gaps.std() / 20_000**0.5)
    assert found.four_fifths_fails == pytest.approx(np.mean(5 * low < 4 * high), abs=0.018)


def test_the_gap_falls_with_size_and_grows_with_the_number_of_groups():
    by = {(g.n_groups, g.size): g.expected_gap for g in fair_gaps()}
    assert by[2, 50] < by[4, 50] < by[8, 50] < by[16, 50]
    # As the standard error does: four times the rows, half the gap.
    assert by[8, 200] / by[8, 50] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("bad", [(1, 50, 0.3), (2, 0, 0.3), (2, 50, 0.0)])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(InputError, match="must be"):
        fair_gap(*bad)


def test_the_permutation_null_finds_that_gap_without_knowing_the_rate():
    nulls = [null_of_fair_data(8, 50, 0.3, seed=seed) for seed in range(20)]
    means = [null.mean for null in nulls]
    assert np.mean(means) == pytest.approx(fair_gap(8, 50, 0.3).expected_gap, rel=0.04)
    assert np.mean([null.observed for null in nulls]) == pytest.approx(0.184, abs=0.03)
