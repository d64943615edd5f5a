"""Figures of feature distillation: which layer learns from which, and how alike they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab5_distillation.layer_maps import LayerMap

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#a0aec0"


def draw_layer_maps(maps: Mapping[str, LayerMap]) -> Figure:
    """Layers of student and teacher as boxes from the bottom up, and arrows between pairs.

    Parameters
    ----------
    maps
        Title of a panel to its map, one at least.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    if not maps:
        raise InputError("no layer map to draw")
    tallest = max(each.teacher for each in maps.values())
    figure = Figure(figsize=(2.3 * len(maps) + 0.4, 0.42 * tallest + 1.3), layout="constrained")
    for axes, (title, layers) in zip(
        figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True
    ):
        sides = ((0.0, layers.student, BLUE, 0), (1.8, layers.teacher, ORANGE, 1))
        for x, count, colour, side in sides:
            used = {pair[side] for pair in layers.pairs}
            for layer in range(count):
                face = colour if layer in used else "white"
                box = FancyBboxPatch(
                    (x, layer + 0.2), 0.8, 0.6, boxstyle="round,pad=0.02", facecolor=face,
                    edgecolor=colour if layer in used else GREY, linewidth=1,
                )  # fmt: skip
                axes.add_patch(box)
                text = "white" if layer in used else GREY
                axes.text(x + 0.4, layer + 0.5, str(layer), ha="center", va="center", color=text)
        for ours, theirs in layers.pairs:
            axes.annotate(
                "", xy=(0.85, ours + 0.5), xytext=(1.75, theirs + 0.5),
                arrowprops={"arrowstyle": "->", "color": "#4a5568"},
            )  # fmt: skip
        axes.text(0.4, -0.1, "student", ha="center", va="top", color=BLUE)
        axes.text(2.2, -0.1, "teacher", ha="center", va="top", color=ORANGE)
        axes.set(xlim=(-0.2, 2.8), ylim=(-0.7, tallest + 0.1))
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


def draw_layer_similarity(similarities: Mapping[str, NDArray[np.float64]]) -> Figure:
    """CKA of each student layer (rows, the first below) with each teacher layer, a panel a method.

    Parameters
    ----------
    similarities
        Title to an array [S, T] of `representation_similarity.layer_similarity`, one at least,
        all of one shape.
    """
    from matplotlib.figure import Figure

    shapes = {each.shape for each in similarities.values()}
    if len(shapes) != 1:
        raise InputError(f"similarities have shapes {sorted(shapes)}; draw one shape, one at least")
    ((n_student, n_teacher),) = shapes
    columns = min(3, len(similarities))
    rows = -(-len(similarities) // columns)
    figure = Figure(
        figsize=((0.5 * n_teacher + 0.4) * columns + 1.4, (0.5 * n_student + 0.9) * rows),
        layout="constrained",
    )
    every = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in every.flat[len(similarities) :]:
        axes.set_axis_off()
    for axes, (title, values) in zip(every.flat, similarities.items(), strict=False):
        image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", origin="lower", aspect="equal")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 0.6 else "#2d3748"
            axes.text(
                column, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center",
                fontsize=8, color=colour,
            )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(n_teacher))
        axes.set_yticks(range(n_student))
    figure.supxlabel("teacher layer", fontsize=10)
    figure.supylabel("student layer", fontsize=10)
    figure.colorbar(image, ax=every, label="linear CKA", fraction=0.05, shrink=0.9)
    return figure
