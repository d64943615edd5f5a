"""Queues predicted: the formula, the chain and the simulation, each against the others."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import queueing
from labs.lab4_model_serving.admission import ServiceTime
from labs.lab4_model_serving.queueing import (
    bulk_wait,
    decide_from_dequeue,
    fit_service_time,
    simulate,
    simulate_collector,
    stability_limit,
)


def poisson(rate, n, seed=0):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n))


@pytest.mark.exercise("4.10")
def test_constant_service_times_give_the_wait_of_m_d_1():
    """80 requests/s at 10 ms each: 80 % busy, and each waits 20 ms, twice its service.

    The rate is per second and the times are milliseconds: mixed up, the wait is wrong by 1000.
    """
    found = queueing.predict_queue(80, [10.0, 10.0, 10.0])
    assert found.limit_per_s == pytest.approx(100), f"limit {found.limit_per_s}/s, not 100/s"
    assert found.utilisation == pytest.approx(0.8), f"utilisation {found.utilisation}, not 0.8"
    assert found.mean_wait_ms == pytest.approx(20), f"wait {found.mean_wait_ms} ms, not 20 ms"


@pytest.mark.exercise("4.10")
def test_service_times_that_vary_make_everybody_wait_longer():
    """Nine of 1 ms and one of 91 ms: the mean of ten times 10 ms, and a queue 8.3 times as long.

    E[S^2] = (9 * 1 + 91^2) / 10 = 829 ms^2 against 100 ms^2. One slow text in ten is in the way of
    all others; an average service time does not show it.
    """
    found = queueing.predict_queue(50, [1.0] * 9 + [91.0])
    assert found.utilisation == pytest.approx(0.5), f"utilisation {found.utilisation}, not 0.5"
    assert found.mean_wait_ms == pytest.approx(41.45), (
        f"wait {found.mean_wait_ms:.2f} ms, not 0.05/ms * 829 ms^2 / (2 * 0.5) = 41.45 ms"
    )


@pytest.mark.exercise("4.10")
def test_from_the_limit_on_the_wait_is_infinite():
    """The formula turns negative above the limit, which reads like a very fast server."""
    for rate in (100, 250):
        found = queueing.predict_queue(rate, [10.0])
        assert math.isinf(found.mean_wait_ms), f"{rate}/s of 100/s: wait {found.mean_wait_ms} ms"
        assert found.limit_per_s == pytest.approx(100), f"the limit is {found.limit_per_s}/s"
    assert queueing.predict_queue(250, [10.0]).utilisation == pytest.approx(2.5)


@pytest.mark.exercise("4.10")
@settings(derandomize=True, deadline=None, max_examples=10)
@given(load=st.floats(0.1, 0.7), seed=st.integers(0, 1000), scale=st.floats(0.5, 20))
def test_a_simulated_queue_waits_as_long_as_predicted(load, seed, scale):
    """Lindley: the next wait is the last wait + its service - the gap, never below 0.

    Exponential service times; the mean over 40,000 requests is within a few standard errors.
    """
    rng = np.random.default_rng(seed)
    service_ms = rng.exponential(scale, 40_000)
    rate = load * 1000 / service_ms.mean()
    gaps_ms = rng.exponential(1000 / rate, 40_000)
    walk = np.concatenate([[0], np.cumsum(service_ms[:-1] - gaps_ms[1:])])
    waits = walk - np.minimum.accumulate(walk)
    found = queueing.predict_queue(rate, service_ms)
    assert found.mean_wait_ms == pytest.approx(waits.mean(), rel=0.2), (
        f"predicted {found.mean_wait_ms:.3f} ms, simulated {waits.mean():.3f} ms at load {load:.2f}"
    )


SERVICE = ServiceTime(0.002, 0.0002)


def test_batching_moves_the_limit_up_to_one_over_b():
    """B / (a + b B): singles 455/s, batches of 32 3,810/s, and never more than 1 / b = 5,000/s."""
    limits = [stability_limit(SERVICE, n) for n in (1, 8, 32, 10**6)]
    assert limits == pytest.approx([454.5, 2222.2, 3809.5, 5000], rel=1e-3)
    assert stability_limit(SERVICE, 8, runners=2) == pytest.approx(4444.4, rel=1e-3)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.9])
def test_the_chain_for_batches_of_one_is_pollaczek_khinchine(load):
    """With B = 1 the bulk queue is M/D/1, whose wait is a formula."""
    service = ServiceTime(0.008, 0.002)
    found = bulk_wait(load * 100, service, 1)
    known = queueing.predict_queue(load * 100, [10.0])
    assert 1000 * found.mean_wait_s == pytest.approx(known.mean_wait_ms, rel=1e-6)
    assert found.utilisation == pytest.approx(load)
    assert found.mean_batch == pytest.approx(1)


@pytest.mark.parametrize(("max_batch", "load"), [(1, 0.7), (8, 0.5), (32, 0.3), (32, 0.9)])
def test_the_simulation_agrees_with_the_chain(max_batch, load):
    """Two independent ways to the same mean: events one by one, and a linear system."""
    rate = load * stability_limit(SERVICE, max_batch)
    exact = bulk_wait(rate, SERVICE, max_batch)
    found = simulate(poisson(rate, 30_000), SERVICE.batch_s, max_batch=max_batch)
    assert found.wait.mean() == pytest.approx(exact.mean_wait_s, rel=0.06)
    assert found.latency.mean() == pytest.approx(exact.mean_latency_s, rel=0.05)
    assert found.batches.mean() == pytest.approx(exact.mean_batch, rel=0.03)


def test_the_simulation_agrees_with_m_m_1():
    """Exponential service: the mean wait is rho / (1 - rho) service times, 40 ms here."""
    rng = np.random.default_rng(5)
    found = simulate(poisson(80, 40_000, 6), lambda n: float(rng.exponential(0.01)), max_batch=1)
    assert found.wait.mean() == pytest.approx(0.04, rel=0.15)


def test_a_rate_above_the_limit_has_no_stationary_wait():
    """The chain refuses it by name, instead of solving a system that means nothing."""
    with pytest.raises(InputError, match="limit"):
        bulk_wait(1.01 * stability_limit(SERVICE, 8), SERVICE, 8)


def test_the_delay_counted_from_dequeue_is_paid_twice():
    """By hand: B = 4, delay 10 ms, service 20 ms; requests at 0, 12 and 15 ms.

    The first leaves at 10 and runs until 30. Those of 12 and 15 have had their delay by then and
    leave at 30; counted from dequeue they wait until 40 while the runner is idle.
    """
    arrivals = np.array([0.0, 0.012, 0.015])
    options = {"max_batch": 4, "max_delay_s": 0.010}
    ours = simulate(arrivals, lambda n: 0.02, **options)
    theirs = simulate(arrivals, lambda n: 0.02, **options, rule=decide_from_dequeue)
    assert ours.latency == pytest.approx([0.030, 0.038, 0.035])
    assert theirs.latency == pytest.approx([0.030, 0.048, 0.045])


def test_a_collector_with_its_own_clock_closes_small_batches_and_lets_them_queue():
    """By hand: B = 8, delay 5 ms, service 20 ms, a request every 2.5 ms.

    Batches of three close every 5 to 7.5 ms and need 20 ms each: the queue grows, although batches
    of 8 would keep up. A closed batch does not grow while it waits.
    """
    arrivals = np.arange(0, 1, 0.0025)
    ours = simulate(arrivals, lambda n: 0.02, max_batch=8, max_delay_s=0.005)
    theirs = simulate_collector(arrivals, lambda n: 0.02, max_batch=8, max_delay_s=0.005)
    assert ours.batches[5:-2].min() == 8
    assert theirs.batches.max() <= 3
    assert ours.latency.max() < 0.05
    assert theirs.latency.max() > 1


def test_a_bounded_queue_bounds_the_latency_and_refuses_the_rest():
    """Twice the capacity: with 8 places nobody who is answered waits longer than three runs."""
    arrivals = poisson(800, 4000)
    bounded = simulate(arrivals, lambda n: 0.01, max_batch=4, max_queue=8)
    unbounded = simulate(arrivals, lambda n: 0.01, max_batch=4)
    assert bounded.answered.max() <= 0.04 + 1e-9
    assert bounded.refused == pytest.approx(2000, abs=120)
    assert bounded.goodput(0.05) == pytest.approx(400, rel=0.05)
    assert unbounded.goodput(0.05) < 20
    assert unbounded.throughput == pytest.approx(400, rel=0.05)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    gaps=st.lists(st.floats(0, 0.03), min_size=1, max_size=60),
    max_batch=st.integers(1, 8),
    max_delay_s=st.sampled_from([0.0, 0.004, 0.02]),
    max_queue=st.integers(1, 30),
    runners=st.integers(1, 3),
)
def test_no_request_is_lost_in_the_simulation(gaps, max_batch, max_delay_s, max_queue, runners):
    """Every request is either refused or in exactly one batch, and none ends before it began."""
    found = simulate(
        np.cumsum(gaps),
        lambda n: 0.005 + 0.001 * n,
        max_batch=max_batch,
        max_delay_s=max_delay_s,
        max_queue=max_queue,
        runners=runners,
    )
    assert found.refused + found.batches.sum() == len(gaps)
    assert (found.batches >= 1).all()
    assert (found.batches <= max_batch).all()
    waits = found.wait[~np.isnan(found.wait)]
    assert (waits >= 0).all()
    assert (found.answered > waits).all()


def test_the_fit_finds_the_line_although_some_batches_were_disturbed():
    """One batch in five took ten times as long (something else ran): the medians do not care."""
    rng = np.random.default_rng(0)
    sizes = np.repeat([1, 2, 4, 8, 16, 32], 20)
    seconds = 0.002 + 0.0003 * sizes
    seconds = seconds * np.where(
        rng.random(len(sizes)) < 0.2, 10, rng.uniform(0.97, 1.03, len(sizes))
    )
    found = fit_service_time(sizes, seconds)
    assert found.fixed_s == pytest.approx(0.002, rel=0.08)
    assert found.item_s == pytest.approx(0.0003, rel=0.08)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([0.001, 0.002, 0.0045], (0.0, 0.001)), ([0.004, 0.0038, 0.0036], (0.0038, 0.0))],
)
def test_the_fit_gives_no_negative_part(seconds, expected):
    """Noise can tilt the line; a batch that costs less than nothing would predict nonsense."""
    found = fit_service_time([1, 2, 4], seconds)
    assert found.fixed_s == pytest.approx(expected[0], rel=0.1)
    assert found.item_s == pytest.approx(expected[1], rel=0.1)


def test_one_batch_size_is_no_line():
    """Both parts cannot be told apart from one size; the message asks for two."""
    with pytest.raises(InputError, match="two batch sizes"):
        fit_service_time([4, 4, 4], [0.1, 0.1, 0.1])
    with pytest.raises(InputError, match="one length"):
        fit_service_time([1, 2], [0.1])
