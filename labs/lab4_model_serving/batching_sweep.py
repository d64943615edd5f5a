"""Latency against load for several batch sizes and delays, measured, with the model drawn in.

First the time of batches of several sizes is measured and ``a + b n`` fitted to it. From that alone
``queueing.simulate`` predicts each point of the sweep. Then the same :class:`batcher.Batcher` that
the server uses runs the real thing under open-loop load, in this process: no HTTP, so that what is
compared is the queue.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab4_model_serving.admission import ServiceTime
from labs.lab4_model_serving.batcher import Batcher, Served
from labs.lab4_model_serving.queueing import fit_service_time, simulate, stability_limit

Run = Callable[[Sequence[str]], Sequence[object]]
"""Texts to answers, as one batch: ``predictor.predict``."""

SWITCH_S = 0.0005
"""How long a batch that is finished waits for the interpreter while the loop is busy: as in the
server (5 ms by default)."""


@dataclass(frozen=True)
class ServiceMeasurement:
    """Measured batches and the line through them. ``sizes`` and ``seconds`` are arrays [n]."""

    sizes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    service: ServiceTime

    def sampler(self, seed: int) -> Callable[[int], float]:
        """Service times that scatter as the measured ones do around their line."""
        scatter = self.seconds / (self.service.fixed_s + self.sizes * self.service.item_s)
        rng = np.random.default_rng(seed)
        return lambda n: self.service.batch_s(n) * float(rng.choice(scatter))


def measure_service_time(
    run: Run,
    texts: Sequence[str],
    *,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    repeats: int = 12,
    seed: int = 0,
) -> ServiceMeasurement:
    """Time batches of random texts, the sizes in turn, so that a slow moment hits all of them."""
    require(len(sizes) >= 2, "sizes", list(sizes), "must be two batch sizes at least")
    require(repeats >= 1, "repeats", repeats, "must be >= 1")
    rng = np.random.default_rng(seed)
    for size in sizes:  # the first run of a shape is slower
        run([texts[i] for i in rng.integers(0, len(texts), size)])
    found: list[tuple[int, float]] = []
    for _ in range(repeats):
        for size in sizes:
            batch = [texts[i] for i in rng.integers(0, len(texts), size)]
            start = time.perf_counter()
            run(batch)
            found.append((size, time.perf_counter() - start))
    n = np.array([size for size, _ in found], np.int64)
    seconds = np.array([spent for _, spent in found])
    line = fit_service_time(n, seconds)
    # The line follows the medians. What a server can do depends on the means: raise all of it.
    mean = float((seconds / (line.fixed_s + n * line.item_s)).mean())
    return ServiceMeasurement(n, seconds, ServiceTime(mean * line.fixed_s, mean * line.item_s))


@dataclass(frozen=True)
class SweepPoint:
    """One setting at one rate: what was measured, and what the model said before."""

    max_batch: int
    max_delay_s: float
    rate: float
    load: float
    """``rate`` over the stability limit of this batch size."""
    n: int
    mean_s: float
    p99_s: float
    mean_batch: float
    predicted_mean_s: float
    predicted_p99_s: float
    predicted_mean_batch: float


@dataclass(frozen=True)
class Sweep:
    """Every point, and the service times that the predictions were made from."""

    measured: ServiceMeasurement
    points: tuple[SweepPoint, ...]
    drift: float
    """What batches took after the sweep over what they took before. Far from 1, the machine was
    busy with something else, and the points say nothing about the model."""
    overhead_s: float
    """Latency of a batcher whose model does nothing (timers, threads); part of every prediction."""

    @property
    def relative_error(self) -> float:
        """Median of \\|measured - predicted\\| / measured over the points' mean latencies."""
        return float(
            np.median([abs(p.mean_s - p.predicted_mean_s) / p.mean_s for p in self.points])
        )


@dataclass(frozen=True)
class Predicted:
    """The model's answer for one setting at one rate (s)."""

    mean_s: float
    p99_s: float
    mean_batch: float


def predict(
    measured: ServiceMeasurement,
    arrivals: NDArray[np.float64],
    *,
    max_batch: int,
    max_delay_s: float,
    seed: int = 1,
) -> Predicted:
    """Mean and p99 latency that the queueing model gives for these arrivals (s)."""
    found = simulate(arrivals, measured.sampler(seed), max_batch=max_batch, max_delay_s=max_delay_s)
    return Predicted(
        float(found.answered.mean()), found.quantile_s(0.99), float(found.batches.mean())
    )


def sweep(
    run: Run,
    texts: Sequence[str],
    *,
    batches: Sequence[int] = (1, 8, 32),
    delays_s: Sequence[float] = (0.0,),
    loads: Sequence[float] = (0.2, 0.5, 0.8),
    seconds: float = 1.5,
    seed: int = 0,
    measured: ServiceMeasurement | None = None,
) -> Sweep:
    """Measure and predict every batch size, delay and load.

    Parameters
    ----------
    loads
        Rates as shares of each batch size's own stability limit, in (0, 1).
    seconds
        Length of the arrivals of one point.
    measured
        Service times, if they were measured before.
    """
    require(all(0 < load < 1 for load in loads), "loads", list(loads), "must be in (0, 1)")
    require(seconds > 0, "seconds", seconds, "must be > 0")
    known = measured or measure_service_time(run, texts, seed=seed)
    nothing, _ = measure_point(
        lambda batch: batch, texts, 200, max_batch=1, max_delay_s=0, seconds=0.5, seed=seed
    )
    overhead = float(np.median(nothing))
    points = []
    for max_batch in batches:
        for max_delay_s in delays_s:
            for load in loads:
                rate = load * stability_limit(known.service, max_batch)
                latency, sizes = measure_point(
                    run,
                    texts,
                    rate,
                    max_batch=max_batch,
                    max_delay_s=max_delay_s,
                    seconds=seconds,
                    seed=seed,
                )
                model = predict(
                    known,
                    arrivals_of(rate, seconds, seed),
                    max_batch=max_batch,
                    max_delay_s=max_delay_s,
                )
                ordered = np.sort(latency)
                points.append(
                    SweepPoint(
                        max_batch,
                        max_delay_s,
                        rate,
                        load,
                        len(latency),
                        float(latency.mean()),
                        float(ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]),
                        float(sizes.mean()),
                        overhead + model.mean_s,
                        overhead + model.p99_s,
                        model.mean_batch,
                    )
                )
    after = measure_service_time(run, texts, repeats=3, seed=seed + 1).service
    largest = max(batches)
    drift = after.batch_s(largest) / known.service.batch_s(largest)
    return Sweep(known, tuple(points), drift, overhead)


def measure_point(
    run: Run,
    texts: Sequence[str],
    rate: float,
    *,
    max_batch: int,
    max_delay_s: float,
    seconds: float,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies [n] from the scheduled time (s), and the sizes of the batches that ran."""
    schedule = arrivals_of(rate, seconds, seed)
    rng = np.random.default_rng(seed + 1)
    chosen = [texts[i] for i in rng.integers(0, len(texts), len(schedule))]
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        return asyncio.run(_offer(run, chosen, schedule, max_batch, max_delay_s))
    finally:
        sys.setswitchinterval(before)


def arrivals_of(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Poisson arrivals of one point (s); 20 at least."""
    count = max(20, int(rate * seconds))
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


async def _offer(
    run: Run,
    texts: Sequence[str],
    schedule: NDArray[np.float64],
    max_batch: int,
    max_delay_s: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sizes: list[int] = []
    batcher: Batcher[str, object] = Batcher(
        run, max_batch=max_batch, max_delay_s=max_delay_s, max_queue=len(texts)
    )
    batcher.on_batch = sizes.append
    latency = np.full(len(texts), np.nan)
    start = time.perf_counter() + 0.01
    due = start + schedule

    def answered(i: int, future: asyncio.Future[Served[object]]) -> None:
        if not future.exception():
            latency[i] = time.perf_counter() - due[i]

    futures = []
    for i, text in enumerate(texts):
        while (ahead := due[i] - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)  # up to 1 ms late; the latency counts from when it was due
        future = batcher.enqueue(text, enqueued=float(due[i]))
        future.add_done_callback(partial(answered, i))
        futures.append(future)
    await asyncio.gather(*futures)
    batcher.close()
    return latency, np.array(sizes, np.float64)
