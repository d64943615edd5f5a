"""Figures of monitoring: the drift null beside a fixed cut-off, and when burn-rate alerts fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from capstone.alerts import BUDGET, LEAST_REQUESTS
from capstone.monitoring_study import MonitoringStudy
from labs.lab4_model_serving.burn_rate import FAST, WORKBOOK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2c5f8a", "#c96f2f", "#3d8a4d", "#b23a48", "#7a7a7a"
CUTOFFS = (0.1, 0.25)


def draw_psi_null(study: MonitoringStudy) -> Figure:
    """The critical PSI by sample size, and what a fixed cut-off does instead."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    null = study.null
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = np.array(null.sizes)
    left.plot(sizes, null.limit, color=BLUE, label=f"(1/n + 1/m) chi2, {1 - null.alpha:.0%}")
    left.plot(sizes, null.p99, "o", color=ORANGE, label="simulated without a change")
    for cutoff in CUTOFFS:
        left.axhline(cutoff, color=RED, linestyle=":", linewidth=1)
        left.annotate(f"cut-off {cutoff:g}", (sizes[-1], cutoff), ha="right", va="bottom",
                      color=RED, fontsize=8)  # fmt: skip
    left.set(
        xscale="log", yscale="log", xlabel="new rows", ylabel="PSI",
        title=f"99 % of unchanged scores are below ({null.n_reference:,} reference rows)",
    )  # fmt: skip
    for values, colour, style, label in (
        (null.false_by_cutoff, RED, "--", f"false alarms, cut-off {null.cutoff:g}"),
        (null.false_by_null, BLUE, "--", "false alarms, null"),
        (null.power_by_cutoff, RED, "-", f"shift found, cut-off {null.cutoff:g}"),
        (null.power_by_null, BLUE, "-", "shift found, null"),
    ):
        right.plot(sizes, values, style, color=colour, label=label, marker="o", markersize=3)
    right.set(
        xscale="log", xlabel="new rows", ylabel="share of samples",
        title=f"A shift of {null.shift:g} standard deviations, and none",
    )  # fmt: skip
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        _quiet(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def draw_burn_rate(study: MonitoringStudy) -> Figure:
    """Minutes until each alert fires by share of bad requests; false pages with little traffic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = np.geomspace(BUDGET, 1, 200)
    for rule, colour in zip(WORKBOOK, (RED, ORANGE, BLUE)):
        minutes = [rule.minutes_to_fire(float(share), BUDGET) for share in shares]
        left.plot(shares, minutes, color=colour, label=rule.name)
        seen = [d for d in study.detections if d.alert == rule.name and d.fired_after]
        left.plot([d.bad_share for d in seen], [d.fired_after for d in seen], "o", color=colour)
    for detection in study.detections:
        if detection.alert == FAST.name and detection.bad_share > BUDGET:
            left.axvline(detection.bad_share, color=GREY, linestyle=":", linewidth=0.8)
            first = detection.fired_after is not None or detection.bad_share < 0.5
            left.annotate(detection.incident, (detection.bad_share, 5500), rotation=90, va="top",
                          fontsize=7, color=GREY, ha="right" if first else "left")  # fmt: skip
    left.set(
        xscale="log", yscale="log", ylim=(2, 6000), xlabel="share of bad requests",
        ylabel="minutes until it fires", title="Steady trouble (lines), simulated incidents (dots)",
    )  # fmt: skip
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    rates = np.array(study.nightly)
    right.plot(rates, study.pages_unguarded, "o-", color=RED, label="without a guard")
    right.plot(
        rates, study.pages_guarded, "s-", color=BLUE,
        label=f"at least {LEAST_REQUESTS[FAST.name]} requests in the hour",
    )  # fmt: skip
    right.set(
        xscale="log", xlabel="requests an hour", ylabel="false pages a year",
        title="A healthy service: 0.2 % bad, the fast page",
    )  # fmt: skip
    right.xaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        _quiet(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
