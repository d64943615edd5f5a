"""Three views of how many queries a second: clients that wait, users who do not, and batches.

A *closed loop* is N clients, each with one query in flight: while the search stalls nobody asks,
so a stall costs one slow query a client. In an *open loop* queries arrive when users send them, and
latency counts from that time: everybody who came during the stall waited ("coordinated omission",
Gil Tene 2013). *Batches* amortise what is paid once a call, and say nothing about one user's wait.

Every query runs on one faiss thread; concurrency comes from the clients. OpenMP's number of threads
belongs to the thread that sets it, so each worker sets its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, Event

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.latency import LatencySummary, no_garbage_collection
from labs.lab2_vector_db.evaluation import Answer, one_thread
from labs.lab2_vector_db.index_types import check_vectors

Queries = NDArray[np.float32]
SPIN_S = 1e-4  # a sleep ends about this much late
START_S = 0.02  # for the workers' threads to be there


@dataclass(frozen=True)
class ClosedLoop:
    """``n`` queries of ``clients`` in ``seconds``; latency from when each query was sent."""

    clients: int
    n: int
    seconds: float
    qps: float
    latency: LatencySummary


@dataclass(frozen=True)
class OpenLoop:
    """``n`` queries that arrived at ``offered_qps``; ``qps`` were answered a second.

    ``latency`` counts from the scheduled arrival. ``service`` is the same queries from when a
    worker took them up: what a closed loop would have reported. ``unanswered`` were not taken up
    when the run ended; their wait until then is part of ``latency``.
    """

    offered_qps: float
    workers: int
    n: int
    unanswered: int
    seconds: float
    qps: float
    latency: LatencySummary
    service: LatencySummary


@dataclass(frozen=True)
class Batches:
    """``n`` queries in calls of ``batch_size``, each on ``threads`` threads; latency of a call."""

    batch_size: int
    threads: int
    n: int
    seconds: float
    qps: float
    latency: LatencySummary


@dataclass(frozen=True)
class RateSearch:
    """The highest rate whose p99 stayed below ``p99_ms``, and everything that was tried.

    ``best`` is None when even the lowest rate missed it; ``at_limit`` says that the highest rate
    met it too, so that more may be possible.
    """

    p99_ms: float
    best: OpenLoop | None
    at_limit: bool
    tried: tuple[OpenLoop, ...]

    @property
    def qps(self) -> float:
        """Queries answered a second at the best rate; 0 without one."""
        return self.best.qps if self.best else 0.0


def closed_loop(
    answer: Answer, queries: Queries, *, clients: int = 2, seconds: float = 2.0, warmup: int = 20
) -> ClosedLoop:
    """Let each client ask one query after the other for a fixed time.

    Parameters
    ----------
    answer
        Called with [1, d] from ``clients`` threads at once.
    queries : float32 array of shape [q, d]
        Taken in turn, over and over.
    clients
        Queries in flight. Throughput rises with it up to the cores, and then only latency does:
        ``clients = qps * mean latency`` (Little's law).
    seconds
        For how long queries are sent.
    warmup
        Queries answered before the clock starts.
    """
    queries = check_vectors(queries, name="queries")
    require(clients >= 1, "clients", clients, "must be >= 1")
    require(seconds > 0, "seconds", seconds, "must be > 0")
    _warm_up(answer, queries, warmup)
    turn = itertools.count()
    moments: list[list[float]] = [[] for _ in range(clients)]  # sent, answered and sent, ...
    stop, together = Event(), Barrier(clients)

    def client(number: int) -> None:
        together.wait()
        mine = moments[number]
        mine.append(time.perf_counter())
        while mine[-1] < mine[0] + seconds and not stop.is_set():
            row = next(turn) % len(queries)
            answer(queries[row : row + 1])
            mine.append(time.perf_counter())

    with no_garbage_collection(collect=True):
        _in_threads(client, clients, stop)
    took = max(mine[-1] for mine in moments) - min(mine[0] for mine in moments)
    every = np.concatenate([np.diff(mine) for mine in moments])
    how = f"closed loop, {clients} clients, one thread each, from the time of sending"
    summary = LatencySummary.of(every, how=how)
    return ClosedLoop(clients, every.size, took, every.size / took, summary)


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times (s) of independent users, ascending: given their number they are uniform."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, size=rng.poisson(rate * seconds)))


def open_loop(
    answer: Answer,
    queries: Queries,
    rate: float,
    *,
    seconds: float = 5.0,
    workers: int = 2,
    patience_s: float = 2.0,
    seed: int = 0,
    warmup: int = 20,
) -> OpenLoop:
    """Send queries at Poisson arrival times, whether or not earlier ones were answered.

    Parameters
    ----------
    answer
        Called with [1, d] from ``workers`` threads at once.
    queries : float32 array of shape [q, d]
        Taken in turn, over and over.
    rate
        Mean arrivals a second. Above what the workers can do the queue grows without end.
    seconds
        Length of the schedule. A p99 needs at least 662 queries for 99 % confidence.
    workers
        The bounded pool: a query that finds all of them busy waits, and its clock runs.
    patience_s
        How long after the schedule's end queries are still taken up.
    seed
        Of the arrival times.
    warmup
        Queries answered before the clock starts.

    Notes
    -----
    First come, first served: an M/G/c queue. Latencies hold the generator's own delay of a few
    tens of microseconds, which is Python's.

    References
    ----------
    MLPerf Inference rules, Server scenario.
    """
    queries = check_vectors(queries, name="queries")
    require(rate > 0, "rate", rate, "must be > 0")
    require(seconds > 0, "seconds", seconds, "must be > 0")
    require(workers >= 1, "workers", workers, "must be >= 1")
    require(patience_s >= 0, "patience_s", patience_s, "must be >= 0")
    schedule = poisson_arrivals(rate, seconds, seed)
    n = len(schedule)
    require(n >= 1, "rate * seconds", rate * seconds, "must give at least one query", "raise one")
    _warm_up(answer, queries, warmup)
    began, ended = np.full(n, np.nan), np.full(n, np.nan)
    turn = itertools.count()
    stop = Event()
    start = last_call = 0.0

    def worker(number: int) -> None:
        while (i := next(turn)) < n and not stop.is_set():
            _sleep_until(start + schedule[i])
            taken_up = time.perf_counter()
            if taken_up > last_call:
                return
            answer(queries[i % len(queries)][None])
            began[i], ended[i] = taken_up, time.perf_counter()

    with no_garbage_collection(collect=True):
        start = time.perf_counter() + START_S
        last_call = start + seconds + patience_s
        _in_threads(worker, workers, stop)
    finish = time.perf_counter() if np.isnan(ended).any() else float(ended.max())
    answered = ~np.isnan(ended)
    took = finish - start
    latency = np.where(answered, ended, finish) - (start + schedule)
    how = f"open loop, Poisson, {rate:g}/s, {workers} workers, from the scheduled time"
    if not answered.all():
        how += f"; {n - answered.sum()} of {n} not taken up, counted with their wait so far"
    return OpenLoop(
        offered_qps=rate,
        workers=workers,
        n=n,
        unanswered=int(n - answered.sum()),
        seconds=took,
        qps=float(answered.sum() / took),
        latency=LatencySummary.of(latency, how=how),
        service=LatencySummary.of(
            (ended - began)[answered], how="the same queries, from when a worker took them up"
        ),
    )


def batch_throughput(
    answer: Answer,
    queries: Queries,
    *,
    batch_size: int = 256,
    threads: int | None = None,
    seconds: float = 2.0,
    warmup: int = 1,
) -> Batches:
    """Answer whole batches in one call each, for at least ``seconds``.

    Parameters
    ----------
    answer
        Called with [batch_size, d].
    queries : float32 array of shape [q, d], q >= batch_size
        Cut into whole batches, taken in turn; what is left over is not used.
    threads
        faiss threads a call; None keeps the current number.
    warmup
        Batches answered before the clock starts.
    """
    queries = check_vectors(queries, name="queries")
    limit = f"must be from 1 to {len(queries)}, the queries given"
    require(1 <= batch_size <= len(queries), "batch_size", batch_size, limit)
    require(threads is None or threads >= 1, "threads", threads, "must be >= 1")
    require(seconds > 0, "seconds", seconds, "must be > 0")
    starts = range(0, len(queries) - batch_size + 1, batch_size)
    turn = itertools.cycle(queries[at : at + batch_size] for at in starts)
    before = faiss.omp_get_max_threads()
    used = before if threads is None else threads
    latencies = []
    faiss.omp_set_num_threads(used)
    try:
        with no_garbage_collection(collect=True):
            for _ in range(warmup):
                answer(next(turn))
            start = sent = time.perf_counter()
            while sent < start + seconds:
                answer(next(turn))
                now = time.perf_counter()
                latencies.append(now - sent)
                sent = now
    finally:
        faiss.omp_set_num_threads(before)
    n, took = batch_size * len(latencies), sent - start
    how = f"batches of {batch_size}, one call at a time, {used} threads"
    return Batches(batch_size, used, n, took, n / took, LatencySummary.of(latencies, how=how))


def highest_rate(
    measure: Callable[[float], OpenLoop],
    low: float,
    high: float,
    *,
    p99_ms: float,
    tries: int = 6,
) -> RateSearch:
    """Binary search for the highest arrival rate whose p99 stays below a limit.

    Parameters
    ----------
    measure
        Rate (queries/s) to an open-loop run, such as ``lambda rate: open_loop(answer, queries,
        rate)``. A run with unanswered queries fails, whatever its p99.
    low, high
        Bounds (queries/s), both measured; the steps between are geometric. A closed loop with as
        many clients as workers gives ``high``: no rate above its throughput can be kept up.
    p99_ms
        A rate passes when its p99 from the scheduled time is below this.
    tries
        Measurements between the bounds; the last step is ``(high / low) ** (1 / 2 ** tries)``.

    Raises
    ------
    InputError
        For bounds that are not ``0 < low < high``, or a limit that is not positive.

    Notes
    -----
    It assumes that p99 grows with the rate. A noisy machine can fail a rate that a second try
    would pass: ``tried`` shows p99 at every rate.
    """
    require(0 < low < high, "low, high", (low, high), "must satisfy 0 < low < high")
    require(p99_ms > 0, "p99_ms", p99_ms, "must be > 0")
    require(tries >= 0, "tries", tries, "must be >= 0")
    tried: list[OpenLoop] = []

    def passes(rate: float) -> bool:
        tried.append(measure(rate))
        return tried[-1].unanswered == 0 and tried[-1].latency.p99_ms < p99_ms

    if not passes(low):
        return RateSearch(p99_ms, None, False, tuple(tried))
    best = tried[-1]
    if passes(high):
        return RateSearch(p99_ms, tried[-1], True, tuple(tried))
    for _ in range(tries):
        middle = float(np.sqrt(low * high))
        if passes(middle):
            low, best = middle, tried[-1]
        else:
            high = middle
    return RateSearch(p99_ms, best, False, tuple(tried))


def _warm_up(answer: Answer, queries: Queries, n: int) -> None:
    with one_thread():
        for row in range(min(n, len(queries))):
            answer(queries[row : row + 1])


def _in_threads(work: Callable[[int], None], n: int, stop: Event) -> None:
    """Run ``work(0..n-1)`` in n threads; the first error stops all and is raised."""

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException:
            stop.set()
            raise

    # A new thread starts with all cores: without the initializer n clients run n * cores threads.
    pool = ThreadPoolExecutor(n, initializer=faiss.omp_set_num_threads, initargs=(1,))
    with pool:
        futures = [pool.submit(guarded, number) for number in range(n)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise


def _sleep_until(due: float) -> None:
    while (left := due - time.perf_counter()) > 0:
        time.sleep(left - SPIN_S if left > SPIN_S else 0)
