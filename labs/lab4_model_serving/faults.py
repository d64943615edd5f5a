"""Break a server under load, on purpose, and count what its users saw.

Three numbers describe an outage: how many requests failed, how long until all went well again, and
how many answers were *wrong*. The last must be zero: an error is retried, a wrong answer is used.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from common.errors import InputError, require
from common.process import Child
from labs.lab4_model_serving.load_generator import (
    HttpFailure,
    poisson_schedule,
    run_open_loop,
)

if TYPE_CHECKING:
    from labs.lab4_model_serving.predictor import Predictor
    from labs.lab4_model_serving.torchserve import TorchServe


CLEAN_S = 1.0
"""So long, up to the last request, nothing may fail, else a server has not recovered."""


class Running(Protocol):
    """What every server of this lab has."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request must carry."""

    @property
    def child(self) -> Child:
        """Its supervised process."""


ServerT = TypeVar("ServerT", bound=Running)


@dataclass(frozen=True)
class FaultReport:
    """What the users of a server saw of a fault.

    ``recovered_s`` is the time (s) from the fault to the scheduled time of the last request that
    failed after it; 0 when none did, None when requests still failed within the last ``CLEAN_S``
    of the run. It is therefore at most ``largest_recovery_s``; None means more than that.
    ``watched_s`` is the time (s) from the fault to the last request.
    """

    fault: str
    requests: int
    errors: dict[str, int]
    wrong: int
    recovered_s: float | None
    restarts: int
    watched_s: float

    @property
    def failed(self) -> int:
        """Requests without an answer of status 200."""
        return sum(self.errors.values())

    @property
    def largest_recovery_s(self) -> float:
        """The largest ``recovered_s`` (s) that this run could have shown."""
        return max(self.watched_s - CLEAN_S, 0.0)


def load_through_fault(
    url: str,
    headers: Callable[[], Mapping[str, str]],
    expected: Mapping[str, str],
    fault: Callable[[], object],
    *,
    name: str,
    rate: float = 100.0,
    seconds: float = 10.0,
    at_s: float = 2.0,
    seed: int = 0,
    timeout: float = 2.0,
    restarts: Callable[[], int] = lambda: 0,
) -> FaultReport:
    """Load a server in an open loop, break it on the way, and compare every answer.

    Parameters
    ----------
    url
        Where to POST.
    headers
        Asked for each request: a TorchServe that was restarted has another token.
    expected
        Text to label (:func:`expected_labels`).
    fault
        Called once, in a thread, ``at_s`` seconds after the start.
    rate, seconds, seed
        Of the Poisson arrivals.
    timeout
        Seconds from the scheduled time after which a request has failed.

    Raises
    ------
    InputError
        Nothing to send, or a fault outside the run.
    """
    import aiohttp

    require(0 < at_s < seconds, "at_s", at_s, f"must be inside the run of {seconds:g} s")
    if not expected:
        raise InputError("no texts with an expected label")
    texts = list(expected)
    schedule = poisson_schedule(rate, seconds, seed)
    wrong = 0

    async def measure() -> NDArray[np.float64]:
        nonlocal wrong
        connector = aiohttp.TCPConnector(limit=128)
        async with aiohttp.ClientSession(connector=connector) as client:

            async def send(i: int) -> None:
                nonlocal wrong
                text = texts[i % len(texts)]
                async with client.post(url, json={"text": text}, headers=headers()) as answer:
                    content = await answer.read()
                    if answer.status != 200:
                        raise HttpFailure(answer.status)
                    wrong += json.loads(content)["label"] != expected[text]

            async def breaking() -> None:
                await asyncio.sleep(at_s)
                await asyncio.to_thread(fault)

            broken = asyncio.create_task(breaking())
            result = await run_open_loop(send, schedule, max_in_flight=128, timeout=timeout)
            await broken
            errors.update(result.errors)
            return result.latencies

    errors: Counter[str] = Counter()
    latencies = asyncio.run(measure())
    return FaultReport(
        fault=name,
        requests=len(schedule),
        errors=dict(errors),
        wrong=wrong,
        recovered_s=recovery(schedule, latencies, at_s),
        restarts=restarts(),
        watched_s=float(schedule[-1]) - at_s,
    )


def recovery(
    schedule: NDArray[np.float64], latencies: NDArray[np.float64], at_s: float
) -> float | None:
    """Seconds from the fault to the last failure after it; see :class:`FaultReport`.

    None when anything failed within ``CLEAN_S`` before the last request: one answer after an outage
    may be luck. The largest value is ``schedule[-1] - at_s - CLEAN_S``.

    Parameters
    ----------
    schedule, latencies : float arrays [n]
        When requests were due (s), and what they took (s), ``inf`` for those that failed.
    at_s
        When the fault came (s).
    """
    failed = np.isinf(latencies) & (schedule >= at_s)
    if not failed.any():
        return 0.0
    last = float(schedule[failed][-1])
    return None if last >= schedule[-1] - CLEAN_S else last - at_s


def expected_labels(
    predictor: Predictor, texts: Sequence[str], *, least_probability: float = 0.5
) -> dict[str, str]:
    """What the model says to each text, run alone; unclear texts are left out.

    A model with dynamic INT8 takes the scale of its activations from the whole batch, so that the
    answer to a text near the border depends on who shares its batch. Such a change is no fault.
    """
    answers = [predictor.predict([text])[0] for text in texts]
    return {
        text: answer.label
        for text, answer in zip(texts, answers, strict=True)
        if answer.probability >= least_probability
    }


def kill_worker(server: TorchServe, name: str) -> int:
    """SIGKILL one ready worker of a model; TorchServe starts another. Returns its process id.

    Raises
    ------
    InputError
        No worker is ready.
    """
    pids = server.worker_pids(name)
    if not pids:
        raise InputError(f"{name} has no ready worker to kill")
    psutil.Process(pids[0]).kill()
    return pids[0]


def kill_server(server: Running) -> int:
    """SIGKILL the server's own process: the JVM of a TorchServe, the Python process of another.

    Returns
    -------
    int
        Its process id. Its guard then ends what is left below it.

    Raises
    ------
    InputError
        It is not running.
    """
    try:
        below = psutil.Process(server.child.pid).children()
        below[0].kill()
    except (psutil.NoSuchProcess, IndexError):
        raise InputError(f"{server.child.name} is not running: nothing to kill") from None
    return below[0].pid


class KeptRunning(Generic[ServerT]):
    """A server that is started again when it ends. Made by :func:`keep_running`."""

    def __init__(
        self, start: Callable[[], AbstractContextManager[ServerT]], most: int, pause_s: float
    ) -> None:
        self.restarts = 0
        self.error: Exception | None = None
        self._start, self._most, self._pause_s = start, most, pause_s
        self._stack = ExitStack()
        self._stopping = threading.Event()
        self.server: ServerT = self._stack.enter_context(start())
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request must carry now: a restarted server may have another token."""
        return self.server.headers

    def wait_restarted(self, restarts: int, timeout: float) -> bool:
        """Whether the server was started again ``restarts`` times within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.restarts < restarts and self.error is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.restarts >= restarts

    def _watch(self) -> None:
        pause = self._pause_s
        while not self._stopping.wait(0.05):
            if self.server.child.poll() is None:
                continue
            self._stack.close()
            if self.restarts >= self._most:
                self.error = InputError(f"it ended {self.restarts + 1} times; not started again")
                return
            if self._stopping.wait(pause if self.restarts else 0):
                return
            pause *= 2
            try:
                self.server = self._stack.enter_context(self._start())
            except Exception as error:
                self.error = error
                return
            self.restarts += 1

    def _close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._stack.close()


@contextmanager
def keep_running(
    start: Callable[[], AbstractContextManager[ServerT]],
    *,
    most: int = 3,
    pause_s: float = 0.5,
) -> Iterator[KeptRunning[ServerT]]:
    """A supervisor: start a server, and start it again whenever its process ends.

    Parameters
    ----------
    start
        Makes a server, on the same port each time, such as
        ``lambda: torchserve(..., inference_port=port)``.
    most
        Restarts at most; a server that ends again and again has a fault that a restart hides.
    pause_s
        Before the second restart; doubled with each. The first is at once.

    Notes
    -----
    After the last restart ``error`` is set, and nothing runs: that is for somebody to look at.
    """
    require(most >= 0, "most", most, "must be >= 0")
    kept = KeptRunning(start, most, pause_s)
    try:
        yield kept
    finally:
        kept._close()
