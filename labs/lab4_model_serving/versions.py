"""The versions of a model that are live: who answers a request, and who only listens.

A request without a version goes to one by weight (*canary*). The choice hashes the request's id,
so a retry of the same request meets the same version. A *shadow* version gets a copy of requests
and its answers go nowhere but into comparison.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import InputError
from labs.lab4_model_serving.batcher import Batcher, Served
from labs.lab4_model_serving.predictor import Answer, Predictor
from labs.lab4_model_serving.protocol import HttpError, Times


@dataclass(frozen=True)
class BatchSettings:
    """How requests of a version are batched (see :class:`batcher.Batcher`)."""

    max_batch: int = 32
    max_delay_s: float = 0.001
    max_queue: int = 256
    deadline_s: float = 1.0
    runners: int = 1


@dataclass(frozen=True)
class _Timed:
    answer: Answer
    input_s: float
    compute_s: float
    output_s: float


class LiveVersion:
    """A predictor behind a batcher of its own."""

    def __init__(self, predictor: Predictor, settings: BatchSettings) -> None:
        self.predictor = predictor
        self.batcher: Batcher[str, _Timed] = Batcher(
            self._run,
            max_batch=settings.max_batch,
            max_delay_s=settings.max_delay_s,
            max_queue=settings.max_queue,
            deadline_s=settings.deadline_s,
            runners=settings.runners,
        )

    def _run(self, texts: Sequence[str]) -> list[_Timed]:
        start = time.perf_counter()
        ids = self.predictor.encode(texts)
        encoded = time.perf_counter()
        logits = self.predictor.logits(ids)
        computed = time.perf_counter()
        answers = self.predictor.answers(logits)
        spent = (encoded - start, computed - encoded, time.perf_counter() - computed)
        return [_Timed(answer, *spent) for answer in answers]

    async def predict(self, text: str) -> tuple[Answer, Times]:
        """The answer, and where its time went."""
        served: Served[_Timed] = await self.batcher.submit(text)
        timed = served.result
        times = Times(served.queue_s, timed.input_s, timed.compute_s, timed.output_s, served.batch)
        return timed.answer, times


class LiveModel:
    """Every live version of one model, and the share of requests that each gets."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, LiveVersion] = {}
        self.weights: dict[str, float] = {}

    def add(self, predictor: Predictor, settings: BatchSettings, weight: float = 0.0) -> None:
        """Load a version; it gets requests once it has a weight, or when asked for by name."""
        if predictor.version in self.versions:
            raise InputError(f"{self.name} {predictor.version} is already live")
        self.versions[predictor.version] = LiveVersion(predictor, settings)
        self.weights[predictor.version] = weight

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Give every live version its share; requests under way are not touched."""
        unknown = sorted(set(weights) - set(self.versions))
        if unknown:
            raise InputError(
                f"{self.name} has no version {unknown[0]}; live: {list(self.versions)}"
            )
        if not any(w > 0 for w in weights.values()) or any(w < 0 for w in weights.values()):
            raise InputError(f"weights = {dict(weights)} must be >= 0, and one of them above 0")
        self.weights = {version: float(weights.get(version, 0)) for version in self.versions}

    async def remove(self, version: str) -> None:
        """Stop sending requests to a version, answer those it has, and drop it."""
        if self.weights.get(version, 0) > 0:
            raise InputError(f"{self.name} {version} still has weight; set_weights first")
        live = self.versions.pop(version, None)
        self.weights.pop(version, None)
        if live:
            await live.batcher.drain()

    def choose(self, request_id: str, asked: str = "") -> str:
        """The version for a request; 404 for one that is not live."""
        if asked:
            if asked not in self.versions:
                raise HttpError(404, f"{self.name} has no version {asked[:50]!r}")
            return asked
        total = sum(self.weights.values())
        at = (hash_fraction(request_id)) * total
        for version, weight in self.weights.items():
            at -= weight
            if at < 0:
                return version
        return next(version for version, weight in self.weights.items() if weight > 0)

    async def predict(self, text: str, version: str) -> tuple[Answer, Times]:
        """Run one text on a version that :meth:`choose` named."""
        return await self.versions[version].predict(text)

    async def drain(self) -> None:
        await asyncio.gather(*(live.batcher.drain() for live in self.versions.values()))


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that is the same for the same key in every process."""
    from zlib import crc32

    return crc32(key.encode()) / 2**32
