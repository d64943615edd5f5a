"""Figures of the **simulated** world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from capstone.world_statistics import WorldStatistics
    from capstone.world_study import DriftStudy, PositionStudy

BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#c05621", "#718096", "#2f855a"


def draw_statistics(found: WorldStatistics) -> Figure:
    """Each statistic of the simulated world as a multiple of MovieLens'; 1 is equal."""
    figure, axes = _axes(height=0.36 * len(found.rows) + 1.2)
    place = np.arange(len(found.rows))[::-1]
    for name, marker, colour, values in (
        ("histories (fitted)", "o", BLUE, [row.history / row.real for row in found.rows]),
        (
            "clicks of the log (not fitted)",
            "D",
            ORANGE,
            [row.clicks / row.real for row in found.rows],
        ),
    ):
        axes.plot(values, place, marker, color=colour, label=f"simulated {name}")
    axes.axvline(1, color=GREY, linestyle="--")
    axes.set_yticks(place, [f"{row.name}  ({row.real:.2f})" for row in found.rows])
    axes.set(
        xlabel="simulated / MovieLens (its value in brackets)",
        xscale="log",
    )
    ticks = [0.5, 0.75, 1, 1.5, 2, 3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    return figure


def draw_position_bias(found: PositionStudy) -> Figure:
    """Examination by position: the truth, random swaps, and what clicks alone suggest."""
    figure, axes = _axes()
    position = np.arange(1, len(found.truth) + 1)
    axes.plot(position, found.truth, color=GREY, linestyle="--", label="true examination")
    swaps = found.swaps
    if swaps.low is not None and swaps.high is not None:
        axes.vlines(position, swaps.low, swaps.high, color=BLUE)
    axes.plot(position, swaps.relative, "o", color=BLUE, label="random swaps, 95 % interval")
    axes.plot(position, found.click_through.relative, "D", color=ORANGE, label="clicks by position")
    axes.set(xlabel="position", ylabel="relative to the first (simulated)", ylim=(0, 1.05))
    axes.set_xticks(position)
    axes.legend(frameon=False)
    return figure


def draw_drift(found: DriftStudy) -> Figure:
    """What day 0's best list loses against each day's, and how much of it is still there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    panels = (
        (100 * (1 - found.stale / found.current), "clicks lost (%, simulated)", ORANGE),
        (100 * found.overlap, "items still among the best (%)", BLUE),
    )
    for axes, (values, label, colour) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.plot(found.days, values, "o-", color=colour)
        axes.set(xlabel="days since the list was made", ylabel=label)
        axes.set_ylim(bottom=0)
    return figure


def _axes(width: float = 7.0, height: float = 3.4) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes
