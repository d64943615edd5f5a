"""Figures of the audit: what chance gives, which intervals hold, and groups within groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab3_fairness.coverage_study import Study
    from labs.lab3_fairness.gap_bias import FairGap
    from labs.lab3_fairness.intersections import IntersectionReport
    from labs.lab3_fairness.resampling import GapNull

BLUE, ORANGE, GREY, GREEN, RED = "#2b6cb0", "#c05621", "#718096", "#2f855a", "#c53030"
COLOURS = {
    "percentile": ORANGE, "basic": GREY, "BCa": "#805ad5", "Wilson": BLUE, "Newcombe": BLUE,
    "all pairs": BLUE,
}  # fmt: skip
MARKERS = {"percentile": "s", "basic": "v", "BCa": "^"}


def draw_gap_bias(gaps: Sequence[FairGap], nulls: Mapping[int, GapNull]) -> Figure:
    """The gap that chance gives, and how often the four-fifths rule fails, by size of the groups.

    Parameters
    ----------
    gaps
        Of :func:`gap_bias.fair_gaps`.
    nulls
        Size to the null of one fair data set of that size, of eight groups.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = sorted({each.n_groups for each in gaps})
    for place, number in enumerate(numbers):
        chosen = [each for each in gaps if each.n_groups == number]
        sizes = [each.size for each in chosen]
        shade = 0.25 + 0.75 * place / max(1, len(numbers) - 1)
        style: dict[str, Any] = {"color": BLUE, "alpha": shade, "label": f"{number} groups"}
        left.plot(sizes, [each.expected_gap for each in chosen], **style)
        right.plot(sizes, [each.four_fifths_fails for each in chosen], **style)
    sizes = sorted(nulls)
    left.plot(
        sizes, [nulls[size].mean for size in sizes], "o", color=ORANGE, markersize=5,
        label="mean of the permutation null, 8 groups",
    )  # fmt: skip
    left.plot(
        sizes, [nulls[size].q95 for size in sizes], "_", color=ORANGE, markersize=9,
        label="its 95th percentile",
    )  # fmt: skip
    left.set(xscale="log", xlabel="rows a group", ylabel="expected largest difference in rate")
    left.set_ylim(bottom=0)
    right.set(xscale="log", xlabel="rows a group", ylabel="share of fair data sets", ylim=(0, 1.02))
    right.set_title("Fails the four-fifths rule", fontsize=10)
    left.set_title(f"No disparity: every group's rate is {gaps[0].rate:g}", fontsize=10)
    for axes in (left, right):
        _quiet(axes)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(frameon=False, fontsize=8)
    return figure


def draw_coverage(study: Study) -> Figure:
    """How often each method's 95 % interval holds the truth, one panel a quantity."""
    from matplotlib.figure import Figure

    panels = (
        ("value", "A group's rate", "rows"),
        ("difference", "Difference of two groups", "rows of each"),
        ("largest difference", "Largest difference, max - min", "groups"),
    )
    tables = [study.averages(of) for of, _, _ in panels]
    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    widths = [len(table) for table in tables]
    every = figure.subplots(1, 3, sharey=True, width_ratios=widths)
    for axes, table, (_, title, xlabel) in zip(every, tables, panels):
        axes.axhspan(0.93, 0.97, color="#e2e8f0", zorder=0)
        axes.axhline(0.95, color=GREY, linewidth=0.8, zorder=1)
        for number, method in enumerate(table.columns):
            shift = (number - (len(table.columns) - 1) / 2) * 0.16
            axes.plot(
                np.arange(len(table)) + shift, table[method], MARKERS.get(method, "o"),
                color=COLOURS[method], markersize=5.5, label=method,
            )  # fmt: skip
        names = [f"{name}" for name in table.index]
        axes.set_xticks(range(len(table)), names, rotation=60, ha="right", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(xlabel)
        axes.set_ylim(-0.03, 1.03)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        _quiet(axes)
    every[0].set_ylabel("coverage of 95 % intervals")
    return figure


def draw_intersections(report: IntersectionReport, *, least: int = 1) -> Figure:
    """Forest plot: every intersection's raw rate and interval, its margins, its shrunk rate.

    Parameters
    ----------
    report
        Of :func:`intersections.intersection_report`.
    least
        Intersections that count fewer rows are left out of the picture (not of the table).
    """
    from matplotlib.figure import Figure

    from labs.lab3_fairness.intersections import NOT_ENOUGH, WORSE

    rows = [each for each in report.intersections if each.n_counted >= least]
    rows.sort(key=lambda each: (each.verdict == NOT_ENOUGH, each.shrunk))
    figure = Figure(figsize=(9, 0.24 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()

    def once(label: str) -> str | None:
        new = label not in labelled
        labelled.add(label)
        return label if new else None

    for place, each in enumerate(rows):
        low, high = each.shrunk_ci95
        axes.plot([low, high], [place + 0.18] * 2, color=GREEN, alpha=0.45, linewidth=1.2)
        axes.plot(
            each.shrunk, place + 0.18, "D", color=GREEN, markersize=3.5,
            label=once("drawn towards the others (empirical Bayes)"),
        )  # fmt: skip
        margins = list(each.margins.values())
        axes.plot(
            margins, [place] * len(margins), "|", color="black", markersize=8,
            label=once(f"margins: {', '.join(report.columns)}"),
        )  # fmt: skip
        if each.verdict == NOT_ENOUGH:
            continue
        worst = each.verdict == WORSE
        colour = RED if worst else BLUE
        label = "worse than every margin" if worst else "raw rate, Wilson interval"
        axes.plot(each.ci95, [place] * 2, color=colour, linewidth=1.6)
        axes.plot(each.value, place, "o", color=colour, markersize=5, label=once(label))
    names = [
        f"{each.group}  (n = {each.n_counted})" + (" *" if each.verdict == NOT_ENOUGH else "")
        for each in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize=7.5)
    axes.axvline(report.overall, color=GREY, linestyle="--", linewidth=0.9, label="everybody")
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlabel(f"{report.metric.replace('_', ' ')}   (* not enough data for a raw rate)")
    axes.legend(frameon=True, framealpha=0.9, fontsize=7.5, loc="upper right")
    _quiet(axes)
    return figure


def _quiet(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
