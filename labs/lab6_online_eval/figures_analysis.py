"""Figures of the analysis: effects with their margins, and what an analysis costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GREEN, RED, GREY, BLUE, ORANGE = "#2f855a", "#c53030", "#718096", "#2b6cb0", "#c05621"
GIB = 2**30


def draw_bench(found: Mapping[str, Sequence[Mapping[str, Any]]], users: int) -> Figure:
    """Seconds and peak memory by side; a dot a repetition.

    Parameters
    ----------
    found
        What a side is, to what `bench_sides.measure` gave for each repetition.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, runs in enumerate(found.values()):
        seconds = [run["seconds"] for run in runs]
        memory = [run["peak_bytes"] / GIB for run in runs]
        colour = BLUE if place == 0 else ORANGE
        for axes, values, unit in ((left, seconds, "s"), (right, memory, "GiB")):
            middle = sorted(values)[len(values) // 2]
            axes.barh(place, middle, color=colour, alpha=0.35, height=0.6)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
            axes.annotate(
                f"{middle:.2f} {unit}", (max(values), place), (6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
    left.set_yticks(range(len(found)), list(found))
    left.invert_yaxis()
    left.set(xlabel=f"seconds for {users:,} users", xlim=(0, left.get_xlim()[1] * 1.2))
    right.set(xlabel="peak memory (GiB)", xlim=(0, right.get_xlim()[1] * 1.2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
