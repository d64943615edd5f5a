"""The ladder: one classifier, from eager PyTorch to the batched form, and what each step buys.

Every rung answers the same texts, one batch at a time, on one core or the GPU of one machine.
Accuracy is over the test texts; latency is of one text at a time; the rate is the highest open-loop
rate whose p99 is below the limit, with the rung behind :class:`batcher.Batcher` in this process.
The last step, a real server over HTTP, is measured apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.data.labelled_texts import Part
from common.errors import require
from common.latency import LatencySummary, no_garbage_collection
from labs.lab4_model_serving.batcher import Batcher, QueueFull
from labs.lab4_model_serving.load_generator import (
    LoadResult,
    RateSearch,
    max_rate,
    poisson_schedule,
    run_open_loop,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 662  # for a p99 at 99 % confidence, see percentiles.minimum_samples

Logits = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to logits [n, classes], as one batch."""


@dataclass(frozen=True)
class Step:
    """A rung to measure: how it answers, what it weighs, how many texts it may take at once."""

    name: str
    logits: Logits
    size_bytes: int
    max_batch: int = 1
    max_delay_s: float = 0.001


@dataclass(frozen=True)
class Rung:
    """What one rung gave."""

    name: str
    accuracy: float
    n: int
    size_bytes: int
    latency: LatencySummary
    """Of one text at a time."""
    search: RateSearch

    @property
    def qps_at_slo(self) -> float:
        return self.search.qps


def measure(
    step: Step,
    part: Part,
    *,
    low: float,
    high: float,
    p99_limit_ms: float = 50.0,
    trial_s: float = 3.0,
    tries: int = 5,
    singles: int = 300,
    seed: int = 0,
) -> Rung:
    """Accuracy, latency of single texts, and the highest rate below the limit.

    Parameters
    ----------
    low, high
        Bounds of the search (requests/s).
    trial_s
        Length of one trial (s), more where the rate is so low that a p99 needs it.
    singles
        Texts of the latency measurement.
    """
    require(singles >= 1, "singles", singles, "must be >= 1")
    found = np.concatenate(
        [step.logits(part.texts[at : at + 32]) for at in range(0, len(part), 32)]
    )
    accuracy = float((found.argmax(axis=1) == part.labels).mean())
    seconds = []
    for text in part.texts[: singles + 20]:
        start = time.perf_counter()
        step.logits([text])
        seconds.append(time.perf_counter() - start)
    least = SAMPLES if trial_s >= 1 else 0  # a shorter trial shows that it runs, and no p99
    latency = LatencySummary.of(seconds[20:] or seconds, how="one text at a time, one thread")
    search = max_rate(
        lambda rate: offered(step, part.texts, rate, max(trial_s, least / rate), seed),
        low,
        high,
        p99_limit_ms=p99_limit_ms,
        tries=tries,
    )
    return Rung(step.name, accuracy, len(part), step.size_bytes, latency, search)


def offered(
    step: Step, texts: Sequence[str], rate: float, seconds: float, seed: int = 0
) -> LoadResult:
    """Poisson arrivals at ``rate`` for ``seconds``, in this process."""

    async def run() -> LoadResult:
        batcher: Batcher[str, NDArray[np.float32]] = Batcher(
            lambda batch: list(step.logits(batch)),
            max_batch=step.max_batch,
            max_delay_s=step.max_delay_s if step.max_batch > 1 else 0.0,
            max_queue=2000,
        )

        async def send(i: int) -> None:
            try:
                await batcher.submit(texts[i % len(texts)])
            except QueueFull as full:
                raise RuntimeError("queue full") from full

        return await run_open_loop(
            send, poisson_schedule(rate, seconds, seed), max_in_flight=4000, timeout=1.0
        )

    with no_garbage_collection():
        return asyncio.run(run())


def draw_ladder(rungs: Mapping[str, float], limit_ms: float) -> Figure:
    """Bars of the highest rate below the limit, rung by rung."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.5 * len(rungs) + 1.4))
    axes = figure.subplots()
    names = list(rungs)[::-1]
    values = [rungs[name] for name in names]
    bars = axes.barh(names, values, color="#3b6ea5")
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=4)
    axes.set_xlim(0, max(*values, 1) * 1.15)
    axes.set_xlabel(f"requests/s with p99 < {limit_ms:g} ms, open loop")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


Row = tuple[str, float, float, float | None, float | None, float]
"""Name, accuracy, bytes, p50 and p99 (ms), requests/s."""


def draw_table(rows: Sequence[Row]) -> Figure:
    """The rungs and the servers as a table."""
    from matplotlib.figure import Figure

    head = ["", "accuracy", "size", "p50", "p99", "requests/s"]

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f} ms"

    cells = [
        [name, f"{accuracy:.4f}", f"{size / 1e6:.1f} MB", ms(p50), ms(p99), f"{rate:,.0f}"]
        for name, accuracy, size, p50, p99, rate in rows
    ]
    figure = Figure(figsize=(7.5, 0.33 * (len(rows) + 1)))
    axes = figure.subplots()
    axes.axis("off")
    table = axes.table(cells, colLabels=head, loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    table.auto_set_column_width(list(range(len(head))))
    table.scale(1, 1.35)
    for (row, column), cell in table.get_celld().items():
        if column == 0:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_text_props(weight="bold")
    return figure
