"""How sure a percentile is: ranks, samples needed, and what is said when there are too few."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import percentiles


@pytest.mark.exercise("4.18")
def test_the_ranks_are_those_of_the_binomial():
    """Median of ten values, 95 %: P(B <= 1) = 11/1024 and P(B <= 2) = 56/1024, so ranks 2 and 9.

    One rank nearer on either side, and the interval misses the median more often than 2.5 %.
    """
    found = percentiles.percentile_interval(np.arange(10.0, 0, -1), 0.5, 0.95)
    assert (found.low, found.high) == (2, 9), (
        f"ranks {found.low:.0f} and {found.high:.0f} of 10, expected 2 and 9"
    )
    assert (found.n, found.value) == (10, 6), f"n {found.n}, median {found.value}"


@pytest.mark.exercise("4.18")
def test_a_p99_of_a_thousand_lies_between_two_late_ranks():
    """n = 1,000, q = 0.99, 95 %: ranks 983 and 997, though sorted[990] is the p99 itself.

    The two sides are not equally far away. Each may be wrong with 2.5 %, not with 5 %.
    """
    found = percentiles.percentile_interval(np.arange(1, 1001), 0.99, 0.95)
    assert found.value == 991, f"the p99 is {found.value}, expected sorted[990] = 991"
    assert (found.low, found.high) == (983, 997), (
        f"ranks {found.low:.0f} and {found.high:.0f}, expected {983} and {997}"
    )


@pytest.mark.exercise("4.18")
def test_too_small_a_sample_has_no_upper_limit():
    """P(no value of n is above the p99) = 0.99^n <= 2.5 % from n = 368 on.

    With 50 requests the p99 may be anywhere above them: to answer with the largest is to claim
    what was not measured.
    """
    for n, bounded in ((50, False), (367, False), (368, True)):
        found = percentiles.percentile_interval(np.linspace(0.01, 0.02, n), 0.99, 0.95)
        assert (found.high < inf) == bounded, f"n = {n}: the upper limit is {found.high}"
        assert found.is_bounded == bounded


@pytest.mark.exercise("4.18")
def test_the_interval_covers_as_often_as_it_says():
    """1,000 samples of 800 latencies with a heavy tail: 90 % intervals cover the true p95.

    Ranks are whole numbers, so coverage is a little above 90 %, never below. An interval from mean
    and standard deviation misses most of the time here.
    """
    rng = np.random.default_rng(5)
    truth = 20.0  # 1 / (1 - 0.95): the p95 of a Pareto with index 1
    samples = 1 / (1 - rng.random((1000, 800)))
    found = [percentiles.percentile_interval(sample, 0.95, 0.90) for sample in samples]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.88 < covered < 0.94, f"the 90 % interval covered the true p95 in {covered:.1%}"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    n=st.integers(1, 3000),
    q=st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_observed_percentile_is_in_its_interval(n, q, seed):
    """Whatever n, quantile and values are, with failures (infinite) among them or not."""
    values = np.random.default_rng(seed).exponential(size=n)
    values[: n // 50] = inf
    found = percentiles.percentile_interval(values, q)
    assert found.low <= found.value <= found.high
    wider = percentiles.percentile_interval(values, q, 0.99)
    assert wider.low <= found.low
    assert wider.high >= found.high


@settings(derandomize=True, deadline=None, max_examples=30)
@given(n=st.integers(1, 5000), p=st.floats(0.001, 0.999))
def test_the_binomial_distribution_agrees_with_scipy(n, p):
    from scipy.special import bdtr

    assert percentiles.binomial_cdf(n, p) == pytest.approx(bdtr(np.arange(n + 1), n, p), abs=1e-9)


def test_a_p99_at_99_percent_needs_662_requests_and_459_without_a_late_one():
    """0.99^459 < 1 %; with one late request among them 662. A p90 needs 64, a p999 6,636."""
    assert percentiles.minimum_samples(0.99, 0.99, over=0) == 459
    assert percentiles.minimum_samples(0.99, 0.99, over=1) == 662
    assert percentiles.minimum_samples(0.90, 0.99) == 64
    assert percentiles.minimum_samples(0.999, 0.99) == 6636


def test_the_minimum_is_the_least_that_shows_it():
    for over in range(4):
        n = percentiles.minimum_samples(0.95, 0.9, over)
        assert percentiles.binomial_cdf(n, 0.05)[over] <= 0.1
        assert percentiles.binomial_cdf(n - 1, 0.05)[over] > 0.1


def test_a_margin_of_a_twentieth_of_the_tail_gives_the_number_of_mlperf():
    """262,742, rounded up to a multiple of 2^13: 270,336."""
    n = percentiles.samples_for_margin(0.99, 0.01 / 20)
    assert n == 262742
    assert -(-n // 2**13) * 2**13 == 270336


def test_too_few_requests_are_said_to_be_too_few():
    assert percentiles.too_few(662) is None
    assert percentiles.too_few(50) == (
        "50 requests are too few for a p99: 662 are needed for 99 % confidence"
    )
    assert percentiles.too_few(5000, 0.999).startswith("5000 requests are too few for a p99.9")


def test_the_share_over_a_limit_has_the_exact_interval():
    """Clopper and Pearson, checked by its definition; none of 100 late still allows 3.6 %."""
    low, high = percentiles.share_over_interval(5, 1000)
    assert 1 - percentiles.binomial_cdf(1000, low)[4] == pytest.approx(0.025)
    assert percentiles.binomial_cdf(1000, high)[5] == pytest.approx(0.025)
    assert percentiles.share_over_interval(0, 100) == (0.0, pytest.approx(0.03622, abs=1e-5))
    assert percentiles.share_over_interval(3, 3)[1] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: percentiles.percentile_interval([], 0.9), "number of values = 0"),
        (lambda: percentiles.percentile_interval([1], 1.0), "q = 1.0 must be between"),
        (lambda: percentiles.percentile_interval([1], 0.5, 1), "confidence = 1 must be"),
        (lambda: percentiles.minimum_samples(99), "q = 99 must be between 0 and 1"),
        (lambda: percentiles.samples_for_margin(0.99, 0), "margin = 0 must be > 0"),
        (lambda: percentiles.share_over_interval(2, 1), "over = 2 must be between 0 and n = 1"),
    ],
)
def test_a_quantile_that_cannot_be_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
