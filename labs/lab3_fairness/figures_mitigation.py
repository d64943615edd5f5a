"""Figures of mitigation by data and by training: paths, noise and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab3_fairness.fair_loss import BatchGap, FairNetwork, TargetPoint
from labs.lab3_fairness.stability import Stability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5a8c", "#c8651b", "#8a8a8a"


def draw_training(run: FairNetwork, target: float) -> Figure:
    """The soft gap of one training against its target, and the multiplier that steers it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    labels = ["all rows"] if run.gaps.shape[1] == 1 else ["label 0 (FPR)", "label 1 (TPR)"]
    for number, (label, colour) in enumerate(zip(labels, (BLUE, ORANGE))):
        top.plot(run.gaps[:, number], color=colour, label=f"soft gap, {label}")
        bottom.plot(run.multipliers[:, number], color=colour, label=label)
    top.axhline(target, color=GREY, linestyle="--", label=f"target {target:g}")
    top.set(ylabel="gap between groups", ylim=(0, None))
    top.legend()
    bottom.set(xlabel="step", ylabel="multiplier", ylim=(0, None))
    return figure


def draw_target_path(points: Sequence[TargetPoint]) -> Figure:
    """What is asked of the training gap, what the test rows get, and what it costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ordered = sorted(points, key=lambda point: point.target)
    targets = [point.target for point in ordered]
    gaps = {
        "demographic parity difference": (BLUE, [p.outcome.dp_diff for p in ordered]),
        "equalized odds difference": (ORANGE, [p.outcome.eo_diff for p in ordered]),
    }
    for label, (colour, values) in gaps.items():
        left.plot(targets, values, marker="o", color=colour, label=label)
    left.plot(targets, targets, color=GREY, linestyle="--", label="gap = target")
    left.set(xlabel="target gap in training", ylabel="gap on test rows", ylim=(0, None))
    left.legend(fontsize="small")
    accuracies = np.array([p.outcome.accuracy for p in ordered])
    low, high = np.array([p.outcome.accuracy_ci95 for p in ordered]).T
    right.errorbar(
        targets,
        accuracies,
        yerr=(np.maximum(accuracies - low, 0), np.maximum(high - accuracies, 0)),
        marker="o",
        capsize=3,
        color=BLUE,
    )
    right.set(xlabel="target gap in training", ylabel="accuracy on test rows (95 % interval)")
    return figure


def draw_batch_gaps(gaps: Sequence[BatchGap], whole: float) -> Figure:
    """The mean gap that batches of a size report about a model whose gap is ``whole``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    sizes = [gap.batch for gap in gaps]
    axes.plot(sizes, [gap.mean for gap in gaps], marker="o", color=BLUE, label="mean over batches")
    axes.axhline(whole, color=GREY, linestyle="--", label=f"all rows: {whole:.3f}")
    for gap in gaps:
        if gap.undefined > 0:
            axes.annotate(
                f"{gap.undefined:.1%} without\na comparison",
                (gap.batch, gap.mean),
                textcoords="offset points",
                xytext=(8, 2),
                fontsize="small",
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    top = 1.15 * max([whole, *(gap.mean for gap in gaps)])
    axes.set(xlabel="rows in a batch", ylabel="estimated gap", ylim=(0, top))
    axes.legend()
    return figure


def draw_seed_spread(results: Sequence[Stability]) -> Figure:
    """Both gaps of every run, one row a method, with the people its runs disagree about."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.4 + 0.5 * len(results)), layout="constrained")
    axes = figure.subplots()
    for row, result in enumerate(results):
        for offset, values, colour, marker in (
            (-0.12, result.dp_diff, BLUE, "o"),
            (0.12, result.eo_diff, ORANGE, "s"),
        ):
            axes.plot(
                values,
                np.full(len(values), row + offset),
                marker,
                color=colour,
                alpha=0.6,
                label={"o": "demographic parity difference", "s": "equalized odds difference"}[
                    marker
                ]
                if row == 0
                else None,
            )
    names = [f"{result.name}\n{result.flips:.1%} of decisions flip" for result in results]
    axes.set_yticks(range(len(results)), names, fontsize="small")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel=f"gap on the same test rows, {len(results[0].accuracy)} runs each")
    axes.set_xlim(0, None)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.5 / len(results)), ncols=2)
    return figure
