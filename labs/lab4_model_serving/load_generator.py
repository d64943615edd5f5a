"""Load a server the way users do: requests arrive when they like, not when the server is free.

In an *open loop* the arrival times are drawn before the run, and a request's latency starts at its
scheduled time. In a *closed loop* (``closed_loop.py``) each client waits for its answer before it
asks again, so while the server stalls nobody asks, and the stall costs one slow request a client
instead of every request that would have arrived.

The generator must be faster than what it measures. One timer starts all requests that are due, a
request costs neither a task nor a timer (``http_client.py``), and the garbage collector is off
during a run. ``LoadResult.limited_by_generator`` says when it was too slow all the same, and
``calibration.calibrate`` what it can do on this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from common.latency import no_garbage_collection
from labs.lab4_model_serving.arrivals import poisson_schedule
from labs.lab4_model_serving.closed_loop import correct_coordinated_omission, run_closed_loop
from labs.lab4_model_serving.early_stopping import StopTest, WatchedRun
from labs.lab4_model_serving.http_client import (
    HttpClient,
    HttpFailure,
    OnAnswer,
    build_request,
    run_on_fast_loop,
)
from labs.lab4_model_serving.load_result import (
    LoadResult,
    Send,
    busy_seconds,
    kind,
)
from labs.lab4_model_serving.rate_search import RateSearch, max_rate

__all__ = [
    "HttpFailure",
    "LoadResult",
    "RateSearch",
    "Send",
    "correct_coordinated_omission",
    "load_http",
    "max_rate",
    "poisson_schedule",
    "run_closed_loop",
    "run_open_loop",
]

LEAD_S = 0.01
"""From the call to the schedule's zero, so that the first request is not late."""
TICK_S = 0.001
"""Timers of the event loop are no finer (uvloop rounds to milliseconds, epoll up to the next)."""
EARLY_S = 0.005
"""A timer of uvloop may ring a millisecond early; more is a mistake."""


@exercise(
    "4.3",
    points=10,
    title="Open-loop load, latency from the scheduled time",
    hint="Start every request at its time whatever became of the others. Waiting for one of "
    "max_in_flight slots is waiting too, and the timeout runs from the scheduled time. A task that "
    "sleeps for each request is right and slow; one timer that starts all that are due is fast.",
)
async def run_open_loop(
    send: Send, schedule: NDArray[np.float64], *, max_in_flight: int = 512, timeout: float = 5.0
) -> LoadResult:
    """Send request ``i`` at ``schedule[i]``, whether or not earlier ones were answered.

    Parameters
    ----------
    send
        Function of the request's index; what it returns is awaited (a coroutine, or a future as
        of ``HttpClient.send``). Any exception counts as a failed request. Cancelling it must be
        enough to give the request up.
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

    Notes
    -----
    Take times from ``time.perf_counter()``: the clock of a fast event loop (uvloop) stands still
    while callbacks run, and counts milliseconds.
    """
    _check_schedule(schedule)
    n = len(schedule)
    latencies = np.full(n, np.inf)
    lag = np.zeros(n)
    errors: Counter[str] = Counter()
    # Fills latencies, lag and errors (under kind(error)), and sets duration (s).
    # BEGIN SOLUTION
    loop = asyncio.get_running_loop()
    clock = time.perf_counter
    start = clock() + LEAD_S
    due: list[float] = (np.asarray(schedule, dtype=np.float64) + start).tolist()
    under_way: dict[int, asyncio.Future[object]] = {}  # in the order of their scheduled times
    waiting: deque[int] = deque()  # for a slot, in the same order
    finished: asyncio.Future[None] = loop.create_future()
    next_due = settled = 0
    timer = loop.call_later(LEAD_S, lambda: tick())

    def begin(i: int) -> None:
        under_way[i] = answer = asyncio.ensure_future(send(i))
        answer.add_done_callback(partial(done, i))

    def done(i: int, answer: asyncio.Future[object]) -> None:
        del under_way[i]
        latency = clock() - due[i]
        if answer.cancelled() or latency > timeout:
            fail(TimeoutError())
        elif error := answer.exception():
            fail(error)
        else:
            latencies[i] = latency
            settle()
        while waiting and len(under_way) < max_in_flight:
            begin(waiting.popleft())

    def fail(error: BaseException) -> None:
        errors[kind(error)] += 1
        settle()

    def settle() -> None:
        nonlocal settled
        settled += 1
        if settled == n and not finished.done():
            finished.set_result(None)

    def tick() -> None:
        nonlocal next_due, timer
        while next_due < n and (late := clock() - due[next_due]) >= 0:
            lag[next_due] = late
            if len(under_way) < max_in_flight:
                begin(next_due)
            else:
                waiting.append(next_due)
            next_due += 1
        deadline = clock() - timeout
        while waiting and due[waiting[0]] <= deadline:
            waiting.popleft()
            fail(TimeoutError())
        for i in under_way:
            if due[i] > deadline:
                break
            under_way[i].cancel()
        oldest = min(waiting[0] if waiting else n, next(iter(under_way), n))
        events = [due[next_due]] if next_due < n else []
        events += [due[oldest] + timeout] if oldest < n else []
        if events:
            timer = loop.call_later(max(min(events) - clock(), TICK_S), tick)

    try:
        await finished
    finally:
        timer.cancel()
        for answer in list(under_way.values()):
            answer.cancel()
    duration = clock() - start
    # END SOLUTION
    return LoadResult(
        latencies=latencies,
        lag=lag,
        duration=duration,
        offered_rate=n / max(float(schedule[-1]), 1e-9),
        timeout=timeout,
        how="open loop, from the scheduled time",
        errors=dict(errors),
        schedule=np.asarray(schedule, dtype=np.float64),
        max_in_flight=max_in_flight,
    )


def load_http(
    url: str,
    bodies: Sequence[bytes],
    schedule: NDArray[np.float64],
    *,
    headers: Mapping[str, str] | None = None,
    max_in_flight: int = 256,
    timeout: float = 5.0,
    warmup: float = 0.0,
    on_answer: OnAnswer | None = None,
    stop: StopTest | None = None,
) -> LoadResult:
    """POST JSON bodies in an open loop over kept-alive connections.

    Parameters
    ----------
    url
        ``http://host:port/path``.
    bodies
        Request ``i`` sends ``bodies[i % len(bodies)]``.
    schedule
        When (s): :func:`poisson_schedule`, or any other of ``arrivals.py``, recorded ones included.
    headers
        Added to every request (the token).
    max_in_flight
        Connections at most; as many are opened before the run, or as there are requests.
    timeout
        Seconds from the scheduled time.
    warmup
        Requests due in the first ``warmup`` seconds are sent and not counted.
    on_answer
        ``on_answer(i, status, headers, body)`` for every complete answer, also of the warm-up and
        of statuses other than 200: for a tally of labels or versions. It runs between two
        requests, so it must be quick.
    stop
        Asked every 50 ms whether the outcome is decided (``early_stopping.EarlyStop``); then the
        rest is not sent, and the result has the requests that were due until then, those still
        without an answer as failed under ``Unanswered``.

    Raises
    ------
    InputError
        No bodies, an empty schedule, no request after the warm-up, or another URL than http.
    Exception
        What ``on_answer`` raised.
    """
    if not bodies:
        raise InputError("load_http needs at least one body")
    _check_schedule(schedule)
    require(max_in_flight >= 1, "max_in_flight", max_in_flight, "must be >= 1")
    first = int(np.searchsorted(schedule, warmup)) if warmup > 0 else 0
    _check_open_files(max_in_flight)
    require(first < len(schedule), "warmup", warmup, f"must end before {schedule[-1]:.3g} s")
    prepared = [build_request(url, body, headers) for body in bodies]

    async def measure() -> LoadResult:
        client = HttpClient(
            url, prepared, len(schedule), connections=max_in_flight, on_answer=on_answer
        )
        try:
            await client.connect(min(max_in_flight, len(schedule)), timeout=timeout)
            began, busy = time.perf_counter(), busy_seconds()
            if stop is None:
                result = await run_open_loop(
                    client.send, schedule, max_in_flight=max_in_flight, timeout=timeout
                )
                result = _after_warmup(result, client, first, warmup)
            else:
                watched = WatchedRun(client, schedule, first)
                running = asyncio.ensure_future(
                    run_open_loop(
                        watched.send, schedule, max_in_flight=max_in_flight, timeout=timeout
                    )
                )
                if decided := await watched.until(running, stop):
                    result = watched.cut(decided, max_in_flight, timeout)
                else:
                    result = _after_warmup(running.result(), client, first, warmup)
            if client.broken:
                raise client.broken
            busy = (busy_seconds() - busy) / (time.perf_counter() - began)
            return replace(_never_early(result), busy=busy, most_in_flight=client.most_under_way)
        finally:
            await client.close()

    with no_garbage_collection():
        return run_on_fast_loop(measure())


def _after_warmup(result: LoadResult, client: HttpClient, first: int, warmup: float) -> LoadResult:
    """The result without its first requests; ``errors`` counts those that are left."""
    if first == 0:
        return result
    assert result.schedule is not None
    latencies, schedule = result.latencies[first:], result.schedule[first:] - warmup
    errors = Counter(kind(error) for i, error in client.failures.items() if i >= first)
    if never_sent := int(np.isinf(latencies).sum()) - errors.total():
        errors["TimeoutError"] += never_sent
    return replace(
        result,
        latencies=latencies,
        lag=result.lag[first:],
        duration=result.duration - warmup,
        offered_rate=len(latencies) / max(float(schedule[-1]), 1e-9),
        how=f"{result.how}, without the first {warmup:g} s",
        errors=dict(errors),
        schedule=schedule,
    )


def _never_early(result: LoadResult) -> LoadResult:
    """Latencies and lag of 0 where a timer rang within ``EARLY_S`` before its time."""
    earliest = float(min(result.latencies.min(), result.lag.min()))
    require(
        earliest >= -EARLY_S,
        "latency or lag", f"{earliest:.4f} s", f"must be >= -{EARLY_S:g}",
        "run_open_loop must not send a request before it is due, and read one clock",
    )  # fmt: skip
    if earliest >= 0:
        return result
    return replace(result, latencies=np.maximum(result.latencies, 0), lag=np.maximum(result.lag, 0))


def _check_schedule(schedule: NDArray[np.float64]) -> None:
    if len(schedule) == 0:
        raise InputError("the schedule has no requests; raise the rate or the duration")


def _check_open_files(connections: int) -> None:
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(
        allowed == resource.RLIM_INFINITY or connections <= allowed - 64,
        "max_in_flight", connections,
        f"must leave 64 of the {allowed} open files that this process may have",
        "lower it, or raise ulimit -n",
    )  # fmt: skip
