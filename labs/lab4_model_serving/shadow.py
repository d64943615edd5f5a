"""Shadow traffic: a version gets copies of requests, and its answers go nowhere but into a record.

The copy is made after the live answer is known, by a call that cannot wait and cannot raise. What
the shadow runs on is its own: queue, thread, and a lower priority with the operating system. When
it cannot keep up, copies are dropped and counted.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import require
from labs.lab4_model_serving.predictor import Answer
from labs.lab4_model_serving.traffic import unit_hash

NICENESS = 10


class Predicts(Protocol):
    """What a shadow runs: a :class:`predictor.Predictor`."""

    @property
    def version(self) -> str: ...

    def predict(self, texts: Sequence[str]) -> list[Answer]: ...


@dataclass(frozen=True)
class Disagreement:
    """A request that the versions answered differently. Its text is not kept."""

    request_id: str
    live_version: str
    live: str
    shadow: str


@dataclass(frozen=True)
class ShadowReport:
    """What was compared so far."""

    version: str
    share: float
    copied: int
    """Requests that were sampled: compared, failed, dropped and waiting ones."""
    dropped: int
    failed: int
    compared: int
    agreed: int
    live_p50_ms: float | None
    """Of the live version's runs (its whole batch: tokens, model, labels), no waiting."""
    shadow_p50_ms: float | None
    live_p99_ms: float | None
    shadow_p99_ms: float | None
    disagreements: tuple[Disagreement, ...]
    """The last ones."""

    @property
    def agreement(self) -> float | None:
        """Share of compared requests with the same label."""
        return self.agreed / self.compared if self.compared else None


@dataclass(frozen=True)
class _Copy:
    request_id: str
    text: str
    live_version: str
    label: str
    run_s: float


class Shadow:
    """A version that only listens.

    Parameters
    ----------
    predictor
        The version. It may be live as well.
    share
        Of the requests, in (0, 1]; the choice hashes the request's id.
    max_queue
        Copies that may wait; one more is dropped.
    max_batch
        Copies that are run together.
    keep
        Latencies that are kept, and a hundredth as many disagreements.
    """

    def __init__(
        self,
        predictor: Predicts,
        share: float,
        *,
        salt: str = "",
        max_queue: int = 64,
        max_batch: int = 8,
        keep: int = 2000,
    ) -> None:
        require(0 < share <= 1, "share", share, "must be in (0, 1]")
        require(max_queue >= 1, "max_queue", max_queue, "must be >= 1")
        require(max_batch >= 1, "max_batch", max_batch, "must be >= 1")
        require(keep >= 100, "keep", keep, "must be >= 100")
        self.predictor, self.share = predictor, share
        self.version = predictor.version
        self._salt, self._max_queue, self._max_batch = salt, max_queue, max_batch
        self._waiting: deque[_Copy] = deque()
        self._live_s: deque[float] = deque(maxlen=keep)
        self._shadow_s: deque[float] = deque(maxlen=keep)
        self._disagreements: deque[Disagreement] = deque(maxlen=keep // 100)
        self._copied = self._dropped = self._failed = self._compared = self._agreed = 0
        self._executor = ThreadPoolExecutor(1, "shadow", initializer=_be_nice)
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def offer(
        self, request_id: str, text: str, live_version: str, answer: Answer, run_s: float
    ) -> None:
        """Copy an answered request if it is in the sample. Takes microseconds, whatever happens.

        Parameters
        ----------
        run_s
            Seconds of the live version's run.
        """
        if self._closed or unit_hash("shadow", self._salt, request_id) >= self.share:
            return
        self._copied += 1
        if len(self._waiting) >= self._max_queue:
            self._dropped += 1
            return
        self._waiting.append(_Copy(request_id, text, live_version, answer.label, run_s))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            n = min(self._max_batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(n)]
            try:
                answers, seconds = await loop.run_in_executor(
                    self._executor, self._run, [copy.text for copy in batch]
                )
            except Exception:  # whatever a version that is not live does, is a count
                self._failed += len(batch)
                continue
            self._shadow_s.append(seconds)
            for copy, answer in zip(batch, answers, strict=True):
                self._compare(copy, answer)

    def _run(self, texts: Sequence[str]) -> tuple[list[Answer], float]:
        start = time.perf_counter()
        answers = self.predictor.predict(texts)
        if len(answers) != len(texts):
            raise ValueError(f"{len(answers)} answers to {len(texts)} texts")
        return answers, time.perf_counter() - start

    def _compare(self, copy: _Copy, answer: Answer) -> None:
        self._compared += 1
        self._live_s.append(copy.run_s)
        if answer.label == copy.label:
            self._agreed += 1
        else:
            self._disagreements.append(
                Disagreement(copy.request_id, copy.live_version, copy.label, answer.label)
            )

    def report(self) -> ShadowReport:
        """What was compared so far."""
        return ShadowReport(
            version=self.version,
            share=self.share,
            copied=self._copied,
            dropped=self._dropped,
            failed=self._failed,
            compared=self._compared,
            agreed=self._agreed,
            live_p50_ms=_quantile_ms(self._live_s, 0.5),
            shadow_p50_ms=_quantile_ms(self._shadow_s, 0.5),
            live_p99_ms=_quantile_ms(self._live_s, 0.99),
            shadow_p99_ms=_quantile_ms(self._shadow_s, 0.99),
            disagreements=tuple(self._disagreements),
        )

    async def settle(self) -> None:
        """Return when no copy waits or runs."""
        while self._worker is not None and not self._worker.done():
            await self._worker

    async def close(self) -> None:
        """Copy nothing more, forget what waits, finish the run under way."""
        self._closed = True
        self._dropped += len(self._waiting)
        self._waiting.clear()
        await self.settle()
        self._executor.shutdown()  # idle by now


def _be_nice() -> None:
    # On Linux a thread has a priority of its own; ONNX Runtime with one thread runs on this one.
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _quantile_ms(seconds: Sequence[float] | deque[float], q: float) -> float | None:
    ordered = np.sort(np.asarray(seconds))
    return 1000 * float(ordered[int(len(ordered) * q)]) if len(ordered) else None
