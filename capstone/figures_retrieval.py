"""The figures of retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from capstone.figures import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from capstone.retrieval_study import RetrievalStudy, Share
    from capstone.two_tower import LogQStudy

COLOURS = (GREY, BLUE, ORANGE)
LABELS = {"item_to_item": "item to item"}


def draw_sources(study: RetrievalStudy) -> Figure:
    """Recall by source and of the merge; beside it, what only that source finds."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    recall, contribution = figure.subplots(1, 2, width_ratios=(1.2, 1))
    rows = [(_label(each.name, each.quota), each.recall, BLUE) for each in study.sources]
    rows.append((f"all, merged ({study.limit})", study.merged, ORANGE))
    for position, (_, share, colour) in enumerate(rows[::-1]):
        _interval(recall, share, position, colour)
    recall.set_yticks(range(len(rows)), [label for label, _, _ in rows[::-1]])
    recall.set(xlabel=f"recall@{study.limit} of the test item", xlim=(0, 1))
    for position, each in enumerate(study.sources[::-1]):
        _interval(contribution, each.contribution, position, BLUE)
    names = [LABELS.get(each.name, each.name) for each in study.sources[::-1]]
    contribution.set_yticks(range(len(names)), names)
    contribution.axvline(0, color=GREY, linestyle="--", linewidth=1)
    contribution.set(xlabel="recall lost without it", ylim=(-0.6, len(names) - 0.4))
    for axes in (recall, contribution):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, axis="x")
    return figure


def draw_log_q(study: LogQStudy) -> Figure:
    """Recall, and what is recommended, by popularity decile, for the three objectives."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    recall, recommended = figure.subplots(1, 2)
    decile = np.arange(1, 11)
    for each, colour in zip(study.objectives, COLOURS, strict=True):
        style = "--" if each.name == "full softmax" else "-"
        for axes, values in (
            (recall, each.recall_by_decile),
            (recommended, each.recommended_by_decile),
        ):
            axes.plot(decile, values, style, marker="o", ms=4, color=colour, label=each.name)
    line = recommended.axhline(0.1, color="black", linewidth=0.8, linestyle=":")
    recommended.legend([line], ["share of the interactions"], frameon=False, loc="upper right")
    recall.set(ylabel=f"recall@{study.k} of the test item")
    recommended.set(ylabel=f"share of the {study.k} best of all users")
    for axes in (recall, recommended):
        axes.set(xlabel="popularity of the item, tenths of the interactions")
        axes.set_xticks([1, 4, 7, 10], ["1 (rare)", "4", "7", "10 (popular)"])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(*recall.get_legend_handles_labels(), frameon=False, loc="outside upper center",
                  ncols=3)  # fmt: skip
    return figure


def _interval(axes, share: Share, position: int, colour: str) -> None:  # type: ignore[no-untyped-def]
    axes.plot(share.ci95, [position, position], color=colour)
    axes.plot(share.value, position, "o", color=colour)


def _label(name: str, quota: int) -> str:
    return f"{LABELS.get(name, name)} ({quota})"
