"""Figures of monitoring: what buckets, replicas and alert windows do to a p99."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab4_model_serving.burn_rate import FAST, Incident, burn_rates, firing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.monitoring_study import BucketStudy, FleetStudy

BLUE, ORANGE, GREY, GREEN, RED = "#2b6cb0", "#c05621", "#718096", "#2f855a", "#c53030"


def draw_bucket_error(study: BucketStudy) -> Figure:
    """Left: the error of the p99 by what the p99 is. Right: the worst error by number of bounds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    named = (("prometheus-client's default", ORANGE), ("this lab's", BLUE))
    for name, colour in named:
        left.plot(
            study.p99s * 1000,
            study.errors[name],
            color=colour,
            label=f"{name}, {study.bounds[name]} bounds",
        )
    left.axvline(50, color=GREY, linestyle=":", label="SLO, 50 ms")
    left.axhline(0, color="black", linewidth=0.6)
    left.set(
        xscale="log",
        xlabel="exact p99 (ms)",
        ylabel="(estimate - exact) / exact",
        ylim=(-0.1, 0.8),
        title="The p99 that a histogram reports",
    )
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_xticks([2, 5, 10, 20, 50, 100, 200, 500])
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.minorticks_off()

    grown = [name for name in study.bounds if name.endswith("a decade")]
    bounds = [study.bounds[name] for name in grown]
    factors = [10 ** (1 / int(name.split()[0])) - 1 for name in grown]
    right.plot(bounds, factors, "--", color=GREY, label="limit: growth factor - 1")
    right.plot(
        bounds, [study.worst(name) for name in grown], "o-", color=GREEN, label="k bounds a decade"
    )
    for name, colour in named:
        right.plot(study.bounds[name], study.worst(name), "D", color=colour, label=name)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="bounds (series a label set)",
        ylabel="worst relative error of the p99",
        title="Between 2 and 500 ms",
    )
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.xaxis.set_major_formatter("{x:g}")
    right.set_xticks(bounds)
    right.xaxis.minorticks_off()
    for axes in (left, right):
        _quiet(axes)
        axes.legend(edgecolor="none", framealpha=0.9, fontsize=8)
    return figure


def draw_fleet_p99(study: FleetStudy) -> Figure:
    """The p99 of a fleet whose one slow replica gets a share of the traffic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    milliseconds = {
        "exact, all requests together": [each.exact for each in study.p99s],
        "mean of the replicas' p99s": [each.mean_of_p99s for each in study.p99s],
        "from added buckets": [each.from_merged_buckets for each in study.p99s],
    }
    for (name, values), colour, style in zip(
        milliseconds.items(), (BLUE, RED, GREEN), ("-", "s--", "o")
    ):
        axes.plot(study.shares, np.array(values) * 1000, style, color=colour, label=name)
    axes.axvline(0.01, color=GREY, linestyle=":", label="1 % of the requests")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="share of the requests that the slow replica gets",
        ylabel="p99 of the fleet (ms)",
        title=f"One slow replica of {len(study.p99s[0].replicas)}",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_yticks([20, 50, 100, 200, 400, 600])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    _quiet(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_burn_rate(found: Sequence[Incident], budget: float = 0.01) -> Figure:
    """A blip and an outage through both windows of the fast page, and when it fires."""
    from matplotlib.figure import Figure

    shown = [each for each in found if 0 < each.end - each.start <= 60]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown):
        first, last = each.start - 20, each.end + 70
        minutes = np.arange(first, last) - each.start
        for window, colour in ((FAST.long_min, BLUE), (FAST.short_min, ORANGE)):
            rates = burn_rates(each.bad, each.total, window, budget)[first:last]
            axes.plot(minutes, rates, color=colour, label=f"burn rate, last {window} min")
        axes.axhline(
            FAST.threshold, color=RED, linewidth=0.8, label=f"threshold, {FAST.threshold:g}"
        )
        axes.axvspan(0, each.end - each.start, color=GREY, alpha=0.2, label="incident")
        fires = np.flatnonzero(firing(each.bad, each.total, FAST, budget)[first:last])
        if len(fires):
            axes.axvspan(minutes[fires[0]], minutes[fires[-1]], ymax=0.04, color=RED, label="page")
        axes.set(xlabel="minutes since it began", title=each.name)
        _quiet(axes)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set(ylabel="burn rate (1 = budget lasts 30 days)", ylim=(0, 55))
    return figure


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
