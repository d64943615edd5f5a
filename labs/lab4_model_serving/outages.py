"""What it costs when a replica goes: killed under load, or led out for an update."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.latency import no_garbage_collection
from labs.lab4_model_serving.http_client import HttpClient, build_request, run_on_fast_loop
from labs.lab4_model_serving.load_generator import LoadResult, poisson_schedule, run_open_loop
from labs.lab4_model_serving.nginx import Balancing, nginx, read_access_log
from labs.lab4_model_serving.replicas import ReplicaSpec, replicas


@dataclass(frozen=True)
class Outage:
    """A replica was taken away under load at ``down_s`` and was back at ``up_s`` (s from start)."""

    load: LoadResult
    schedule: NDArray[np.float64]
    down_s: float
    up_s: float
    started: float = 0.0
    """Unix time of the start (s)."""
    sent_again: int = 0
    """Requests whose connection the balancer closed before an answer, and that the client sent
    again on another: a client that does not would have lost them."""

    @property
    def lost(self) -> int:
        """Requests without an answer 200."""
        return self.load.failed

    def p99_ms(self, start_s: float, end_s: float) -> float:
        """Of the requests due in [start, end), the lost at their timeout; NaN for none."""
        part = (self.schedule >= start_s) & (self.schedule < end_s)
        counted = np.sort(np.minimum(self.load.latencies[part], self.load.timeout))
        return float(counted[int(len(counted) * 0.99)]) * 1000 if len(counted) else float("nan")


def load_with_outage(
    url: str,
    bodies: Sequence[bytes],
    schedule: NDArray[np.float64],
    *,
    headers: dict[str, str],
    take_away: Callable[[], None],
    bring_back: Callable[[], None],
    down_s: float,
    up_s: float,
    timeout: float = 5.0,
) -> Outage:
    """Load ``url`` in an open loop; at ``down_s`` take a replica away, at ``up_s`` bring it back.

    ``take_away`` and ``bring_back`` run on a thread beside the load; ``Outage.up_s`` is when
    ``bring_back`` had returned. For a crash they are ``fleet.kill`` and ``fleet.start``, for a
    rolling update ``balancer.drain`` with ``fleet.stop``, and ``fleet.start`` with
    ``balancer.restore``.
    """
    require(0 <= down_s < up_s, "down_s, up_s", (down_s, up_s), "must satisfy 0 <= down < up")
    begun = threading.Event()
    clocks: list[float] = []  # Unix time and monotonic time of the schedule's zero
    times: list[float] = []
    errors: list[BaseException] = []

    def outage() -> None:
        try:
            begun.wait()
            if not clocks:
                return  # the load did not begin
            start = clocks[1]
            for at, act in ((down_s, take_away), (up_s, bring_back)):
                time.sleep(max(0.0, start + at - time.monotonic()))
                act()
                times.append(time.monotonic() - start)
        except BaseException as error:
            errors.append(error)

    def begin() -> None:
        clocks.extend([time.time(), time.monotonic()])
        begun.set()

    thread = threading.Thread(target=outage)
    thread.start()
    try:
        load, sent_again = _load(url, bodies, schedule, headers, timeout, begin)
    finally:
        begun.set()
        thread.join()
    if errors:
        raise errors[0]
    return Outage(load, schedule, down_s, times[1], clocks[0], sent_again)


def _load(
    url: str,
    bodies: Sequence[bytes],
    schedule: NDArray[np.float64],
    headers: Mapping[str, str],
    timeout: float,
    begin: Callable[[], None],
) -> tuple[LoadResult, int]:
    """An open loop whose client repeats a request once when its connection was closed."""
    requests = [build_request(url, body, headers) for body in bodies]
    again: set[int] = set()

    async def measure() -> LoadResult:
        client = HttpClient(url, requests, len(schedule), connections=256)

        async def send(i: int) -> int:
            try:
                return await client.send(i)
            except ConnectionError:
                # A reload of nginx closes kept connections, at times just as a request comes in.
                again.add(i)
                return await client.send(i)

        begin()
        try:
            return await run_open_loop(send, schedule, timeout=timeout)
        finally:
            await client.close()

    with no_garbage_collection():
        return run_on_fast_loop(measure()), len(again)


@dataclass(frozen=True)
class OutageCase:
    """One way for a replica to go, measured."""

    name: str
    outage: Outage
    back_s: float | None
    """From its being ready again to its first answer through nginx; None when it gave none."""
    repeated: int
    """Requests that a second replica was asked for."""


def compare_outages(
    spec: ReplicaSpec,
    path: str,
    bodies: Sequence[bytes],
    *,
    folder: Path,
    count: int = 3,
    rate: float = 200.0,
    seconds: float = 5.0,
    seed: int = 0,
) -> list[OutageCase]:
    """Take one of ``count`` replicas away under load, in three ways.

    ``killed``: SIGKILL, and POSTs may be repeated. ``killed, no repeats``: the same with nginx's
    default, which repeats no POST that a replica had taken. ``drained``: led out by nginx, stopped,
    started, led in again, as in a rolling update. It goes after a fifth of ``seconds`` and is
    started again after two fifths.

    Raises
    ------
    InputError
        nginx is not installed.
    """
    require(count >= 2, "count", count, "must be >= 2", "with one nothing is left to answer")
    cases: list[OutageCase] = []
    with replicas(spec, count, folder=folder) as fleet:
        for name, retry_posts in (
            ("killed", True),
            ("killed, no repeats", False),
            ("drained", True),
        ):
            prefix = folder / f"nginx-{len(cases)}"
            balancing = Balancing(retry_posts=retry_posts, log_requests=True)
            with nginx(fleet.ports, folder=prefix, balancing=balancing) as balancer:

                def take_away() -> None:
                    if name == "drained":  # noqa: B023
                        balancer.drain(fleet.ports[0])
                        fleet.stop(0)
                    else:
                        fleet.kill(0)

                def bring_back() -> None:
                    fleet.start(0)
                    if name == "drained":  # noqa: B023
                        balancer.restore(fleet.ports[0])

                outage = load_with_outage(
                    balancer.url + path,
                    bodies,
                    poisson_schedule(rate, seconds, seed),
                    headers=spec.headers,
                    take_away=take_away,
                    bring_back=bring_back,
                    down_s=seconds / 5,
                    up_s=seconds * 2 / 5,
                )
            # The log is whole when nginx has ended.
            log = read_access_log(prefix / "access.log")
            ready = outage.started + outage.up_s
            first = [
                r.time_s for r in log if r.time_s > ready and r.ports[-1:] == (fleet.ports[0],)
            ]
            back_s = max(0.0, min(first) - ready) if first else None
            repeated = sum(len(request.ports) > 1 for request in log)
            cases.append(OutageCase(name, outage, back_s, repeated))
    return cases
