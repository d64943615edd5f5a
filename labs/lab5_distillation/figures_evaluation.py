"""Figures of the evaluation: frontier, gain over seeds, reliability, classes, speed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab5_distillation.calibration import Calibration, Reliability
from labs.lab5_distillation.evaluation import ClassChange
from labs.lab5_distillation.frontier import Candidate, Frontier
from labs.lab5_distillation.retention import Gain
from labs.lab5_distillation.throughput import Ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"teacher": "#000000", "distilled": "#0072B2", "fine-tuned": "#D55E00"}
GREY = "0.55"
AXES = {
    "size_mb": "size on disk, MB",
    "latency_ms": "median latency of a text, ms",
    "params": "parameters",
}


def draw_frontier(frontier: Frontier) -> Figure:
    """Accuracy with its interval against cost; the pair of a student is joined by an arrow."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    ax = figure.subplots()
    everyone = [*frontier.on, *(each.candidate for each in frontier.dominated)]
    steps = [(_cost(c, frontier), c.accuracy) for c in frontier.on]
    ax.step(*zip(*steps), where="post", color=GREY, linewidth=1, zorder=1)
    for c in everyone:
        low, high = c.accuracy_ci95
        ax.errorbar(
            _place(c, frontier),
            c.accuracy,
            yerr=[[max(0.0, c.accuracy - low)], [max(0.0, high - c.accuracy)]],
            fmt=_marker(c),
            markersize=15 if c.training == "teacher" else 8,
            color=COLOURS[c.training],
            markerfacecolor=COLOURS[c.training] if c in frontier.on else "white",
            capsize=2,
            elinewidth=1,
        )
    _arrows(ax, frontier, everyone)
    _names(ax, frontier, everyone)
    ax.set_xscale("log")
    costs = [_cost(c, frontier) for c in everyone]
    ax.set_xlim(min(costs) / 1.35, max(costs) * 1.6)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"{AXES[frontier.cost]} (logarithmic)")
    ax.set_ylabel("accuracy, 95 % interval")
    ax.margins(y=0.16)
    ax.grid(alpha=0.25)
    trainings = [t for t in COLOURS if any(c.training == t for c in everyone)]
    precisions = sorted({c.precision for c in everyone if c.training != "teacher"})
    handles = [
        Line2D([], [], color=COLOURS[t], marker="*" if t == "teacher" else "o", ls="", label=t)
        for t in trainings
    ]
    handles += [
        Line2D([], [], color=GREY, marker="s" if p == "int8" else "o", ls="", label=p)
        for p in precisions
    ]
    handles.append(
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", ls="", label="dominated")
    )
    ax.legend(handles=handles, loc="lower right", fontsize=8)
    return figure


def _cost(candidate: Candidate, frontier: Frontier) -> float:
    return float(getattr(candidate, frontier.cost))


def _place(candidate: Candidate, frontier: Frontier) -> float:
    """The cost, moved aside a little where a pair of equal cost would hide each other's bars."""
    aside = {"teacher": 1.0, "distilled": 1.012, "fine-tuned": 1 / 1.012}
    return _cost(candidate, frontier) * aside[candidate.training]


def _marker(candidate: Candidate) -> str:
    if candidate.training == "teacher":
        return "*"
    return "s" if candidate.precision.startswith("int8") else "o"


def _arrows(ax: Axes, frontier: Frontier, everyone: Sequence[Candidate]) -> None:
    """From a fine-tuned student to the distilled one of the same name and precision."""
    distilled = {(c.name, c.precision): c for c in everyone if c.training == "distilled"}
    for c in everyone:
        other = distilled.get((c.name, c.precision))
        if c.training == "fine-tuned" and other is not None:
            ax.annotate(
                "",
                xy=(_place(other, frontier), other.accuracy),
                xytext=(_place(c, frontier), c.accuracy),
                arrowprops={"arrowstyle": "->", "color": "0.3", "shrinkA": 5, "shrinkB": 5},
            )


def _names(ax: Axes, frontier: Frontier, everyone: Sequence[Candidate]) -> None:
    """One name for each student and precision, above its most accurate point."""
    best: dict[tuple[str, str], Candidate] = {}
    for c in everyone:
        key = (c.name, c.precision)
        if key not in best or c.accuracy > best[key].accuracy:
            best[key] = c
    for (name, _), c in best.items():
        ax.annotate(
            name,
            (_place(c, frontier), c.accuracy_ci95[1]),
            textcoords="offset points",
            xytext=(0, 3),
            fontsize=8,
            rotation=58,
            rotation_mode="anchor",
        )


def draw_gains(gains: Mapping[str, Gain]) -> Figure:
    """Distilled minus fine-tuned of each student: seeds as dots, mean with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.4 + 0.62 * len(gains)), layout="constrained")
    ax = figure.subplots()
    for place, gain in enumerate(gains.values()):
        low, high = (100 * each for each in gain.ci95)
        colour = COLOURS["distilled"] if gain.outside else GREY
        ax.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        ax.plot(100 * gain.value, place, "o", color=colour, markersize=9)
        dots = 100 * np.array(gain.per_seed)
        ax.plot(dots, np.full(len(dots), place + 0.24), "|", color="0.2", markersize=9)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(gains)), list(gains))
    ax.set_ylim(-0.6, len(gains) - 0.4)
    ax.invert_yaxis()
    ax.set_xlabel("accuracy, distilled minus fine-tuned, points (95 % interval; strokes: seeds)")
    ax.grid(axis="x", alpha=0.25)
    return figure


def draw_reliability(curves: Mapping[str, tuple[Reliability, Calibration]]) -> Figure:
    """Accuracy against confidence in bins for each model, and how many texts a bin holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(curves), 4.6), layout="constrained")
    grid = figure.subplots(
        2, len(curves), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
    )
    for ax, below, (name, (curve, found)) in zip(grid[0], grid[1], curves.items()):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        bars = [curve.accuracy - curve.low, curve.high - curve.accuracy]
        ax.errorbar(
            curve.confidence, curve.accuracy, yerr=np.maximum(bars, 0), fmt="o", color="#0072B2",
            capsize=2, markersize=5,
        )  # fmt: skip
        ax.set_title(
            f"{name}\nECE {found.ece:.3f} (by chance {found.chance:.3f}), NLL {found.nll:.3f}",
            fontsize=9,
        )
        ax.set_xlim(0, 1.02)
        ax.set_ylim(0, 1.02)
        ax.grid(alpha=0.25)
        below.bar(curve.confidence, curve.n, width=0.045, color=GREY)
        below.set_yscale("log")
        below.set_xlabel("confidence of the answer")
    grid[0, 0].set_ylabel("share right, 95 % interval")
    grid[1, 0].set_ylabel("texts")
    return figure


def draw_classes(changes: Sequence[ClassChange], n: int = 12) -> Figure:
    """The classes that lost most, teacher to student; filled where chance does not explain it."""
    from matplotlib.figure import Figure

    shown = [each for each in changes if each.change < 0][:n] or list(changes[:1])
    figure = Figure(figsize=(7.2, 1.4 + 0.32 * len(shown)), layout="constrained")
    ax = figure.subplots()
    for place, each in enumerate(shown):
        beyond = each.p_adjusted < 0.05
        ax.plot([each.student, each.teacher], [place, place], color=GREY, linewidth=2, zorder=1)
        ax.plot(each.teacher, place, "*", color=COLOURS["teacher"], markersize=11)
        ax.plot(
            each.student, place, "o", color=COLOURS["distilled"], markersize=8,
            markerfacecolor=COLOURS["distilled"] if beyond else "white",
        )  # fmt: skip
    names = [f"{each.name} (p = {each.p_adjusted:.2f})" for each in shown]
    ax.set_yticks(range(len(shown)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("accuracy in the class: teacher (star) and student")
    ax.grid(axis="x", alpha=0.25)
    return figure


def draw_ratios(ratios: Mapping[str, Ratio]) -> Figure:
    """Throughput over the teacher's: a dot a turn, and the mean with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.4 + 0.55 * len(ratios)), layout="constrained")
    ax = figure.subplots()
    for place, ratio in enumerate(ratios.values()):
        ax.plot(ratio.ci95, [place, place], color="#0072B2", linewidth=3, solid_capstyle="butt")
        ax.plot(ratio.value, place, "o", color="#0072B2", markersize=9)
        turns = np.array(ratio.per_repeat)
        ax.plot(turns, np.full(len(turns), place + 0.24), "|", color="0.2", markersize=9)
        ax.annotate(
            f"{ratio.value:.1f} times", (ratio.value, place), xytext=(0, 8),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(range(len(ratios)), list(ratios))
    ax.set_ylim(-0.7, len(ratios) - 0.4)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("texts a second over the fp32 teacher's (95 % interval; strokes: turns)")
    ax.grid(axis="x", alpha=0.25)
    return figure
