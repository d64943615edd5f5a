"""Figures of re-ranking: what diversity costs, and what a propensity looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from capstone.figures import BLUE, GREY, ORANGE
from capstone.reranking_study import LEAST_KEPT, RerankingStudy

if TYPE_CHECKING:
    from capstone.reranking_study import Outcome

GREEN = "#2f855a"
STYLE = {"MMR": (BLUE, "o"), "DPP": (ORANGE, "s"), "creator decay": (GREEN, "^")}


def draw_reranking(study: RerankingStudy) -> Figure:
    """NDCG kept against intra-list diversity and against the top creator's share, validation."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    base = study.validation[0]
    for axes, measure in ((left, "ild"), (right, "top_creator")):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.axhline(100 * LEAST_KEPT, color=GREY, linestyle="--", linewidth=1)
        for name, (colour, marker) in STYLE.items():
            points = [base, *(each for each in study.validation if each.name == name)]
            axes.plot(
                [getattr(each, measure) for each in points],
                [100 * each.kept for each in points],
                color=colour, marker=marker, label=name,
            )  # fmt: skip
        axes.plot(
            [getattr(each, measure) for each in _chosen(study)],
            [100 * each.kept for each in _chosen(study)],
            "*", color="black", markersize=13, label="chosen",
        )  # fmt: skip
    left.set(
        xlabel=f"intra-list diversity (1 - cosine), top {study.k}",
        ylabel=f"NDCG@{study.k} kept, %, validation",
    )
    right.set(xlabel="feed's share of its top creator (simulated)")
    left.text(
        1, 100 * LEAST_KEPT, f"{100 * LEAST_KEPT:g} %",
        transform=left.get_yaxis_transform(), ha="right", va="bottom", color=GREY, fontsize=8,
    )  # fmt: skip
    right.legend(frameon=False, loc="lower right")
    return figure


def _chosen(study: RerankingStudy) -> list[Outcome]:
    return [each for each in study.validation if each.config == study.chosen]
