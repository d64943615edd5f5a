"""The closed loop, what it omits, and how that is corrected afterwards.

A closed loop's client asks again when it has its answer. While the server stalls nobody asks, so a
stall costs one slow request a client, and not every request that users would have sent
("coordinated omission", Gil Tene 2013). wrk, ab and locust work like that unless told otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.latency import no_garbage_collection
from labs.lab4_model_serving.http_client import HttpClient, build_request, run_on_fast_loop
from labs.lab4_model_serving.load_result import LoadResult, Send, kind


async def run_closed_loop(
    send: Send, requests: int, *, clients: int, timeout: float = 5.0
) -> LoadResult:
    """Let ``clients`` ask one request after the other: latency from when each was sent.

    For finding a throughput, and for showing what it hides: for latency use the open loop
    (``load_generator.run_open_loop``).
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
                errors[kind(error)] += 1
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


def load_http_closed(
    url: str,
    bodies: Sequence[bytes],
    requests: int,
    *,
    clients: int,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
) -> LoadResult:
    """POST ``requests`` JSON bodies from ``clients`` that each wait for their answer, like wrk.

    Arguments as in ``load_generator.load_http``.
    """
    if not bodies:
        raise InputError("load_http_closed needs at least one body")
    prepared = [build_request(url, body, headers) for body in bodies]

    async def measure() -> LoadResult:
        client = HttpClient(url, prepared, requests, connections=clients)
        try:
            await client.connect(clients, timeout=timeout)
            return await run_closed_loop(client.send, requests, clients=clients, timeout=timeout)
        finally:
            await client.close()

    with no_garbage_collection():
        return run_on_fast_loop(measure())


def correct_coordinated_omission(latencies: ArrayLike, interval: float) -> NDArray[np.float64]:
    """Add the requests that a client did not send while it waited (HdrHistogram).

    A client that means to ask every ``interval`` seconds and waits L for one answer left out those
    due after interval, 2 interval, ...; they would have waited L - interval, L - 2 interval, ...
    These are added down to ``interval``.

    Parameters
    ----------
    latencies
        [n] seconds from the time of sending; infinite ones (failures) are kept as they are.
    interval
        Seconds between two requests that *one client* means to send.

    Returns
    -------
    float64 array [m], m >= n
        The measured latencies, then those added.

    Notes
    -----
    ``recordValueWithExpectedInterval`` of HdrHistogram, which wrk2 has beside its own way: a plan
    of sending times, and latency from the plan. The correction guesses that a stall met every
    request in it equally and that the queue behind it was empty; the open loop measures instead.
    """
    require(interval > 0, "interval", interval, "must be > 0")
    measured = np.ravel(np.asarray(latencies, dtype=np.float64))
    slow = measured[np.isfinite(measured) & (measured >= 2 * interval)]
    # The number of k >= 1 with L - k interval >= interval; 1e-9 forgives the division's rounding.
    counts = np.floor(slow / interval + 1e-9).astype(np.int64) - 1
    added = np.repeat(slow, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    k = np.arange(len(added)) - first + 1
    return np.concatenate([measured, added - k * interval])


def one_stall(*, seed: int = 0) -> tuple[LoadResult, NDArray[np.float64], LoadResult]:
    """A real server stalls once for half a second: what each kind of load test sees of it.

    Returns
    -------
    closed, corrected, opened
        Two clients in a closed loop; their latencies (s) after
        :func:`correct_coordinated_omission`; Poisson arrivals at 350/s in an open loop.
    """
    from labs.lab4_model_serving.load_generator import load_http, poisson_schedule
    from labs.lab4_model_serving.reference_server import reference_server

    with reference_server(service_ms=2, stall=(0.5, 0.5)) as url:
        closed = load_http_closed(url, [b"{}"], 500, clients=2)
    with reference_server(service_ms=2, stall=(0.5, 0.5)) as url:
        opened = load_http(url, [b"{}"], poisson_schedule(350, 2.0, seed))
    typical = float(np.median(closed.latencies))
    return closed, correct_coordinated_omission(closed.latencies, typical), opened
