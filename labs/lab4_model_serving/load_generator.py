"""Load a server the way users do: requests arrive when they like, not when the server is free.

In an *open loop* the arrival times are drawn before the run, and a request's latency starts at its
scheduled time. In a *closed loop* each client waits for its answer before it asks again, so while
the server stalls nobody asks, and the stall costs one slow request a client instead of every
request that would have arrived ("coordinated omission", Gil Tene 2013).

The client is aiohttp. Against a trivial asyncio server on the same 2-core machine the generator
keeps up with 4,000 requests/s (p99 2 ms) and not with 5,000; a loop over httpx ends at about 230/s,
and the client would be what is measured. ``LoadResult.lag`` shows when that happens.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from common.latency import LatencySummary

Send = Callable[[int], Awaitable[object]]
"""Sends request ``i`` and returns when it is answered; raises when it failed."""


@dataclass(frozen=True)
class LoadResult:
    """What one run measured.

    ``latencies`` [n] are seconds, ``inf`` for a request that failed: a failure stays in the count.
    ``lag`` [n] is how late (s) the generator itself came to each request; when its p99 is not far
    below the latencies, the generator was the bottleneck.
    """

    latencies: NDArray[np.float64]
    lag: NDArray[np.float64]
    duration: float
    offered_rate: float
    timeout: float
    how: str
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.latencies)

    @property
    def failed(self) -> int:
        return int(np.isinf(self.latencies).sum())

    @property
    def achieved_rate(self) -> float:
        """Answered requests per second of the run."""
        return (self.n - self.failed) / self.duration

    @property
    def summary(self) -> LatencySummary:
        """Percentiles over all requests; a failed one counts as ``timeout`` seconds."""
        how = self.how
        if self.failed:
            how += f"; {self.failed} of {self.n} failed, counted at the {self.timeout:g} s timeout"
        counted = np.where(np.isinf(self.latencies), self.timeout, self.latencies)
        return LatencySummary.of(counted, how=how)


@exercise(
    "4.1",
    points=5,
    title="Poisson arrivals",
    hint="Gaps between the arrivals of a Poisson process are exponential with mean 1 / rate. "
    "Draw enough gaps to pass the end, then cut.",
)
def poisson_schedule(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times of a Poisson process.

    Users do not coordinate, so requests come in bursts: the number in any second has mean and
    variance ``rate``, and gaps are exponential with mean ``1 / rate``. Evenly spaced requests
    never queue behind each other and flatter the server.

    Parameters
    ----------
    rate
        Mean arrivals per second.
    seconds
        Length of the schedule.
    seed
        The same seed gives the same schedule.

    Returns
    -------
    float64 array [n], n about ``rate * seconds``
        Offsets from the start (s), ascending, in [0, seconds).

    References
    ----------
    MLPerf Inference rules, Server scenario.
    """
    rng = np.random.default_rng(seed)
    mean = rate * seconds
    gaps = rng.exponential(1 / rate, size=int(mean + 10 * np.sqrt(mean) + 20))
    arrivals = np.cumsum(gaps)
    return arrivals[arrivals < seconds]


@exercise(
    "4.3",
    points=5,
    title="Open-loop load, latency from the scheduled time",
    hint="Start every request at its time whatever became of the others. Waiting for one of "
    "max_in_flight slots is waiting too, and the timeout runs from the scheduled time.",
)
async def run_open_loop(
    send: Send, schedule: NDArray[np.float64], *, max_in_flight: int = 512, timeout: float = 5.0
) -> LoadResult:
    """Send request ``i`` at ``schedule[i]``, whether or not earlier ones were answered.

    Parameters
    ----------
    send
        Coroutine function of the request's index; any exception counts as a failed request.
    schedule : float array [n]
        Offsets from the start (s), ascending (:func:`poisson_schedule`).
    max_in_flight
        Requests sent and not yet answered. One more waits for a slot; its clock is running.
    timeout
        Seconds from the scheduled time after which a request has failed.

    Returns
    -------
    LoadResult
        Latency ``i`` is (time of the answer) - (scheduled time); ``inf`` when it failed.
    """
    _check_schedule(schedule)
    n = len(schedule)
    latencies = np.full(n, np.inf)
    lag = np.zeros(n)
    errors: Counter[str] = Counter()
    # Fills latencies, lag and errors (under _kind(error)), and sets duration (s).
    # BEGIN SOLUTION
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(max_in_flight)
    start = loop.time() + 0.01

    async def one(i: int) -> None:
        due = start + float(schedule[i])
        lag[i] = loop.time() - due
        try:
            async with asyncio.timeout_at(due + timeout), slots:
                await send(i)
        except Exception as error:
            errors[_kind(error)] += 1
        else:
            latencies[i] = loop.time() - due

    tasks = []
    for i, offset in enumerate(schedule):
        wait = start + float(offset) - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(i)))
    await asyncio.gather(*tasks)
    duration = loop.time() - start
    # END SOLUTION
    return LoadResult(
        latencies=latencies,
        lag=lag,
        duration=duration,
        offered_rate=n / max(float(schedule[-1]), 1e-9),
        timeout=timeout,
        how="open loop, from the scheduled time",
        errors=dict(errors),
    )


async def run_closed_loop(
    send: Send, requests: int, *, clients: int, timeout: float = 5.0
) -> LoadResult:
    """Let ``clients`` ask one request after the other: latency from when each was sent.

    For finding a throughput, and for showing what it hides: use :func:`run_open_loop` for latency.
    """
    require(requests >= 1, "requests", requests, "must be >= 1")
    require(clients >= 1, "clients", clients, "must be >= 1")
    latencies = np.full(requests, np.inf)
    errors: Counter[str] = Counter()
    pending = iter(range(requests))
    start = time.perf_counter()

    async def client() -> None:
        for i in pending:
            sent = time.perf_counter()
            try:
                async with asyncio.timeout(timeout):
                    await send(i)
            except Exception as error:
                errors[_kind(error)] += 1
            else:
                latencies[i] = time.perf_counter() - sent

    await asyncio.gather(*(client() for _ in range(clients)))
    duration = time.perf_counter() - start
    return LoadResult(
        latencies=latencies,
        lag=np.zeros(requests),
        duration=duration,
        offered_rate=requests / duration,
        timeout=timeout,
        how=f"closed loop, {clients} clients, from the time of sending",
        errors=dict(errors),
    )


def load_http(
    url: str,
    bodies: Sequence[bytes],
    schedule: NDArray[np.float64],
    *,
    headers: Mapping[str, str] | None = None,
    max_in_flight: int = 256,
    timeout: float = 5.0,
) -> LoadResult:
    """POST JSON bodies in an open loop over kept-alive connections.

    Parameters
    ----------
    bodies
        Request ``i`` sends ``bodies[i % len(bodies)]``.
    headers
        Added to every request (the token).
    max_in_flight
        Connections at most.

    Raises
    ------
    InputError
        No bodies.
    """
    import aiohttp

    if not bodies:
        raise InputError("load_http needs at least one body")
    _check_schedule(schedule)
    sent_headers = {"Content-Type": "application/json", **(headers or {})}

    async def measure() -> LoadResult:
        connector = aiohttp.TCPConnector(limit=max_in_flight)
        async with aiohttp.ClientSession(connector=connector, headers=sent_headers) as client:

            async def send(i: int) -> None:
                async with client.post(url, data=bodies[i % len(bodies)]) as answer:
                    await answer.read()
                    if answer.status != 200:
                        raise HttpFailure(answer.status)

            return await run_open_loop(send, schedule, max_in_flight=max_in_flight, timeout=timeout)

    with _no_garbage_collection():
        return asyncio.run(measure())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # With torch imported a full collection stops this process for 100 ms or more, which would be
    # reported as the server's latency.
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class HttpFailure(Exception):
    """An answer with a status other than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")


@dataclass(frozen=True)
class RateSearch:
    """The highest offered rate that met the limit, and everything that was tried.

    ``best`` is None when even the lowest rate missed it. ``at_limit`` says that the highest rate
    met it too, so that the server may do more.
    """

    best: LoadResult | None
    at_limit: bool
    tried: tuple[tuple[float, LoadResult], ...]

    @property
    def qps(self) -> float:
        """Answered requests per second at the best rate; 0 without one."""
        return self.best.achieved_rate if self.best else 0.0


def max_rate(
    measure: Callable[[float], LoadResult],
    low: float,
    high: float,
    *,
    p99_limit_ms: float,
    tries: int = 6,
) -> RateSearch:
    """Binary search for the highest rate whose p99 stays below a limit.

    Parameters
    ----------
    measure
        Rate (requests/s) to the result of an open-loop run at that rate. For a p99 at 99 %
        confidence a run needs at least 662 requests.
    low, high
        Bounds of the search (requests/s), both measured; the steps between are geometric.
    p99_limit_ms
        A rate passes when its p99, with failures counted at the timeout, is below this.
    tries
        Measurements between the bounds.

    Notes
    -----
    As in MLPerf's Server scenario. It assumes that p99 grows with the rate, which batching can
    break at low rates; a noisy machine can fail a rate that a second try would pass.
    """
    require(0 < low < high, "low, high", (low, high), "must satisfy 0 < low < high")
    require(tries >= 0, "tries", tries, "must be >= 0")
    tried: list[tuple[float, LoadResult]] = []

    def passes(rate: float) -> bool:
        tried.append((rate, measure(rate)))
        return tried[-1][1].summary.p99_ms < p99_limit_ms

    if not passes(low):
        return RateSearch(None, False, tuple(tried))
    best = tried[-1][1]
    if passes(high):
        return RateSearch(tried[-1][1], True, tuple(tried))
    for _ in range(tries):
        middle = float(np.sqrt(low * high))
        if passes(middle):
            low, best = middle, tried[-1][1]
        else:
            high = middle
    return RateSearch(best, False, tuple(tried))


def _check_schedule(schedule: NDArray[np.float64]) -> None:
    if len(schedule) == 0:
        raise InputError("the schedule has no requests; raise the rate or the duration")


def _kind(error: Exception) -> str:
    return str(error) if isinstance(error, HttpFailure) else type(error).__name__
