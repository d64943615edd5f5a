"""Which replica gets the next request? Four answers, compared in simulated time.

Requests take unequal times, and replicas are not equal either. Round robin is fair in requests and
not in work. A balancer that looks at how busy a replica is does better, and looking at two at
random is nearly as good as looking at all (Mitzenmacher, 2001).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require

Choose = Callable[[NDArray[np.int64], int, np.random.Generator], int]
"""(requests in flight [replicas], number of the request, generator) to a replica."""


def round_robin(in_flight: NDArray[np.int64], i: int, rng: np.random.Generator) -> int:
    """In turn."""
    return i % len(in_flight)


def uniform_random(in_flight: NDArray[np.int64], i: int, rng: np.random.Generator) -> int:
    """Any: what several independent round robins amount to."""
    return int(rng.random() * len(in_flight))


def power_of_two_choices(in_flight: NDArray[np.int64], i: int, rng: np.random.Generator) -> int:
    """The less busy of two at random."""
    n = len(in_flight)
    first = int(rng.random() * n)
    second = (first + 1 + int(rng.random() * (n - 1))) % n if n > 1 else first
    return first if in_flight[first] <= in_flight[second] else second


def least_connections(in_flight: NDArray[np.int64], i: int, rng: np.random.Generator) -> int:
    """The least busy of all, the next in turn among equals (nginx's ``least_conn``)."""
    n = len(in_flight)
    turned = np.roll(in_flight, -(i % n))
    return int((turned.argmin() + i) % n)


POLICIES: tuple[tuple[str, Choose], ...] = (
    ("round robin", round_robin),
    ("random", uniform_random),
    ("power of two choices", power_of_two_choices),
    ("least connections", least_connections),
)


@dataclass(frozen=True)
class Balanced:
    """What one policy gave: ``latencies`` [n] in units of the mean service time."""

    name: str
    latencies: NDArray[np.float64]
    requests: NDArray[np.int64]
    """Of each replica, [replicas]."""

    @property
    def p99(self) -> float:
        ordered = np.sort(self.latencies)
        return float(ordered[int(len(ordered) * 0.99)])


def simulate_balancing(
    name: str,
    choose: Choose,
    *,
    speeds: Sequence[float],
    load: float = 0.7,
    requests: int = 20_000,
    spread: float = 1.0,
    seed: int = 0,
) -> Balanced:
    """Send Poisson arrivals to replicas, each serving its own queue one at a time.

    Parameters
    ----------
    speeds
        Of each replica, 1 for the usual one: 0.5 takes twice as long.
    load
        Offered work over the sum of the speeds, in (0, 1).
    spread
        Standard deviation of the logarithm of the service time, whose mean is 1. At 0 all requests
        are equal; at 1 the longest percent makes up a tenth of the work.
    """
    require(len(speeds) > 0 and min(speeds) > 0, "speeds", list(speeds), "must be > 0")
    require(0 < load < 1, "load", load, "must be in (0, 1)")
    require(requests >= 1, "requests", requests, "must be >= 1")
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / (load * sum(speeds)), size=requests))
    work = rng.lognormal(-(spread**2) / 2, spread, size=requests)
    picks = np.random.default_rng(seed + 1)  # every policy meets the same requests
    in_flight = np.zeros(len(speeds), dtype=np.int64)
    sent = np.zeros(len(speeds), dtype=np.int64)
    free_at = [0.0] * len(speeds)
    departures: list[tuple[float, int]] = []
    latencies = np.empty(requests)
    for i in range(requests):
        now = float(arrivals[i])
        while departures and departures[0][0] <= now:
            in_flight[heapq.heappop(departures)[1]] -= 1
        replica = choose(in_flight, i, picks)
        done = max(now, free_at[replica]) + float(work[i]) / speeds[replica]
        free_at[replica] = done
        in_flight[replica] += 1
        sent[replica] += 1
        heapq.heappush(departures, (done, replica))
        latencies[i] = done - now
    return Balanced(name, latencies, sent)


def compare_balancing(
    *, speeds: Sequence[float] = (1.0,) * 7 + (0.75,), load: float = 0.7, seed: int = 0
) -> list[Balanced]:
    """All policies on the same requests; by default one replica of eight is a quarter slower."""
    return [
        simulate_balancing(name, choose, speeds=speeds, load=load, seed=seed)
        for name, choose in POLICIES
    ]
