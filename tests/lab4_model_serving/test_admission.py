"""Who is let in: the fit that forgets, the margin that learns, the promise that is kept."""

import math

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.admission import Admission, Quantile, ServiceEstimate, ServiceTime


def test_the_estimate_finds_what_a_batch_costs():
    """From batches of changing sizes it separates what a batch costs from what a request costs."""
    rng = np.random.default_rng(0)
    estimate = ServiceEstimate()
    for n in rng.integers(1, 33, 300):
        estimate.add(int(n), (0.002 + 0.0003 * n) * rng.uniform(0.95, 1.05))
    found = estimate.service()
    assert found.fixed_s == pytest.approx(0.002, rel=0.1)
    assert found.item_s == pytest.approx(0.0003, rel=0.1)


def test_with_one_size_only_the_estimate_errs_on_the_slow_side():
    """Singles of 2 ms show no slope; 32 of them are thought to take 64 ms: better early."""
    estimate = ServiceEstimate()
    for _ in range(32):
        estimate.add(1, 0.002)
    assert estimate.service().batch_s(32) == pytest.approx(0.064)


def test_the_estimate_follows_a_server_that_becomes_slower():
    """Half the speed is known after 200 batches, not after as many as there were before."""
    estimate = ServiceEstimate()
    for factor, batches in ((1, 5000), (2, 200)):
        for i in range(batches):
            estimate.add(1 + i % 32, factor * (0.002 + 0.0003 * (1 + i % 32)))
    assert estimate.service().batch_s(32) == pytest.approx(2 * 0.0116, rel=0.05)


def test_a_clock_that_stood_still_breaks_nothing():
    """0 seconds for a batch (a coarse clock) still gives a positive time."""
    estimate = ServiceEstimate()
    estimate.add(4, 0.0)
    assert estimate.service().batch_s(4) > 0


def test_the_quantile_is_where_99_of_100_lie_below():
    """One number of memory finds the 99th percentile of a stream, near enough for a margin."""
    rng = np.random.default_rng(1)
    values = rng.lognormal(0, 0.3, 40_000)
    quantile = Quantile(0.99, start=1.0, low=0.1, high=10.0)
    tail = []
    for value in values:
        quantile.add(float(value))
        tail.append(quantile.value)
    assert np.mean(tail[10_000:]) == pytest.approx(np.quantile(values, 0.99), rel=0.1)


def test_whoever_is_in_the_next_batch_is_let_in():
    """One run of 10 s must not close the server: nothing would run to correct the estimate."""
    admission = Admission(0.05, max_batch=8)
    admission.ran(8, 10.0)
    assert admission.admits(7, busy=True)
    assert not admission.admits(8, busy=True)
    assert admission.retry_after_s(8) > 10


def test_the_bound_is_a_time():
    """Half as fast, half as many may wait; a bound in requests would promise twice the latency."""

    def places(batch_s: float) -> int:
        admission = Admission(0.2, max_batch=8)
        admission.ran(8, batch_s)
        return next(n for n in range(10_000) if not admission.admits(n, busy=True))

    assert places(0.005) == pytest.approx(2 * places(0.01), rel=0.25)


@pytest.mark.parametrize(
    ("fixed_s", "item_s", "batch"),
    [(0.0, 0.001, 16), (0.0, 0.0001, 32), (0.01, 0.001, 6), (0.0, 0.02, 32), (0.04, 0.0001, 32)],
)
def test_a_promise_limits_the_batch(fixed_s, item_s, batch):
    """A third of 50 ms is 16.7 ms: 16 texts of a millisecond, 6 when a batch costs 10 ms first.

    A full batch of 32 ms would break the promise of whoever came just after it had begun. Where
    even one text takes longer than the third, small batches keep no promise and cost throughput.
    """
    admission = Admission(0.05, max_batch=32)
    for n in (1, 8, 16, 32) * 50:
        admission.ran(n, fixed_s + n * item_s)
    assert admission.batch == batch


def test_before_the_first_batch_everybody_is_let_in():
    """Nothing is known, so nothing is promised; the first batches teach it."""
    assert Admission(0.05, max_batch=4).admits(1000, busy=True)
    assert Admission(math.inf, max_batch=4).admits(10**6, busy=True)


@pytest.mark.parametrize("times", [(-1.0, 1.0), (0.0, 0.0), (math.nan, 1.0), (math.inf, 0.0)])
def test_a_service_time_is_positive_and_finite(times):
    """Such times come from broken clocks and fits, and would spread silently into predictions."""
    with pytest.raises(InputError, match="fixed_s"):
        ServiceTime(*times)
