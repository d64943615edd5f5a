"""Latency percentiles: observed values, in order, by the definition of MLPerf Inference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.latency import LatencySummary

seconds = st.lists(st.floats(0, 1e3, allow_nan=False, width=32), min_size=1, max_size=400)


@settings(derandomize=True, deadline=None)
@given(seconds)
def test_percentiles_are_observed_values_in_order(values: list[float]) -> None:
    """An interpolated p99 is a latency that nobody had."""
    summary = LatencySummary.of(values, how="drawn")
    percentiles = [summary.p50_ms, summary.p95_ms, summary.p99_ms, summary.max_ms]
    assert percentiles == sorted(percentiles)
    observed = set((np.array(values, dtype=np.float64) * 1000).tolist())
    assert set(percentiles) <= observed
    assert min(observed) - 1e-9 <= summary.mean_ms <= max(observed) * (1 + 1e-12)
    assert (summary.n, summary.how) == (len(values), "drawn")


@settings(derandomize=True, deadline=None)
@given(seconds, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(values: list[float], random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    one, other = LatencySummary.of(values, how=""), LatencySummary.of(shuffled, how="")
    assert one.p99_ms == other.p99_ms
    assert one.mean_ms == pytest.approx(other.mean_ms)


@pytest.mark.parametrize("n", [1, 2, 19, 20, 99, 100, 101, 662, 1000, 12345])
def test_the_quantile_is_the_sorted_value_at_n_times_q(n: int) -> None:
    summary = LatencySummary.of(np.arange(n)[::-1] / 1000, how="")
    for got, q in ((summary.p50_ms, "0.5"), (summary.p95_ms, "0.95"), (summary.p99_ms, "0.99")):
        assert got == pytest.approx(int(n * Fraction(q))), f"n = {n}, q = {q}"


def test_at_least_99_percent_are_no_slower_than_the_p99() -> None:
    values = np.random.default_rng(0).exponential(0.01, 5000)
    summary = LatencySummary.of(values, how="")
    assert np.mean(values * 1000 <= summary.p99_ms) >= 0.99


@pytest.mark.parametrize("bad", [[], [0.1, float("nan")], [0.1, float("inf")], [-0.001, 0.1]])
def test_what_no_clock_measures_is_refused(bad: list[float]) -> None:
    """A NaN would sort to the end and hide a p99; a negative one means two clocks were mixed."""
    with pytest.raises(ValueError, match="latencies"):
        LatencySummary.of(bad, how="")


def test_latencies_of_several_clients_are_taken_together() -> None:
    assert LatencySummary.of([[0.001, 0.004], [0.003, 0.002]], how="").max_ms == 4
    assert LatencySummary.of([[0.001, 0.004], [0.003, 0.002]], how="").n == 4
