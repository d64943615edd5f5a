"""The versions of a model that are live: who answers a request, and who only listens.

A request without a version goes to one by weight (*canary*, :func:`traffic.choose_version`); one
that names a version gets that one. A *shadow* gets copies and answers nobody. A change of weights
touches no request under way, and a version leaves only after it has answered what it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import InputError, require
from labs.lab4_model_serving.batcher import Batcher, Served
from labs.lab4_model_serving.predictor import Answer, Predictor
from labs.lab4_model_serving.protocol import HttpError, Times
from labs.lab4_model_serving.shadow import Shadow
from labs.lab4_model_serving.traffic import TrafficWindows, check_weights, choose_version


@dataclass(frozen=True)
class BatchSettings:
    """How requests of a version are batched (see :class:`batcher.Batcher`)."""

    max_batch: int = 32
    max_delay_s: float = 0.001
    max_queue: int = 256
    deadline_s: float = 1.0
    runners: int = 1
    slo_s: float = 0.04
    """Whoever would be answered later than this is refused: what is left of the promise (0.05 s)
    once it has come through the network and the parser."""
    max_waste: float = 0.25


@dataclass(frozen=True)
class Timed:
    answer: Answer
    input_s: float
    compute_s: float
    output_s: float


class LiveVersion:
    """A predictor behind a batcher and threads of its own: no version waits for another's queue.

    Parameters
    ----------
    delay_s
        Slept in every run: a fault that a test or an exercise puts in.
    """

    def __init__(
        self, predictor: Predictor, settings: BatchSettings, *, delay_s: float = 0.0
    ) -> None:
        require(delay_s >= 0, "delay_s", delay_s, "must be >= 0 seconds")
        self.predictor = predictor
        self.delay_s = delay_s
        self._longest = 5 * predictor.bundle.max_tokens  # characters; what is cut costs nothing
        self._threads = ThreadPoolExecutor(settings.runners, f"version-{predictor.version}")
        self.batcher: Batcher[str, Timed] = Batcher(
            self._run,
            max_batch=settings.max_batch,
            max_delay_s=settings.max_delay_s,
            max_queue=settings.max_queue,
            deadline_s=settings.deadline_s,
            slo_s=settings.slo_s,
            max_waste=settings.max_waste,
            runners=settings.runners,
            executor=self._threads,
        )

    def _run(self, texts: Sequence[str]) -> list[Timed]:
        start = time.perf_counter()
        ids = self.predictor.encode(texts)
        encoded = time.perf_counter()
        logits = self.predictor.logits(ids)
        if self.delay_s:
            time.sleep(self.delay_s)
        computed = time.perf_counter()
        answers = self.predictor.answers(logits)
        spent = (encoded - start, computed - encoded, time.perf_counter() - computed)
        return [Timed(answer, *spent) for answer in answers]

    def submit(
        self, text: str, *, client: str = "", enqueued: float | None = None
    ) -> asyncio.Future[Served[Timed]]:
        """A future of the answer; see :meth:`Batcher.enqueue`. Length is counted in characters."""
        length = min(len(text), self._longest)
        return self.batcher.enqueue(text, length=length, client=client, enqueued=enqueued)

    async def close(self) -> None:
        """Answer what it has, then end its threads."""
        await self.batcher.drain()
        self._threads.shutdown(wait=False)


class LiveModel:
    """Every live version of one model, and the share of requests that each gets.

    Parameters
    ----------
    settings
        Of versions that are loaded while the server runs.
    store
        The only folder that bundles may be loaded from while the server runs; None (the default)
        switches loading and unloading off.
    delays
        Version to seconds that each of its runs is delayed by (a fault put in on purpose).
    device, threads
        Of predictors that are loaded while the server runs.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: BatchSettings | None = None,
        store: Path | None = None,
        delays: Mapping[str, float] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.name = name
        self.settings = settings or BatchSettings()
        self.store = store.resolve() if store else None
        self.delays = dict(delays or {})
        self.device, self.threads = device, threads
        self.versions: dict[str, LiveVersion] = {}
        self.weights: dict[str, float] = {}
        self.salt = ""
        self.windows = TrafficWindows()
        self.shadow: Shadow | None = None

    def add(self, predictor: Predictor, settings: BatchSettings, weight: float = 0.0) -> None:
        """Make a version live; it gets requests once it has a weight, or when asked for by name."""
        version = predictor.version
        if version in self.versions:
            raise InputError(f"{self.name} {version} is already live")
        delay_s = self.delays.get(version, 0.0)
        self.versions[version] = LiveVersion(predictor, settings, delay_s=delay_s)
        self.weights[version] = weight

    def set_weights(self, weights: Mapping[str, float], *, salt: str | None = None) -> None:
        """Give every live version its share, 0 where none is given; all at once.

        Parameters
        ----------
        salt
            Of the rollout. It stays as it is without one: another salt moves users at random.

        Raises
        ------
        InputError
            A version that is not live, a negative weight, or none above 0.
        """
        unknown = sorted(set(weights) - set(self.versions))
        if unknown:
            raise InputError(
                f"{self.name} has no version {unknown[0]}; live: {list(self.versions)}"
            )
        check_weights(weights)
        self.weights = {version: float(weights.get(version, 0)) for version in self.versions}
        self.salt = self.salt if salt is None else salt

    async def remove(self, version: str) -> None:
        """Send no request to a version any more, answer those it has, and drop it.

        Raises
        ------
        InputError
            It still has weight, or is the shadow.
        """
        if self.weights.get(version, 0) > 0:
            raise InputError(f"{self.name} {version} still has weight; set_weights first")
        if self.shadow and self.shadow.version == version:
            raise InputError(f"{self.name} {version} is the shadow; stop the shadow first")
        live = self.versions.pop(version, None)
        self.weights.pop(version, None)
        if live:
            await live.close()

    def choose(self, key: str, asked: str = "") -> str:
        """The version for a request: the one it asks for, or one by weight; 404 if not live.

        Parameters
        ----------
        key
            The user where the request names one, else the request's id.
        """
        if asked:
            if asked not in self.versions:
                raise HttpError(404, f"{self.name} has no version {asked[:50]!r}")
            return asked
        able = [version for version, weight in self.weights.items() if weight > 0]
        if not able:
            raise HttpError(503, "no version takes requests", {"Retry-After": "1"})
        return able[0] if len(able) == 1 else choose_version(key, self.weights, self.salt)

    def submit(
        self,
        text: str,
        version: str,
        *,
        request_id: str = "",
        counted: bool = False,
        client: str = "",
        enqueued: float | None = None,
    ) -> asyncio.Future[Served[Timed]]:
        """Run one text on a version that :meth:`choose` named, before anything is awaited.

        Parameters
        ----------
        request_id
            By which a true label may come later.
        counted
            The version was chosen by weight: count the request in ``windows``, and let the shadow
            have a copy. A request that names its version is no random sample.
        client, enqueued
            See :meth:`Batcher.enqueue`.
        """
        live = self.versions.get(version)
        if live is None:  # chosen, then something was awaited, and the version has left
            raise HttpError(503, f"{version[:50]!r} has just been removed", {"Retry-After": "1"})
        if not counted:
            return live.submit(text, client=client, enqueued=enqueued)
        start = time.perf_counter() if enqueued is None else enqueued
        try:
            future = live.submit(text, client=client, enqueued=enqueued)
        except Exception:
            self.windows.observe(request_id, version, time.perf_counter() - start)
            raise
        future.add_done_callback(partial(self._answered, request_id, text, version, start))
        return future

    def _answered(
        self,
        request_id: str,
        text: str,
        version: str,
        start: float,
        future: asyncio.Future[Served[Timed]],
    ) -> None:
        took = time.perf_counter() - start
        if future.cancelled():
            # The client is gone. After the limit it was failed: of a version that hangs, nothing
            # else is ever seen. Before it, the client was in a hurry.
            if took > self.windows.slow_s:
                self.windows.observe(request_id, version, took)
            return
        if future.exception():
            self.windows.observe(request_id, version, took)
            return
        timed = future.result().result
        self.windows.observe(request_id, version, took, timed.answer.label)
        if self.shadow:
            run_s = timed.input_s + timed.compute_s + timed.output_s
            self.shadow.offer(request_id, text, version, timed.answer, run_s)

    async def predict(
        self, text: str, version: str, *, request_id: str = "", counted: bool = False
    ) -> tuple[Answer, Times]:
        """The answer to one text, and where its time went; see :meth:`submit`."""
        served = await self.submit(text, version, request_id=request_id, counted=counted)
        return served.result.answer, times_of(served)

    async def set_shadow(self, version: str, share: float, *, max_queue: int = 64) -> None:
        """Let a live version listen to a share of the requests; replaces an earlier shadow."""
        self._new_shadow(version, share, max_queue)  # a mistake leaves the earlier one as it is
        while self.shadow:  # while it ends, another call may set its own
            await self.stop_shadow()
        self.shadow = self._new_shadow(version, share, max_queue)  # unless it has left meanwhile

    def _new_shadow(self, version: str, share: float, max_queue: int) -> Shadow:
        live = self.versions.get(version)
        if live is None:
            raise InputError(f"{self.name} has no version {version}; live: {list(self.versions)}")
        return Shadow(live.predictor, share, salt=self.salt, max_queue=max_queue)

    async def stop_shadow(self) -> None:
        """Copy nothing more."""
        shadow, self.shadow = self.shadow, None
        if shadow:
            await shadow.close()

    async def drain(self) -> None:
        """Answer what all versions have."""
        await self.stop_shadow()
        await asyncio.gather(*(live.batcher.drain() for live in self.versions.values()))


def times_of(served: Served[Timed]) -> Times:
    """Where the time of a request went."""
    timed = served.result
    return Times(served.queue_s, timed.input_s, timed.compute_s, timed.output_s, served.batch)
