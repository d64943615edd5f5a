"""histogram_quantile by hand, what a fleet of counters grew by, and the error of buckets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import histogram
from labs.lab4_model_serving.histogram import (
    CLIENT_DEFAULT_BOUNDS,
    bucket_errors,
    bucketed,
    exponential_bounds,
    fleet_p99,
    from_exposition,
    merged,
    share_within,
)

INF = math.inf
SMALL = [(0.01, 50.0), (0.02, 90.0), (0.05, 98.0), (0.1, 100.0), (INF, 100.0)]

latencies = st.lists(st.floats(0.0002, 9.0), min_size=1, max_size=200)
bounds = st.lists(st.floats(0.001, 10), min_size=1, max_size=12, unique=True).map(sorted)


@pytest.mark.exercise("4.16")
@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.25, 0.005), (0.5, 0.01), (0.7, 0.015), (0.9, 0.02), (0.94, 0.035), (0.99, 0.075), (1, 0.1)],
)
def test_a_quantile_is_interpolated_within_its_bucket(q, expected):
    """Counts are cumulative: 50, 90, 98, 100. The 99th of 100 lies half-way from 0.05 to 0.1.

    The first bucket begins at 0, each other one at the bound before it.
    """
    found = histogram.quantile(SMALL, q)
    assert found == pytest.approx(expected, rel=1e-9), f"q = {q}: {found}, not {expected}"


@pytest.mark.exercise("4.16")
def test_beyond_the_last_bound_the_last_bound_is_the_answer():
    """In the +Inf bucket nothing can be interpolated. A p99 equal to the largest bound is a floor.

    An alert on "p99 > 0.1" could never fire with these buckets.
    """
    buckets = [(0.05, 10.0), (0.1, 20.0), (INF, 100.0)]
    found = histogram.quantile(buckets, 0.99)
    assert found == 0.1, f"{found}, not the last finite bound 0.1"
    assert histogram.quantile(buckets, 0.15) == pytest.approx(0.075), "0.15 is half-way in bucket 2"


@pytest.mark.exercise("4.16")
def test_nothing_observed_is_nan_and_not_fast():
    """0 would be drawn as the best latency ever, and no alert on it would fire; NaN is a gap."""
    for buckets in (
        [(0.05, 0.0), (INF, 0.0)],
        [(0.05, 3.0), (0.1, 5.0)],  # no +Inf: how many there were is not known
        [(INF, 5.0)],
    ):
        found = histogram.quantile(buckets, 0.99)
        assert math.isnan(found), f"{buckets} gave {found}, not nan"


@pytest.mark.exercise("4.16")
def test_empty_buckets_and_uneven_widths_do_not_shift_the_answer():
    """Counts are cumulative: a bucket with the count of the one before it is empty."""
    buckets = [(1.0, 0.0), (2.0, 10.0), (3.0, 10.0), (10.0, 30.0), (INF, 30.0)]
    for q, expected in ((0.1, 1.3), (1 / 3, 2.0), (0.5, 4.75), (1.0, 10.0)):
        found = histogram.quantile(buckets, q)
        assert found == pytest.approx(expected), f"q = {q:.3g}: {found}, not {expected}"


@pytest.mark.exercise("4.16")
def test_a_count_that_falls_is_raised_to_the_one_before():
    """Buckets scraped while they change can be out of step; a cumulative count cannot fall."""
    found = histogram.quantile([(1.0, 10.0), (2.0, 9.0), (3.0, 20.0), (INF, 20.0)], 0.75)
    assert found == pytest.approx(2.5), f"{found}, not 2.5: the second count stands for 10"


@pytest.mark.exercise("4.16")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(values=latencies, bounds=bounds, q=st.floats(0.01, 1))
def test_the_estimate_lies_in_the_bucket_of_the_exact_quantile(values, bounds, q):
    """The error is never larger than the bucket is wide, which is all one can promise."""
    ordered = np.sort(values)
    exact = ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)]
    place = int(np.searchsorted(bounds, exact))
    found = histogram.quantile(bucketed(values, bounds), q)
    low = bounds[place - 1] if place else 0.0
    high = bounds[min(place, len(bounds) - 1)]
    assert min(low, high) - 1e-9 <= found <= high + 1e-9, f"{found} outside [{low}, {high}]"


@pytest.mark.exercise("4.17")
def test_a_restart_begins_again_at_zero():
    """100, 160, 30, 50: it grew by 60, restarted and grew by 30, then by 20: 110.

    Last minus first gives -50; leaving out the negative step loses the 30 after the restart.
    """
    found = histogram.merged_increase([np.array([[100.0], [160.0], [30.0], [50.0]])])
    assert found.tolist() == [110.0], f"{found.tolist()}, not [110.0]"


@pytest.mark.exercise("4.17")
def test_each_replica_is_followed_alone_and_then_added():
    """One replica restarts while another grows: the sum of both hides the restart, or part of it.

    Summed first: 1100, 1150, 1400. It looks like a growth of 300; 50 + 20 + 1000 were answered.
    """
    restarts = np.array([[600.0], [650.0], [20.0]])
    grows = np.array([[500.0], [500.0], [1500.0]])
    found = histogram.merged_increase([restarts, grows])
    assert found.tolist() == [1070.0], f"{found.tolist()}, not [1070.0]: increase first, then sum"


@pytest.mark.exercise("4.17")
def test_replicas_are_scraped_at_different_times_and_begin_during_the_window():
    """The number of samples differs; one sample alone, or none, shows no growth."""
    found = histogram.merged_increase(
        [
            np.array([[5.0, 9.0], [6.0, 12.0], [8.0, 15.0]]),
            np.array([[0.0, 0.0], [4.0, 5.0]]),
            np.array([[70.0, 80.0]]),
            np.empty((0, 2)),
        ]
    )
    assert found.tolist() == [7.0, 11.0], f"{found.tolist()}, not [7.0, 11.0]"


@pytest.mark.exercise("4.17")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), replicas=st.integers(1, 4), restarts=st.integers(0, 3))
def test_what_was_counted_between_restarts_adds_up(seed, replicas, restarts):
    """A life that began before the window counts its growth, each later one all that it reached."""
    rng = np.random.default_rng(seed)
    fleet, expected = [], np.zeros(3)
    for _ in range(replicas):
        lives = [
            # Begins below 10 and grows by at least 10, so that each restart is a fall.
            np.cumsum(
                np.vstack([rng.integers(0, 10, (1, 3)), rng.integers(10, 50, (4, 3))]), axis=0
            )
            for _ in range(restarts + 1)
        ]
        fleet.append(np.vstack(lives).astype(float))
        expected += lives[0][-1] - lives[0][0] + sum(life[-1] for life in lives[1:])
    found = histogram.merged_increase(fleet)
    assert found.tolist() == expected.tolist(), f"{found.tolist()}, not {expected.tolist()}"


def test_merging_wants_the_same_bounds():
    """Prometheus adds what carries the same le and says nothing; here it is an error."""
    with pytest.raises(InputError, match="bounds differ"):
        merged([bucketed([1.0], (0.5, 2.0)), bucketed([1.0], (0.5, 3.0))])
    with pytest.raises(InputError, match="same number"):
        histogram.merged_increase([np.zeros((2, 3)), np.zeros((2, 4))])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(first=latencies, second=latencies, bounds=bounds)
def test_buckets_of_replicas_add_up_to_the_buckets_of_all_requests(first, second, bounds):
    """This is why a histogram is used: it loses precision once, and never again by adding."""
    together = bucketed([*first, *second], bounds)
    assert merged([bucketed(first, bounds), bucketed(second, bounds)]) == together


def test_the_mean_of_p99s_is_no_p99():
    """Nine fast replicas and a slow one with half of the traffic."""
    rng = np.random.default_rng(0)
    fleet = [rng.exponential(0.002, 1000) for _ in range(9)] + [rng.exponential(0.03, 9000)]
    found = fleet_p99(fleet, exponential_bounds(0.001, 10, 20))
    assert found.mean_of_p99s < 0.3 * found.exact, (found.mean_of_p99s, found.exact)
    assert found.from_merged_buckets == pytest.approx(found.exact, rel=0.12)


def test_a_share_is_exact_at_a_bound_and_refused_elsewhere():
    """ "99 % within 50 ms" needs the bound 0.05; between bounds there are only guesses."""
    assert share_within(SMALL, 0.05) == 0.98
    with pytest.raises(InputError, match="no bound"):
        share_within(SMALL, 0.03)
    with pytest.raises(InputError, match="must be > 0"):
        share_within([(0.05, 0.0), (INF, 0.0)], 0.05)


def test_more_bounds_make_a_smaller_error_and_the_factor_bounds_it():
    """k bounds a decade: never worse than a factor 10^(1/k), whatever the latencies are."""
    rng = np.random.default_rng(1)
    layouts = {str(k): exponential_bounds(0.0005, 10, k) for k in (3, 10, 30)}
    worst = dict.fromkeys(layouts, 0.0)
    for scale in (0.002, 0.005, 0.01, 0.02):
        for each in bucket_errors(rng.lognormal(math.log(scale), 0.5, 20_000), layouts):
            worst[each.layout] = max(worst[each.layout], abs(each.relative))
            # The exact quantile is an observed value; the rank may fall between two of them.
            assert abs(each.relative) <= 10 ** (1 / int(each.layout)) - 1 + 0.01, each
    assert worst["30"] < worst["10"] < worst["3"], worst


def test_the_client_libraries_bounds_misjudge_a_fast_server():
    """Its smallest bound is 5 ms: a p99 of 2 ms is reported as 4.95 ms."""
    (found,) = bucket_errors(np.full(1000, 0.002), {"default": CLIENT_DEFAULT_BOUNDS})
    assert found.estimate == pytest.approx(0.00495)
    assert found.relative == pytest.approx(1.475)


def test_exponential_bounds_grow_by_one_factor_and_hold_both_ends():
    """From least to most, k a decade."""
    found = np.array(exponential_bounds(0.001, 1, 5))
    assert len(found) == 16
    assert found[[0, -1]] == pytest.approx([0.001, 1])
    assert found[1:] / found[:-1] == pytest.approx(10 ** (1 / 5))
    with pytest.raises(InputError, match="per_decade"):
        exponential_bounds(0.001, 1, 0)


def test_a_histogram_is_read_out_of_the_text():
    """Series that the labels leave open are added, as sum by (le) does."""
    text = """# TYPE x histogram
x_bucket{le="0.1",version="1"} 3
x_bucket{le="+Inf",version="1"} 4
x_bucket{le="0.1",version="2"} 10
x_bucket{le="+Inf",version="2"} 20
"""
    assert from_exposition(text, "x") == [(0.1, 13.0), (INF, 24.0)]
    assert from_exposition(text, "x", {"version": "2"}) == [(0.1, 10.0), (INF, 20.0)]
    with pytest.raises(InputError, match="no histogram"):
        from_exposition(text, "y")
