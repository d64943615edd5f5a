"""Figures of how students are made: layers chosen, parts that matter, what cutting leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from labs.lab5_distillation.students import Strategy, layer_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab5_distillation.importance import Importance
    from labs.lab5_distillation.width_pruning import Cut

COLOURS = ("#1f5a8a", "#c2571a", "#4f7d3a", "#7a4f9a")
GREY = "#8a8a8a"


def draw_layer_choices(has: int = 12, keep: int = 6) -> Figure:
    """Which layers of the teacher each strategy keeps: one row a strategy, one square a layer."""
    from matplotlib.figure import Figure

    strategies = get_args(Strategy)
    figure = Figure(figsize=(0.5 * has + 1.8, 0.5 * len(strategies) + 1.0), layout="constrained")
    axes = figure.subplots()
    for row, strategy in enumerate(strategies):
        chosen = layer_choice(has, keep, strategy)
        for layer in range(has):
            kept = layer in chosen
            axes.scatter(layer, row, s=330, marker="s", color=COLOURS[0] if kept else "#e4e4e4")
            axes.text(
                layer, row, str(layer), ha="center", va="center", fontsize=8,
                color="white" if kept else GREY,
            )  # fmt: skip
    axes.set_yticks(range(len(strategies)), strategies)
    axes.set_ylim(len(strategies) - 0.4, -0.6)
    axes.set_xlim(-0.7, has - 0.3)
    axes.set_xticks([])
    axes.set_xlabel(f"layer of the teacher (0 is nearest to the words); {keep} of {has} are kept")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    return figure


def draw_importance(scores: Importance) -> Figure:
    """Heads as a map of layers and heads; neurons of each layer from the most important down.

    Heads are shown as shares of their layer's sum, since that is what is compared: each layer keeps
    as many.
    """
    from matplotlib.figure import Figure

    heads = np.stack([each.numpy() / max(float(each.sum()), 1e-30) for each in scores.heads])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(heads, cmap="Blues", vmin=0, aspect="auto")
    left.set_xticks(range(heads.shape[1]))
    left.set_yticks(range(heads.shape[0]))
    left.set_xlabel("head")
    left.set_ylabel("layer")
    left.set_title("Attention heads: share of the layer's importance", fontsize=10)
    figure.colorbar(image, ax=left, format="{x:.0%}")
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.05, 0.85, len(scores.neurons)))
    for layer, (each, colour) in enumerate(zip(scores.neurons, colours)):
        ordered = np.sort(each.numpy())[::-1]
        share = np.cumsum(ordered) / max(float(ordered.sum()), 1e-30)
        kept = np.arange(1, len(share) + 1) / len(share)
        right.plot(kept, share, color=colour, label=f"layer {layer}")
    right.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    right.set_xlabel("share of the neurons kept, the most important first")
    right.set_ylabel("share of the importance")
    right.set_title("Feed-forward neurons (dotted: all alike)", fontsize=10)
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.02)
    right.xaxis.set_major_formatter("{x:.0%}")
    right.yaxis.set_major_formatter("{x:.0%}")
    right.legend(fontsize=8, frameon=False)
    return figure


def draw_cutting(cuts: Sequence[Cut]) -> Figure:
    """Accuracy right after cutting, by the share of heads and neurons kept; a line a ranking.

    Rankings whose names begin with "random" are drawn alike.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(cut.ranking for cut in cuts))
    colours = iter(COLOURS)
    shown = False
    for name in names:
        points = sorted((cut.share, cut.accuracy) for cut in cuts if cut.ranking == name)
        shares, accuracies = zip(*points)
        if name.startswith("random"):
            label = None if shown else "at random"
            shown = True
            axes.plot(shares, accuracies, color=GREY, linewidth=1, marker=".", label=label)
        else:
            axes.plot(shares, accuracies, color=next(colours), marker="o", label=name)
    axes.set_xlabel("share of heads and feed-forward neurons that each layer keeps")
    axes.set_ylabel("accuracy before any training")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xticks(sorted({cut.share for cut in cuts}))
    axes.set_ylim(0, 1)
    axes.grid(axis="y", color="#e4e4e4")
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_starts(accuracies: Mapping[str, Sequence[float]], teacher: float | None = None) -> Figure:
    """Accuracy of one student from several first weights, a point a seed.

    Parameters
    ----------
    accuracies
        Of each start (``students.starts``, or a strategy of layers): one number a seed.
    teacher
        Its accuracy, as a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.42 * len(accuracies) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(accuracies.values()):
        axes.scatter(values, [row] * len(values), color=COLOURS[0], alpha=0.6, zorder=3)
        axes.scatter(np.mean(values), row, color=COLOURS[0], marker="|", s=260, zorder=3)
    if teacher is not None:
        axes.axvline(teacher, color=GREY, linestyle=":")
        axes.annotate(
            "teacher", (teacher, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize=8, color=GREY,
        )  # fmt: skip
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set_ylim(len(accuracies) - 0.5, -0.5)
    axes.set_xlabel("accuracy (points: seeds; bar: their mean)")
    axes.grid(axis="x", color="#e4e4e4")
    return figure
