"""The control law on a real server: read the queue, decide, start or stop workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from common.errors import RunError, require
from labs.lab4_model_serving.autoscaler import Policy, Signal, State, desired_replicas
from labs.lab4_model_serving.autoscaling_simulation import Trace
from labs.lab4_model_serving.load_generator import LoadResult, load_http

WAITING_HANDLER = Path(__file__).with_name("waiting_handler.py")


class Scalable(Protocol):
    """What the loop needs of a server."""

    def scale(self, replicas: int) -> None:
        """Ask for so many, and return without waiting for them."""

    def ready(self) -> int:
        """How many answer requests now."""

    def queue_depth(self) -> float:
        """Requests that wait, over all replicas."""


class ScalableServer(Protocol):
    """The part of :class:`torchserve.TorchServe` that scales."""

    def scale_workers(self, name: str, version: str, n: int, *, wait: bool = True) -> None: ...
    def queue_depth(self, name: str | None = None, version: str | None = None) -> int: ...
    def worker_pids(self, name: str | None = None) -> list[int]: ...


@dataclass(frozen=True)
class TorchServeWorkers:
    """The workers of one model version in TorchServe, by its management API."""

    server: ScalableServer
    name: str
    version: str

    def scale(self, replicas: int) -> None:
        self.server.scale_workers(self.name, self.version, replicas, wait=False)

    def ready(self) -> int:
        return len(self.server.worker_pids(self.name))

    def queue_depth(self) -> float:
        return float(self.server.queue_depth(self.name, self.version))


@dataclass(frozen=True)
class Reading:
    """One turn of the loop. ``queue`` and ``ready`` are None when the server did not say."""

    time_s: float
    queue: float | None
    ready: int | None
    replicas: int
    reason: str


def control(
    target: Scalable,
    policy: Policy,
    *,
    interval_s: float,
    wait: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> list[Reading]:
    """Read, decide, act, every ``interval_s``, until ``wait`` says that it is over.

    A server that does not answer the reading is left as it is (``hold``); one that refuses to be
    scaled ends the loop, because the controller's picture of it would be wrong from then on.

    Parameters
    ----------
    wait
        Waits so many seconds; True means stop (``threading.Event.wait``).
    clock
        Seconds. The readings' times count from the first call.

    Returns
    -------
    list of Reading
        The first one is the start at ``min_replicas``, at time 0.
    """
    require(interval_s > 0, "interval_s", interval_s, "must be > 0")
    start = clock()
    state = State.start(policy.min_replicas)
    readings = [Reading(0.0, 0.0, state.replicas, state.replicas, "start")]
    while not wait(interval_s):
        now = clock() - start
        queue: float | None
        ready: int | None
        try:
            queue, ready = target.queue_depth(), target.ready()
        except (httpx.HTTPError, RunError):
            queue = ready = None
        value = None if queue is None else queue / state.replicas
        decision = desired_replicas(state, Signal(now, value), policy)
        if decision.replicas != state.replicas:
            target.scale(decision.replicas)
        state = decision.state
        readings.append(Reading(now, queue, ready, decision.replicas, decision.reason))
    return readings


@dataclass(frozen=True)
class Autoscaled:
    """A load, and what the controller did meanwhile."""

    load: LoadResult
    readings: tuple[Reading, ...]
    trace: Trace

    def seconds_to(self, replicas: int) -> float | None:
        """When so many were first ready (s from the start); None for never."""
        reached = self.trace.time_s[self.trace.ready >= replicas]
        return float(reached[0]) if len(reached) else None


def autoscale_under_load(
    target: Scalable,
    policy: Policy,
    url: str,
    bodies: Sequence[bytes],
    schedule: NDArray[np.float64],
    *,
    headers: dict[str, str],
    interval_s: float = 0.5,
    max_in_flight: int = 512,
    timeout: float = 10.0,
) -> Autoscaled:
    """Load ``url`` in an open loop while a controller on another thread scales ``target``.

    The server must run ``policy.min_replicas`` when this begins.

    Parameters
    ----------
    schedule : float array [n]
        Arrivals (s): :func:`autoscaling_simulation.arrivals` of a changing rate.
    interval_s
        Between two readings.
    """
    stop = threading.Event()
    result: list[list[Reading]] = []
    errors: list[BaseException] = []

    def loop() -> None:
        try:
            result.append(control(target, policy, interval_s=interval_s, wait=stop.wait))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=loop, name="autoscaler")
    thread.start()
    try:
        load = load_http(
            url, bodies, schedule, headers=headers, max_in_flight=max_in_flight, timeout=timeout
        )
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    return Autoscaled(load, tuple(result[0]), trace_of(result[0], schedule, load))


def trace_of(readings: Sequence[Reading], schedule: NDArray[np.float64], load: LoadResult) -> Trace:
    """The readings beside what the requests met: a missing queue or count repeats the last one."""
    time_s = np.array([reading.time_s for reading in readings])
    offered = np.zeros(len(readings))
    p99 = np.full(len(readings), np.nan)
    for row in range(1, len(readings)):
        part = (schedule >= time_s[row - 1]) & (schedule < time_s[row])
        offered[row] = part.sum() / (time_s[row] - time_s[row - 1])
        if part.any():
            ordered = np.sort(np.minimum(load.latencies[part], load.timeout))
            p99[row] = ordered[int(len(ordered) * 0.99)] * 1000
    queue, ready = [0.0], [readings[0].replicas]
    for reading in readings[1:]:
        queue.append(queue[-1] if reading.queue is None else reading.queue)
        ready.append(ready[-1] if reading.ready is None else reading.ready)
    return Trace(
        time_s=time_s,
        offered=offered,
        queue=np.array(queue).astype(np.int64),
        replicas=np.array([reading.replicas for reading in readings], dtype=np.int64),
        ready=np.array(ready, dtype=np.int64),
        p99_ms=p99,
    )
