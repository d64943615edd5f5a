"""Figures of batching: what a batch costs, latency against load, and what a bounded queue saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab4_model_serving.batching_sweep import Sweep, arrivals_of, predict
from labs.lab4_model_serving.queueing import stability_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.batching_policies import Overload, PolicyCurve

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d5ba6", "#8a6d1f")
MARKERS = ("o", "s", "^", "D", "v")


def draw_service_time(sweep: Sweep) -> Figure:
    """Measured time of a batch by its size, and the line ``a + b n``."""
    from matplotlib.figure import Figure

    measured = sweep.measured
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(measured.sizes, 1000 * measured.seconds, "o", ms=4, alpha=0.45, color=COLOURS[0],
              label="measured batch")  # fmt: skip
    n = np.array([0, measured.sizes.max()])
    fixed_ms, item_ms = 1000 * measured.service.fixed_s, 1000 * measured.service.item_s
    label = f"{fixed_ms:.2f} ms + n × {item_ms:.3f} ms"
    axes.plot(n, fixed_ms + n * item_ms, color=COLOURS[1], label=label)
    top = float(np.quantile(1000 * measured.seconds, 0.99))
    axes.set(xlabel="requests in the batch", ylabel="time of the batch (ms)", ylim=(0, 1.15 * top))
    axes.set_title("What a batch costs")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_latency_curve(sweep: Sweep, *, max_delay_s: float = 0.0) -> Figure:
    """Mean and p99 latency against the offered rate: points measured, lines from the model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    points = [p for p in sweep.points if p.max_delay_s == max_delay_s]
    batches = sorted({p.max_batch for p in points})
    for colour, marker, max_batch in zip(COLOURS, MARKERS, batches, strict=False):
        mine = [p for p in points if p.max_batch == max_batch]
        limit = stability_limit(sweep.measured.service, max_batch)
        rates = limit * np.array([0.05, 0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.9, 0.94])
        lines = [
            predict(
                sweep.measured,
                arrivals_of(rate, 4000 / rate, seed=1),
                max_batch=max_batch,
                max_delay_s=max_delay_s,
            )
            for rate in rates
        ]
        for axes, measured, model in (
            (left, [p.mean_s for p in mine], [sweep.overhead_s + line.mean_s for line in lines]),
            (right, [p.p99_s for p in mine], [sweep.overhead_s + line.p99_s for line in lines]),
        ):
            axes.plot(rates, 1000 * np.array(model), color=colour, lw=1.5)
            axes.plot([p.rate for p in mine], 1000 * np.array(measured), marker, color=colour,
                      label=f"at most {max_batch} a batch")  # fmt: skip
            axes.axvline(limit, color=colour, ls=":", lw=1)
    for axes, name in ((left, "mean"), (right, "p99")):
        axes.set(xlabel="offered rate (requests/s)", ylabel=f"{name} latency (ms)", yscale="log")
        axes.set_title(
            f"{name}: points measured, line from the model, dotted the limit", fontsize=9
        )
        axes.spines[["top", "right"]].set_visible(False)
        _plain(axes)
    left.legend(frameon=False)
    return figure


def draw_policies(curves: Sequence[PolicyCurve]) -> Figure:
    """Mean latency against load for the three rules of leaving, simulated on the same arrivals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, marker, curve in zip(COLOURS, MARKERS, curves, strict=False):
        axes.plot(curve.loads, 1000 * np.array(curve.mean_s), marker + "-", color=colour, ms=4,
                  label=curve.name)  # fmt: skip
    axes.set(
        xlabel="offered rate as a share of the stability limit",
        ylabel="mean latency (ms)",
        yscale="log",
    )
    axes.set_title("Since when is the delay counted?")
    _plain(axes)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_overload(overloads: Sequence[Overload]) -> Figure:
    """Goodput and throughput against the offered rate, with and without a bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, marker, overload in zip(COLOURS, MARKERS, overloads, strict=False):
        x = np.array(overload.loads)
        left.plot(x, overload.throughput, marker + "--", color=colour, alpha=0.6, ms=4)
        left.plot(x, overload.goodput, marker + "-", color=colour, ms=4, label=overload.name)
        right.plot(x, 1000 * np.array(overload.p99_s), marker + "-", color=colour, ms=4,
                   label=overload.name)  # fmt: skip
    slo = 1000 * overloads[0].slo_s
    right.axhline(slo, color="0.4", ls=":")
    right.text(x[0], slo * 1.08, f"promise: {slo:.0f} ms", fontsize=8, color="0.3")
    left.set(xlabel="offered rate / limit", ylabel="answers per second")
    left.set_title("solid: within the promise; dashed: all answers", fontsize=9)
    right.set(xlabel="offered rate / limit", ylabel="p99 of the answered (ms)", yscale="log")
    _plain(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    return figure


def _plain(axes: Axes) -> None:
    """Numbers, not powers of ten, on a logarithmic axis of a few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
