import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from common.errors import InputError
from labs.lab3_fairness.shrinkage import (
    ALIKE,
    beta_binomial_shrinkage,
    held_out_error,
    james_stein,
    log_likelihood,
)

# Efron and Morris 1975, table 1: hits in the first 45 times at bat, and the rest of the season.
HITS = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])
SEASON = np.array(
    [0.346, 0.298, 0.276, 0.222, 0.273, 0.270, 0.263, 0.210, 0.269, 0.230, 0.264, 0.256, 0.303,
     0.264, 0.226, 0.285, 0.316, 0.200]
)  # fmt: skip


def error(rates):
    return float(np.sum((rates - SEASON) ** 2))


def test_james_stein_predicts_the_season_as_in_the_paper():
    """The factor kept is 0.209, and the squared error 0.28 of that of the raw averages."""
    y = np.sqrt(45) * np.arcsin(2 * HITS / 45 - 1)
    shrunk = james_stein(y, 1.0)
    assert (shrunk - y.mean())[0] / (y - y.mean())[0] == pytest.approx(0.209, abs=1e-3)
    rates = (np.sin(shrunk / np.sqrt(45)) + 1) / 2
    assert error(rates) / error(HITS / 45) == pytest.approx(0.28, abs=0.01)


def test_the_beta_binomial_predicts_it_about_as_well():
    found = beta_binomial_shrinkage(HITS, np.full(18, 45))
    assert found.mean == pytest.approx(HITS.mean() / 45, abs=1e-3)
    assert error(found.values) < 0.35 * error(HITS / 45)


def test_the_prior_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(0)
    n = rng.integers(20, 400, 40)
    hits = rng.binomial(n, rng.beta(6, 14, 40))
    found = beta_binomial_shrinkage(hits, n)
    best = log_likelihood(hits, n, found.mean, found.weight)
    theirs = betabinom.logpmf(
        hits, n, found.mean * found.weight, (1 - found.mean) * found.weight
    ).sum()
    assert best == pytest.approx(theirs)
    for mean in (0.97, 1, 1.03):
        for weight in (0.9, 1, 1.1):
            other = log_likelihood(hits, n, found.mean * mean, found.weight * weight)
            assert other <= best + 1e-6, (mean, weight)
    assert (found.mean, found.weight) == (pytest.approx(0.3, abs=0.05), pytest.approx(20, rel=0.6))


counts = st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(counts, min_size=3, max_size=12).filter(
        lambda pairs: sum(n > 0 for _, n in pairs) >= 3
    )
)
def test_a_rate_moves_towards_the_mean_and_never_past_it(pairs):
    hits, n = np.array(pairs).T
    found = beta_binomial_shrinkage(hits, n)
    raw = hits / np.maximum(n, 1)
    low, high = np.minimum(raw, found.mean), np.maximum(raw, found.mean)
    known = n > 0
    assert (found.values[known] >= low[known] - 1e-9).all()
    assert (found.values[known] <= high[known] + 1e-9).all()
    assert np.allclose(found.values[~known], found.mean)
    assert (found.low <= found.values + 1e-9).all()
    assert (found.values <= found.high + 1e-9).all()


def test_groups_that_do_not_differ_are_held_at_one_rate():
    found = beta_binomial_shrinkage(np.full(10, 30), np.full(10, 100))
    assert found.weight > ALIKE / 10
    np.testing.assert_allclose(found.values, 0.3, atol=1e-3)


def test_shrunk_rates_are_nearer_to_rows_that_were_held_out():
    rng = np.random.default_rng(1)
    n = np.full(15, 1000)
    hits = rng.binomial(n, rng.beta(12, 28, 15))
    found = held_out_error(hits, n, keep=20, repeats=40)
    assert found.n_groups == 15
    assert found.shrunk < 0.75 * found.raw, found
    assert found.raw == pytest.approx(np.sqrt(0.21 / 20), rel=0.15)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: beta_binomial_shrinkage([1, 2], [3]), "must both be"),
        (lambda: beta_binomial_shrinkage([4, 1, 1], [3, 3, 3]), r"successes\[0\] = 4"),
        (lambda: beta_binomial_shrinkage([1, 1, 0], [3, 3, 0]), "groups with rows = 2"),
        (lambda: james_stein([1.0, 2.0, 3.0], 1.0), "g >= 4"),
        (lambda: james_stein([1.0, 2.0, 3.0, 4.0], 0.0), "variance = 0"),
        (lambda: held_out_error([5, 5, 5], [50, 50, 50], keep=20), "enough rows = 0"),
    ],
)
def test_bad_arguments_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
