"""Load, queue, replicas and controller in simulated time: an hour of autoscaling in a second.

Requests arrive as a Poisson process whose rate changes, wait in one queue, and are served by
replicas that take one at a time. A started replica serves after ``cold_start_s``; one that is to
go finishes its request first. The controller reads a signal every ``interval_s``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab4_model_serving.autoscaler import Policy, Signal, State, desired_replicas

Rate = Callable[[float], float]
"""Offered requests per second at a time (s)."""
SignalName = Literal["in_flight", "served_rate", "utilisation"]
ARRIVAL, DEPARTURE, READY, READ = range(4)


@dataclass(frozen=True)
class Trace:
    """What happened, one row a reading: arrays [readings]."""

    time_s: NDArray[np.float64]
    offered: NDArray[np.float64]
    """Requests per second that arrived since the last reading."""
    queue: NDArray[np.int64]
    """Requests that wait, or are being served."""
    replicas: NDArray[np.int64]
    """Started and not told to go."""
    ready: NDArray[np.int64]
    p99_ms: NDArray[np.float64]
    """Of the requests that *arrived* since the last reading; NaN for none."""

    @property
    def changes(self) -> int:
        """How often the number of replicas was changed."""
        return int((np.diff(self.replicas) != 0).sum())

    @property
    def reversals(self) -> int:
        """How often a change went against the one before: the count of flapping."""
        steps = np.sign(np.diff(self.replicas))
        steps = steps[steps != 0]
        return int((steps[1:] != steps[:-1]).sum())

    @property
    def replica_seconds(self) -> float:
        """Integral of ``replicas``: what is paid for."""
        return float((self.replicas[:-1] * np.diff(self.time_s)).sum())


@dataclass(frozen=True)
class Simulated:
    """A trace and the requests behind it: ``latencies`` [n] in s, inf for the refused."""

    trace: Trace
    latencies: NDArray[np.float64]

    @property
    def refused(self) -> int:
        return int(np.isinf(self.latencies).sum())

    @property
    def p99_ms(self) -> float:
        """``sorted[int(n * 0.99)]`` of all requests; infinite when over 1 % were refused."""
        ordered = np.sort(self.latencies)
        return float(ordered[int(len(ordered) * 0.99)]) * 1000

    def share_within(self, limit_ms: float) -> float:
        """Share of all requests that were answered within the limit."""
        return float((self.latencies <= limit_ms / 1000).mean())


def step_load(low: float, high: float, *, start_s: float, end_s: float) -> Rate:
    """``low`` requests per second, and ``high`` between ``start_s`` and ``end_s``."""
    return lambda t: high if start_s <= t < end_s else low


def arrivals(rate: Rate, seconds: float, *, highest: float, seed: int) -> NDArray[np.float64]:
    """Arrival times (s) of a Poisson process with a changing rate, by thinning.

    Candidates come at the rate ``highest``; one at time t is kept with probability
    ``rate(t) / highest`` (Lewis and Shedler, 1979).
    """
    rng = np.random.default_rng(seed)
    mean = highest * seconds
    times = np.cumsum(rng.exponential(1 / highest, size=int(mean + 10 * np.sqrt(mean) + 20)))
    times = times[times < seconds]
    kept = rng.random(len(times)) * highest < np.array([rate(float(t)) for t in times])
    return times[kept]


def simulate(
    times: NDArray[np.float64],
    policy: Policy,
    *,
    service_s: float,
    seconds: float,
    signal: SignalName = "in_flight",
    interval_s: float = 5.0,
    cold_start_s: float = 20.0,
    queue_size: int = 1000,
    busy_share: float = 1.0,
    seed: int = 0,
) -> Simulated:
    """Serve ``times`` under the controller.

    Parameters
    ----------
    times : float array [n]
        Arrivals (s), ascending.
    service_s
        Mean of the exponential service time.
    signal
        ``in_flight``: requests waiting or served, per replica. ``served_rate``: answers per second
        and replica. ``utilisation``: share of its time that a replica's CPU was busy.
    busy_share
        CPU time a second of service: below 1 when a replica waits for something (a GPU, a lock,
        another service).
    queue_size
        Requests that may wait; the next one is refused.

    Returns
    -------
    Simulated
        A request that is not served by the end counts as if served then.
    """
    require(service_s > 0, "service_s", service_s, "must be > 0")
    require(interval_s > 0, "interval_s", interval_s, "must be > 0")
    rng = np.random.default_rng(seed)
    service = rng.exponential(service_s, size=len(times))
    latencies = np.full(len(times), np.inf)
    waiting: deque[int] = deque()
    state = State.start(policy.min_replicas)
    ready, busy, leaving = policy.min_replicas, 0, 0  # those leaving are busy
    starting: list[float] = []  # when each will be ready, ascending
    served = arrived = 0
    busy_s = 0.0
    rows: list[tuple[float, int, int, int, int]] = []
    first_of_row = [0]
    # Events: (time, kind, request). Arrivals are merged from their array.
    events: list[tuple[float, int, int]] = [(interval_s, READ, -1)]
    rows.append((0.0, 0, 0, state.replicas, ready))
    next_arrival = 0
    while events:
        if next_arrival < len(times) and times[next_arrival] <= events[0][0]:
            now, kind, request = float(times[next_arrival]), ARRIVAL, next_arrival
            next_arrival += 1
        else:
            now, kind, request = heapq.heappop(events)
        if now > seconds:
            events.append((now, kind, request))
            break
        if kind == ARRIVAL:
            arrived += 1
            if len(waiting) < queue_size:
                waiting.append(request)
        elif kind == DEPARTURE:
            latencies[request] = now - times[request]
            served += 1
            busy_s += service[request]
            busy -= 1
            if leaving:
                leaving -= 1
                ready -= 1
        elif kind == READY:
            if starting and starting[0] <= now:  # else it was cancelled
                del starting[0]
                ready += 1
        else:
            value = {
                "in_flight": (len(waiting) + busy) / state.replicas,
                "served_rate": served / interval_s / state.replicas,
                "utilisation": busy_share * min(1.0, busy_s / interval_s / state.replicas),
            }[signal]
            decision = desired_replicas(state, Signal(now, value), policy)
            change = decision.replicas - state.replicas
            state = decision.state
            if change > 0:
                kept = min(change, leaving)  # those told to go and still there may stay
                leaving -= kept
                for _ in range(change - kept):
                    starting.append(now + cold_start_s)
                    heapq.heappush(events, (now + cold_start_s, READY, -1))
            elif change < 0:
                cancelled = min(-change, len(starting))
                del starting[len(starting) - cancelled :]
                idle = min(-change - cancelled, ready - busy)
                ready -= idle
                leaving += -change - cancelled - idle
            rows.append((now, arrived, len(waiting) + busy, state.replicas, ready - leaving))
            first_of_row.append(next_arrival)
            served = arrived = 0
            busy_s = 0.0
            heapq.heappush(events, (now + interval_s, READ, -1))
        while waiting and busy < ready:
            request = waiting.popleft()
            busy += 1
            heapq.heappush(events, (now + service[request], DEPARTURE, request))
    for request in [*waiting, *(r for _, kind, r in events if kind == DEPARTURE)]:
        latencies[request] = seconds - times[request]
    return Simulated(_trace(rows, first_of_row, latencies, interval_s), latencies)


def _trace(
    rows: list[tuple[float, int, int, int, int]],
    first: list[int],
    latencies: NDArray[np.float64],
    interval_s: float,
) -> Trace:
    time, arrived, queue, replicas, ready = (np.array(column) for column in zip(*rows, strict=True))
    p99 = np.full(len(rows), np.nan)
    for row in range(1, len(rows)):
        part = np.sort(latencies[first[row - 1] : first[row]])
        if len(part):
            p99[row] = part[int(len(part) * 0.99)] * 1000
    return Trace(
        time_s=time.astype(np.float64),
        offered=arrived / interval_s,
        queue=queue.astype(np.int64),
        replicas=replicas.astype(np.int64),
        ready=ready.astype(np.int64),
        p99_ms=p99,
    )
