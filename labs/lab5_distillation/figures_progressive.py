"""Figures of self-distillation and progressive distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab5_distillation.early_exit import ExitCurve
    from labs.lab5_distillation.layer_dropping import Replacement

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d5ba6", "#8a6d1f", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "*")


def draw_generations(accuracies: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Accuracy of each generation and of the controls with the same starts, and their ensembles.

    Parameters
    ----------
    accuracies
        By kind ("born again", "independent", "label smoothing"): for each seed the accuracies of
        models 0 to n - 1 and, last, of their ensemble.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    n = 0
    for place, (kind, given) in enumerate(accuracies.items()):
        values = np.asarray(given, dtype=float)
        n = values.shape[1] - 1
        x = np.arange(n + 1) + 0.08 * (place - (len(accuracies) - 1) / 2)
        colour, marker = COLOURS[place % 6], MARKERS[place % 6]
        axes.plot(x[:n], values[:, :n].mean(0), marker + "-", color=colour, label=kind)
        axes.plot(x[n], values[:, n].mean(), marker, ms=9, mfc="none", color=colour)
        if len(values) > 1:
            for at, column in zip(x, values.T, strict=True):
                axes.plot([at] * len(column), column, ".", ms=4, alpha=0.5, color=colour)
    axes.axvline(n - 0.5, color="0.8", lw=1)
    axes.set_xticks(range(n + 1), [*map(str, range(n)), f"ensemble\nof the {n}"])
    axes.set(xlabel="generation, or number of the control", ylabel="test accuracy")
    axes.set_title("Born again, beside models with the same starts and no teacher", loc="left")
    axes.legend(frameon=False)
    _open(axes)
    return figure


def draw_early_exit(curves: Mapping[str, ExitCurve], texts: str = "test texts") -> Figure:
    """Accuracy against mean layers run: early exits as lines, each exit for all texts as points.

    Parameters
    ----------
    curves
        `early_exit.ExitCurve` by what the network was trained with.
    texts
        What they were judged on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[place % 6], MARKERS[place % 6]
        points = sorted(curve.points, key=lambda point: point.mean_layers)
        axes.plot(
            [point.mean_layers for point in points],
            [point.accuracy for point in points],
            "-",
            color=colour,
            label=f"{name}: leaves when sure",
        )
        axes.plot(*zip(*curve.alone, strict=True), marker, color=colour, label=f"{name}: one exit")
    axes.set(xlabel="layers run, mean over texts", ylabel=f"accuracy on {texts}")
    axes.set_title("What leaving early costs and saves, one text at a time", loc="left")
    axes.legend(frameon=False)
    _open(axes)
    return figure


def draw_cost(
    students: Mapping[str, tuple[float, Sequence[float]]], depth: int, baseline: str = "finetuned"
) -> Figure:
    """Accuracy of a student by each way to it, against what the way cost.

    Parameters
    ----------
    students
        By name: layer-epochs, and the accuracy of each seed.
    depth
        Layers of the student.
    baseline
        The student that a dashed line is drawn for.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, (cost, given)) in enumerate(students.items()):
        values = np.asarray(given, dtype=float)
        colour = COLOURS[place % 6]
        axes.plot([cost] * len(values), values, ".", ms=4, alpha=0.5, color=colour)
        axes.plot(cost, values.mean(), MARKERS[place % 6], color=colour, ms=8, label=name)
    if baseline in students:
        axes.axhline(float(np.mean(students[baseline][1])), ls="--", lw=1, color="0.6")
    axes.set(xlabel="layers × epochs trained on the way", ylabel="test accuracy")
    plural = "s" if depth > 1 else ""
    axes.set_title(f"Ways to a student of {depth} layer{plural}, and what they cost", loc="left")
    axes.legend(frameon=False, bbox_to_anchor=(1.0, 0.5), loc="center left")
    _open(axes)
    return figure


def draw_schedule(schedule: Replacement, steps: int, per_module: int = 3) -> Figure:
    """The replacement rate by step, and the share of the predecessor's layers that still run.

    Parameters
    ----------
    schedule
        `layer_dropping.Replacement`.
    steps
        Steps of the run.
    per_module
        Layers of the predecessor in a module.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    x = np.linspace(0, steps, 200)
    rate = np.array([schedule.rate(int(step)) for step in x])
    axes.plot(x, rate, color=COLOURS[0], label="replacement rate")
    axes.plot(
        x,
        rate + per_module * (1 - rate),
        color=COLOURS[1],
        label=f"layers run in the place of {per_module}, mean",
    )
    axes.axvline(schedule.full_at, ls="--", lw=1, color="0.6")
    axes.annotate(
        "successor alone", (schedule.full_at, per_module), xytext=(4, -4),
        textcoords="offset points", va="top", color="0.4",
    )  # fmt: skip
    axes.set(xlabel="step", ylim=(0, per_module * 1.05))
    axes.set_title("Replacing modules at a rising rate", loc="left")
    axes.legend(frameon=False, loc="center right")
    _open(axes)
    return figure


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
