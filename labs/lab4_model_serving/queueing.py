"""Latency before it is measured: how long requests wait for a server that takes them in batches.

Three tools, from the closed to the general:

- :func:`predict_queue`: one request at a time, any service times, Poisson arrivals (M/G/1). The
  mean wait is a formula.
- :func:`bulk_wait`: up to B at a time, a batch of n takes ``a + b n``, no delay. The mean wait is
  exact, from the Markov chain of what is left behind when a batch leaves.
- :func:`simulate`: also delays, bounded queues, several runners, other rules of leaving, any
  arrivals; and percentiles. Exact but for the randomness of the arrivals; the tests check it
  against the other two.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab4_model_serving.admission import ServiceTime
from labs.lab4_model_serving.batch_choice import Decision, check_settings, decide


@dataclass(frozen=True)
class QueuePrediction:
    """What the M/G/1 queue says of one server."""

    limit_per_s: float
    """Requests/s above which the queue grows without end."""
    utilisation: float
    """Share of the time that the server works; above 1 it is what would be needed."""
    mean_wait_ms: float
    """Mean wait before the service begins (ms); infinite from the limit on."""


@exercise(
    "4.10",
    points=10,
    title="How long is the queue?",
    hint="The rate is per second and the times are milliseconds. The wait needs the mean of the "
    "squares of the service times; the square of their mean forgets that they vary.",
)
def predict_queue(rate: float, service_ms: ArrayLike) -> QueuePrediction:
    """Mean wait of Poisson arrivals at a server that takes one at a time, in order.

    With arrivals at rate :math:`\\lambda`, service times S and utilisation
    :math:`\\rho = \\lambda E[S]`, the stability limit is :math:`1 / E[S]`, and the mean wait
    before the service (Pollaczek and Khinchine)

    .. math:: W = \\frac{\\lambda E[S^2]}{2 (1 - \\rho)}

    Parameters
    ----------
    rate
        Arrivals per **second**, > 0.
    service_ms : array [n]
        Measured service times in **milliseconds**, all > 0.

    Returns
    -------
    QueuePrediction
        ``mean_wait_ms`` is infinite when ``utilisation`` >= 1.

    References
    ----------
    Kleinrock, Queueing Systems I, 1975, section 5.6.
    """
    seconds = np.asarray(service_ms, np.float64) / 1000
    limit = float(1 / seconds.mean())
    utilisation = float(rate * seconds.mean())
    wait = math.inf
    if utilisation < 1:
        wait = float(rate * (seconds**2).mean() / (2 * (1 - utilisation)))
    return QueuePrediction(limit, utilisation, 1000 * wait)


def stability_limit(service: ServiceTime, max_batch: int, runners: int = 1) -> float:
    """Requests/s that full batches can answer: :math:`R B / (a + b B)`.

    It rises with B towards :math:`R / b`: batching pays for what a batch costs once, not for what
    each request costs.
    """
    return runners * max_batch / service.batch_s(max_batch)


@dataclass(frozen=True)
class BulkWait:
    """Exact means of the bulk-service queue."""

    mean_wait_s: float
    mean_latency_s: float
    """Wait and the whole batch's service."""
    mean_batch: float
    """Requests of a batch, over batches."""
    utilisation: float


def bulk_wait(rate: float, service: ServiceTime, max_batch: int) -> BulkWait:
    """Poisson arrivals served in batches of at most ``max_batch``, as soon as the runner is free.

    The chain of q, what waits at the moment a batch is finished: the next takes
    :math:`n = \\min(q, B)` (or waits for one, if q is 0), and while it runs for
    :math:`S_n = a + b n` a Poisson number of mean :math:`\\lambda S_n` comes. Of its stationary
    distribution :math:`\\pi`,

    .. math:: L_q = \\frac{\\sum_q \\pi_q \\left[(q - n)^+ S_n + \\lambda S_n^2 / 2\\right]}
                         {\\sum_q \\pi_q \\left[S_n + 1_{q=0} / \\lambda\\right]}

    is the mean number that waits, and :math:`L_q / \\lambda` the mean wait (Little).

    Raises
    ------
    InputError
        A rate at or above 99.5 % of :func:`stability_limit`: the chain would be too long.

    References
    ----------
    Bailey, On queueing processes with bulk service, JRSS B 1954; Neuts, 1967.
    """
    limit = stability_limit(service, max_batch)
    require(
        0 < rate < 0.995 * limit, "rate", rate, f"must be below 99.5 % of the limit {limit:.6g}/s"
    )
    states = 4 * max_batch + 64
    while True:
        pi, sizes = _chain(rate, service, max_batch, states)
        if pi[-1] < 1e-9:
            break
        states *= 2
        if states > 8192:
            raise InputError(f"rate = {rate:g} is too close to the limit {limit:g}")
    seconds = np.array([service.batch_s(int(n)) for n in sizes])
    left = np.maximum(np.arange(len(pi)) - sizes, 0)
    idle = float(pi[0]) / rate
    cycle = float(pi @ seconds) + idle
    waiting = float(pi @ (left * seconds + rate * seconds**2 / 2)) / cycle
    mean_batch = float(pi @ sizes)
    wait = waiting / rate
    return BulkWait(
        mean_wait_s=wait,
        mean_latency_s=wait + float(pi @ (sizes * seconds)) / mean_batch,
        mean_batch=mean_batch,
        utilisation=float(1 - idle / cycle),
    )


def _chain(
    rate: float, service: ServiceTime, max_batch: int, states: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Stationary distribution over q < states, and the size of the batch that follows each q."""
    sizes = np.clip(np.arange(states), 1, max_batch)
    log_factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, states)))])
    k = np.arange(states)
    move = np.zeros((states, states))
    for q in range(states):
        n = int(sizes[q])
        mean = rate * service.batch_s(n)
        came = np.exp(k * math.log(mean) - mean - log_factorial)
        left = max(q - n, 0)
        move[q, left:] = came[: states - left]
        move[q, -1] += max(0.0, 1 - move[q].sum())
    # pi (P - I) = 0 and sum(pi) = 1: the sum takes the place of one redundant equation.
    system = move.T - np.eye(states)
    system[-1] = 1
    right = np.zeros(states)
    right[-1] = 1
    return np.maximum(np.linalg.solve(system, right), 0), sizes


class Rule(Protocol):
    """When a batch leaves: :func:`batch_choice.decide`, or another server's way."""

    def __call__(
        self,
        waiting: int,
        oldest: float,
        now: float,
        *,
        free_since: float | None,
        max_batch: int,
        max_delay_s: float,
        max_queue: int,
    ) -> Decision: ...


def decide_from_dequeue(
    waiting: int,
    oldest: float,
    now: float,
    *,
    free_since: float | None,
    max_batch: int,
    max_delay_s: float,
    max_queue: int,
) -> Decision:
    """As TorchServe's ``pollBatch``: the delay begins when a worker takes the first request."""
    begins = oldest if free_since is None else max(oldest, free_since)
    return decide(
        waiting,
        begins,
        now,
        free_since=free_since,
        max_batch=max_batch,
        max_delay_s=max_delay_s,
        max_queue=max_queue,
    )


@dataclass(frozen=True)
class Simulation:
    """What became of each request.

    ``latency`` and ``wait`` [n] are seconds, NaN for a refused request; ``batches`` are the sizes
    of those that ran; ``seconds`` is the time from the first arrival to the last answer.
    """

    latency: NDArray[np.float64]
    wait: NDArray[np.float64]
    batches: NDArray[np.int64]
    seconds: float

    @property
    def answered(self) -> NDArray[np.float64]:
        """Latencies of those that were not refused (s)."""
        return self.latency[~np.isnan(self.latency)]

    @property
    def refused(self) -> int:
        return int(np.isnan(self.latency).sum())

    @property
    def throughput(self) -> float:
        """Answers per second, whenever they came."""
        return len(self.answered) / self.seconds

    def goodput(self, slo_s: float) -> float:
        """Answers per second that came within the promise."""
        return float((self.answered <= slo_s).sum()) / self.seconds

    def quantile_s(self, q: float) -> float:
        """``sorted[int(n q)]`` of the answered (s); 0 if none was."""
        ordered = np.sort(self.answered)
        return float(ordered[min(int(len(ordered) * q), len(ordered) - 1)]) if len(ordered) else 0.0


def simulate(
    arrivals: NDArray[np.float64],
    batch_s: Callable[[int], float],
    *,
    max_batch: int,
    max_delay_s: float = 0.0,
    max_queue: int = 10**9,
    runners: int = 1,
    rule: Rule = decide,
) -> Simulation:
    """What a batcher does with these arrivals, event by event.

    Parameters
    ----------
    arrivals : array [n]
        Times (s), ascending.
    batch_s
        Size of a batch to its service time (s), asked once a batch: it may draw at random.
    rule
        When a batch leaves.
    """
    check_settings(max_batch, max_delay_s, max_queue)
    times = [float(t) for t in arrivals]
    latency, wait = np.full(len(times), np.nan), np.full(len(times), np.nan)
    waiting: deque[int] = deque()
    completions: list[float] = []
    sizes: list[int] = []
    free, free_since = runners, 0.0
    coming, wake_at, end = 0, math.inf, 0.0
    while coming < len(times) or waiting:
        now = min(
            times[coming] if coming < len(times) else math.inf,
            completions[0] if completions else math.inf,
            wake_at,
        )
        # At one moment a runner becomes free first, then a request comes.
        if completions and completions[0] == now:
            heapq.heappop(completions)
            free, free_since = free + 1, now
        elif coming < len(times) and times[coming] == now:
            waiting.append(coming)
            coming += 1
        decision = Decision()
        while waiting:
            decision = rule(
                len(waiting),
                times[waiting[0]],
                now,
                free_since=free_since if free else None,
                max_batch=max_batch,
                max_delay_s=max_delay_s,
                max_queue=max_queue,
            )
            for _ in range(decision.refuse):
                waiting.pop()
            if not decision.leave:
                break
            batch = [waiting.popleft() for _ in range(decision.leave)]
            done = now + batch_s(len(batch))
            for i in batch:
                wait[i], latency[i] = now - times[i], done - times[i]
            heapq.heappush(completions, done)
            sizes.append(len(batch))
            free, end = free - 1, max(end, done)
        wake_at = decision.wake_at if waiting else math.inf
    seconds = end - times[0] if times else 0.0
    return Simulation(latency, wait, np.array(sizes, np.int64), seconds)


def simulate_collector(
    arrivals: NDArray[np.float64],
    batch_s: Callable[[int], float],
    *,
    max_batch: int,
    max_delay_s: float = 0.0,
    runners: int = 1,
) -> Simulation:
    """As Ray Serve's ``@serve.batch``: batches are closed by a clock that knows no runners.

    A loop takes the first request from an unbounded queue, closes its batch when it is full or
    ``max_delay_s`` later, and begins the next one, whether or not a runner is free; closed batches
    wait in line. A batch that waits there grows no more.
    """
    check_settings(max_batch, max_delay_s, 1)
    latency, wait = np.full(len(arrivals), np.nan), np.full(len(arrivals), np.nan)
    free_at = [0.0] * runners
    sizes: list[int] = []
    closed, i, end = 0.0, 0, 0.0
    while i < len(arrivals):
        due = max(closed, float(arrivals[i])) + max_delay_s
        n = min(max_batch, int(np.searchsorted(arrivals, due, side="right")) - i)
        full = n == max_batch
        closed = max(closed, float(arrivals[i + n - 1])) if full else due
        start = max(closed, heapq.heappop(free_at))
        done = start + batch_s(n)
        heapq.heappush(free_at, done)
        rows = slice(i, i + n)
        wait[rows], latency[rows] = start - arrivals[rows], done - arrivals[rows]
        sizes.append(n)
        i, end = i + n, max(end, done)
    seconds = end - float(arrivals[0]) if len(arrivals) else 0.0
    return Simulation(latency, wait, np.array(sizes, np.int64), seconds)


def fit_service_time(sizes: ArrayLike, seconds: ArrayLike) -> ServiceTime:
    """Fit ``a + b n`` to measured batches.

    Parameters
    ----------
    sizes, seconds : arrays [n]
        Size and time (s) of each measured batch; at least two sizes.

    Notes
    -----
    Least squares over the median time of each size, so that a batch during which something else ran
    does not bend the line; each median weighted by 1 / its square, so that relative errors count.
    Neither part is let below 0.
    """
    n, s = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    if n.shape != s.shape or n.ndim != 1:
        raise InputError(f"sizes {n.shape} and seconds {s.shape} must be two lists of one length")
    distinct = np.unique(n)
    require(len(distinct) >= 2, "sizes", distinct.tolist(), "must hold two batch sizes at least")
    median = np.array([np.median(s[n == size]) for size in distinct])
    require(bool((median > 0).all()), "seconds", float(median.min()), "must be > 0")
    scaled = np.stack([1 / median, distinct / median], axis=1)
    fixed, item = np.linalg.lstsq(scaled, np.ones(len(distinct)), rcond=None)[0]
    if fixed < 0:
        ratio = distinct / median
        fixed, item = 0.0, float(ratio.sum() / (ratio**2).sum())
    elif item < 0:
        ratio = 1 / median
        fixed, item = float(ratio.sum() / (ratio**2).sum()), 0.0
    return ServiceTime(float(fixed), float(item))
