"""Figures of task-specific distillation: what each stage adds, what augmentation does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab5_distillation.two_stage import Effect, Taught

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN, AUGMENTED = "#4c78a8", "#f58518"


def draw_plans(results: Sequence[Taught], teacher_accuracy: float | None = None) -> Figure:
    """Accuracy of each plan: a dot a seed, a line at the mean; the teacher's as a dashed line."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(each.plan.name for each in results))
    figure = Figure(figsize=(7.5, 0.5 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        own = [each for each in results if each.plan.name == name]
        values = [each.accuracy for each in own]
        color = AUGMENTED if own[0].plan.augmented else PLAIN
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.6, markersize=6)
        mean = float(np.mean(values))
        axes.vlines(mean, place - 0.28, place + 0.28, color=color, linewidth=2.5)
        axes.annotate(
            f"{mean:.3f}", (mean, place - 0.3), ha="center", va="bottom", fontsize=8, color=color
        )
    if teacher_accuracy is not None:
        axes.axvline(teacher_accuracy, color="0.4", linestyle="--", linewidth=1)
        axes.annotate(
            "teacher", (teacher_accuracy, -0.75), ha="right", va="center", fontsize=8, color="0.3",
            xytext=(-4, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -1.0)
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"test accuracy after {results[0].steps:,} steps, a dot a seed")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def draw_effect(effect: Effect) -> Figure:
    """The teacher's largest probability, of texts as they are and of the changed ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 26).tolist()
    for values, color, label in (
        (effect.before, PLAIN, "texts as they are"),
        (effect.after, AUGMENTED, "changed texts"),
    ):
        share = np.full(len(values), 1 / len(values))
        axes.hist(values, bins, weights=share, color=color, alpha=0.6, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("the teacher's probability for its first choice")
    axes.set_ylabel("share of texts")
    axes.set_title(
        f"{effect.kept:.1%} of the changed texts are still given the original's label", fontsize=10
    )
    axes.legend(frameon=False, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
