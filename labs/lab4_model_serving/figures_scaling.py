"""Figures of scaling: controllers, balancers, outages, and what it all costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.autoscaling_simulation import Simulated, Trace
    from labs.lab4_model_serving.balancing import Balanced
    from labs.lab4_model_serving.cost import Comparison
    from labs.lab4_model_serving.outages import OutageCase


def draw_autoscaling(trace: Trace, *, unit: str = "workers") -> Figure:
    """Offered load, queue, replicas asked for and ready, and p99, over one time axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5))
    load, queue, workers, latency = figure.subplots(4, 1, sharex=True)
    load.step(trace.time_s[1:], trace.offered[1:], where="pre", color="tab:blue")
    load.set_ylabel("offered\n(1/s)")
    queue.plot(trace.time_s, trace.queue, color="tab:orange")
    queue.set_ylabel("waiting\nrequests")
    workers.step(trace.time_s, trace.replicas, where="post", color="tab:green", label="asked for")
    workers.step(
        trace.time_s, trace.ready, where="post", color="black", linestyle="--", label="ready"
    )
    workers.set_ylabel(unit)
    workers.set_ylim(0, None)
    workers.legend(fontsize=8, loc="upper left")
    latency.plot(trace.time_s, trace.p99_ms, color="tab:red", marker=".", markersize=3)
    latency.set_yscale("log")
    latency.set_ylabel("p99 of those\nthat came (ms)")
    latency.set_xlabel("time (s)")
    for axes in (load, queue):
        axes.set_ylim(0, None)
    figure.align_ylabels()
    figure.tight_layout()
    return figure


def draw_controllers(cases: Mapping[str, Simulated]) -> Figure:
    """Replicas over time under the same load, one panel a controller."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.7 * len(cases) + 0.6))
    panels: Any = np.atleast_1d(figure.subplots(len(cases), 1, sharex=True, sharey=True))
    for axes, (name, simulated) in zip(panels, cases.items(), strict=True):
        trace = simulated.trace
        axes.step(trace.time_s, trace.replicas, where="post", color="tab:green", label="asked for")
        axes.fill_between(
            trace.time_s, trace.ready, step="post", color="tab:green", alpha=0.2, label="ready"
        )
        load = axes.twinx()
        load.step(trace.time_s[1:], trace.offered[1:], where="pre", color="tab:blue", alpha=0.5)
        load.set_ylim(0, None)
        load.set_ylabel("offered (1/s)", fontsize=8, color="tab:blue")
        axes.set_zorder(load.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.set_ylabel("replicas")
        axes.set_ylim(0, None)
        axes.set_title(
            f"{name}: {trace.changes} changes, {trace.reversals} of them against the one before; "
            f"{simulated.share_within(1000):.0%} within 1 s",
            fontsize=9,
        )
    panels[0].legend(fontsize=7, loc="upper left")
    panels[-1].set_xlabel("time (s)")
    figure.tight_layout()
    return figure


def draw_balancers(results: Sequence[Balanced]) -> Figure:
    """The tail of the latency under each policy: share of requests that take longer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for result in results:
        ordered = np.sort(result.latencies)
        longer = 1 - np.arange(len(ordered)) / len(ordered)
        axes.plot(ordered, longer, label=f"{result.name} (p99 {result.p99:.1f})")
    axes.axhline(0.01, color="grey", linewidth=0.8, linestyle=":")
    axes.text(0.012, 0.011, "p99", fontsize=8, color="grey")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.01, None)
    axes.set_ylim(1e-3, 1.1)
    axes.set_xlabel("latency (mean service times)")
    axes.set_ylabel("share of requests that take longer")
    axes.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def draw_outages(cases: Sequence[OutageCase]) -> Figure:
    """Each request's latency by its time, and the lost ones on top, one panel a case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.9 * len(cases) + 0.6))
    panels: Any = np.atleast_1d(figure.subplots(len(cases), 1, sharex=True, sharey=True))
    for axes, case in zip(panels, cases, strict=True):
        outage = case.outage
        lost = np.isinf(outage.load.latencies)
        top = 1000 * outage.load.timeout
        axes.plot(outage.schedule[~lost], 1000 * outage.load.latencies[~lost], ".", markersize=3)
        axes.plot(outage.schedule[lost], np.full(lost.sum(), top), "x", color="tab:red")
        axes.axvspan(outage.down_s, outage.up_s, color="grey", alpha=0.15)
        axes.set_yscale("log")
        axes.set_ylabel("latency (ms)")
        axes.set_title(
            f"{case.name}: {outage.lost} of {outage.load.n} lost (x), "
            f"{case.repeated} tried on a second replica",
            fontsize=9,
        )
    panels[-1].set_xlabel("scheduled time (s); grey: a replica is away")
    figure.tight_layout()
    return figure


def draw_cost(
    comparison: Comparison, *, currency: str, mark: tuple[str, str] | None = None
) -> Figure:
    """Cost of an hour and of a million requests over the peak load, for each option.

    ``mark`` names two options whose break-even is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8))
    hourly, million = figure.subplots(1, 2)
    for i, option in enumerate(comparison.options):
        label = f"{option.name}, {option.replica_qps:,.0f}/s each"
        hourly.step(comparison.rates, comparison.hourly[i], where="post", label=label)
        million.plot(comparison.rates, comparison.per_million[i], label=label)
    found = comparison.break_even(*mark) if mark else None
    for axes in (hourly, million):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("peak load (requests/s)")
        if found:
            axes.axvline(found, color="grey", linestyle=":", label=f"break-even, {found:,.0f}/s")
        axes.grid(alpha=0.3)
    hourly.set_ylabel(f"fleet, {currency} an hour")
    million.set_ylabel(f"{currency} a million requests")
    hourly.legend(fontsize=7)
    figure.tight_layout()
    return figure
