"""Figures of the training on **simulated** impressions and of its calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from capstone.impression_study import ImpressionStudy

BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#c05621", "#2f855a", "#718096"
SMOOTH = 9
"""Steps that the line through the losses averages."""


def draw_reliability(study: ImpressionStudy) -> Figure:
    """P(click): rate against score, as trained, corrected, and after Platt; both axes log."""
    figure, axes = _axes(5.2, 4.2)
    lowest = 1.0
    for (name, curve), colour in zip(study.curves.items(), (ORANGE, BLUE, GREEN), strict=True):
        kept = curve.positive_rate > 0
        centre = curve.positive_rate[kept]
        reach = np.stack([centre - curve.low[kept], curve.high[kept] - centre])
        axes.errorbar(
            curve.mean_score[kept], centre, yerr=reach,
            fmt="o-", markersize=4, linewidth=1, color=colour, label=name,
        )  # fmt: skip
        lowest = min(lowest, float(centre.min()), float(curve.mean_score[kept].min()))
    line = [lowest / 1.5, 1.0]
    axes.plot(line, line, color=GREY, linestyle="--", linewidth=1, label="perfect")
    axes.set(
        xscale="log", yscale="log", xlabel="mean predicted P(click) of a bin",
        ylabel="share of the bin that was clicked (simulated)",
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return figure


def draw_loss(study: ImpressionStudy) -> Figure:
    """Training loss by step, with a moving average."""
    figure, axes = _axes(7.0, 3.0)
    losses = np.asarray(study.trained.losses)
    steps = 1 + np.arange(len(losses))
    axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=1, label="step")
    if len(losses) >= SMOOTH:
        mean = np.convolve(losses, np.ones(SMOOTH) / SMOOTH, mode="valid")
        middle = steps[SMOOTH // 2 : SMOOTH // 2 + len(mean)]
        axes.plot(middle, mean, color=BLUE, label=f"mean of {SMOOTH}")
    axes.set(xlabel="step", ylabel="loss (nats a kept row, all heads)")
    axes.legend(frameon=False)
    return figure


def draw_position(study: ImpressionStudy) -> Figure:
    """Odds of a click by position: in the log, in the model's tower, and the simulated law."""
    figure, axes = _axes(6.0, 3.2)
    bias = study.position
    places = 1 + np.arange(len(bias.true))
    for values, colour, name in (
        (bias.logged, ORANGE, "click rates of the log"),
        (bias.learnt, BLUE, "learnt by the position tower"),
        (bias.true, GREEN, "same items, by the simulated law"),
    ):
        axes.plot(places, values, "o-", markersize=4, color=colour, label=name)
    axes.set(xlabel="position", ylabel="odds of a click, position 1 = 1", ylim=(0, 1.05))
    axes.legend(frameon=False)
    return figure


def _axes(width: float, height: float):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes
