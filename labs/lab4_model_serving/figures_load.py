"""Figures of the load tests: what a closed loop hides, the search, the overload, the arrivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labs.lab4_model_serving.arrivals import Schedule
from labs.lab4_model_serving.percentiles import percentile_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.load_result import LoadResult
    from labs.lab4_model_serving.overload import Overload
    from labs.lab4_model_serving.rate_search import FoundRate, Trial

PERCENTILES = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9"}


def draw_percentiles(latencies: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Latency by percentile for several views of one server; the axis stretches the tail.

    Parameters
    ----------
    latencies
        Seconds by what the legend says, for example closed loop, corrected, open loop.
    """
    figure, axes = _figure()
    for (label, values), style in zip(
        latencies.items(), ("-", "--", "-.", ":") * len(latencies), strict=False
    ):
        ordered = 1000 * np.sort(values)
        above = 1 - np.arange(len(ordered)) / len(ordered)
        axes.plot(1 / above, ordered, style, linewidth=2, label=label)
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - q) for q in PERCENTILES], list(PERCENTILES.values()))
    axes.minorticks_off()
    axes.set_xlim(1, max(len(values) for values in latencies.values()))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile of the requests")
    axes.set_ylabel("latency (ms)")
    axes.legend(loc="upper left")
    return figure


def draw_rate_search(found: FoundRate, limit_ms: float) -> Figure:
    """p99 with its 95 % interval by offered rate: the trials, the confirming runs, the limit."""
    figure, axes = _figure()
    for trials, marker, what in (
        (found.trials, "o", "trial"),
        (found.confirmations, "D", "run to confirm"),
    ):
        for held, colour in ((True, "tab:green"), (False, "tab:red")):
            chosen = [trial for trial in trials if trial.held == held]
            if chosen:
                _error_bars(axes, chosen, marker, colour, f"{what}, {_verdict(held)}", limit_ms)
    axes.axhline(limit_ms, linestyle="--", color="grey", label=f"limit {limit_ms:g} ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=20 * limit_ms)
    axes.yaxis.set_major_formatter("{x:g}")
    rates = sorted({trial.rate for trial in (*found.trials, *found.confirmations)})
    axes.set_xticks(_apart(rates), [f"{rate:,.0f}" for rate in _apart(rates)])
    axes.minorticks_off()
    axes.set_xlabel("offered rate (requests/s)")
    axes.set_ylabel("p99 latency (ms), with 95 % interval")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def draw_overload(overload: Overload) -> Figure:
    """Offered, answered and refused per second over time, and the p99 of what was accepted."""
    from matplotlib.figure import Figure

    line = overload.timeline
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    rates, tail = figure.subplots(2, 1, sharex=True)
    per_second = 1 / (line.start[1] - line.start[0]) if len(line.start) > 1 else 1.0
    rates.step(line.start, line.offered * per_second, where="post", color="black", label="offered")
    rates.step(line.start, line.answered * per_second, where="post", label="answered (200)")
    rates.step(line.start, line.refused * per_second, where="post", label="refused (503)")
    rates.set_ylabel("requests/s")
    tail.plot(line.start, line.p99_ms, ".", label="p99 of 100 ms, accepted requests")
    tail.axhline(overload.slo_ms, linestyle="--", color="grey", label=f"SLO {overload.slo_ms:g} ms")
    recovered = overload.overload_end + overload.recovery_s
    if np.isfinite(recovered):
        tail.axvline(
            recovered, color="tab:green", label=f"SLO kept again after {overload.recovery_s:.1f} s"
        )
    tail.set_yscale("log")
    tail.set_ylim(overload.slo_ms / 50, 2 * max(overload.slo_ms, np.nanmax(line.p99_ms)))
    tail.yaxis.set_major_formatter("{x:g}")
    tail.set_ylabel("latency (ms)")
    tail.set_xlabel("time when due; answers by when they came (s)")
    for axes in (rates, tail):
        axes.axvspan(
            overload.overload_begin, overload.overload_end, color="tab:red", alpha=0.1,
            label="overload" if axes is rates else None,
        )  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right", fontsize=8)
    return figure


def draw_arrivals(schedules: Mapping[str, Schedule], *, window: float = 0.1) -> Figure:
    """Requests per window for several schedules of one mean rate, one panel each."""
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.arrivals import dispersion

    figure = Figure(figsize=(8, 1.6 * len(schedules) + 0.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(schedules), 1, sharex=True, sharey=True))
    for axes, (label, schedule) in zip(panels, schedules.items(), strict=True):
        counts = np.bincount((schedule / window).astype(np.int64))
        axes.step(np.arange(len(counts)) * window, counts, where="post", linewidth=1)
        axes.set_title(
            f"{label}: variance / mean {dispersion(schedule, window):.1f}", fontsize=9, loc="left"
        )
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel(f"requests in {1000 * window:g} ms", fontsize=9)
    return figure


def draw_percentile_intervals(
    latencies: NDArray[np.float64], *, q: float = 0.99, confidence: float = 0.95
) -> Figure:
    """The interval of a percentile as more and more of the same requests are counted.

    Parameters
    ----------
    latencies
        Seconds [n], independent and in any order.
    """
    figure, axes = _figure()
    sizes = np.unique(np.geomspace(30, len(latencies), 40).astype(int))
    found = [percentile_interval(latencies[:n], q, confidence) for n in sizes]
    low, value, high = (1000 * np.array([getattr(each, of) for each in found])
                        for of in ("low", "value", "high"))  # fmt: skip
    bounded = np.isfinite(high)
    axes.fill_between(
        sizes[bounded], low[bounded], high[bounded], alpha=0.3,
        label=f"{100 * confidence:g} % interval",
    )  # fmt: skip
    top = 1.2 * float(np.max(high[bounded], initial=float(value.max())))
    if not bounded.all():
        axes.fill_between(
            sizes[~bounded], low[~bounded], top, alpha=0.15, color="tab:red",
            label="no upper limit: too few requests",
        )  # fmt: skip
    axes.plot(sizes, value, ".-", label=f"p{100 * q:g} of the first n requests")
    axes.set_xscale("log")
    axes.set_ylim(0, top)
    axes.set_xlabel("requests n")
    axes.set_ylabel(f"p{100 * q:g} latency (ms)")
    axes.legend(loc="upper right")
    return figure


def _error_bars(
    axes: Axes, trials: Sequence[Trial], marker: str, colour: str, label: str, limit_ms: float
) -> None:
    intervals = [trial.result.p99_interval() for trial in trials]
    value = 1000 * np.array([_counted(trial.result) for trial in trials])
    low = 1000 * np.array([each.low for each in intervals])
    high = 1000 * np.array([each.high for each in intervals])
    top = 20 * limit_ms
    value, low, high = (np.clip(each, None, top) for each in (value, low, high))
    axes.errorbar(
        [trial.rate for trial in trials], value, [value - np.minimum(low, value), high - value],
        fmt=marker, color=colour, capsize=3, label=label,
    )  # fmt: skip


def _counted(result: LoadResult) -> float:
    return result.summary.p99_ms / 1000


def _verdict(held: bool) -> str:
    return "kept the SLO" if held else "missed it"


def _apart(rates: Sequence[float], factor: float = 1.3) -> list[float]:
    """Of ascending rates those that leave room for their labels on a logarithmic axis."""
    kept: list[float] = []
    for rate in rates:
        if not kept or rate / kept[-1] >= factor:
            kept.append(rate)
    return kept


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes
