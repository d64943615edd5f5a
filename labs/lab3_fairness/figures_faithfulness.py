"""Figures of faithfulness: curves beside their null, attention beside ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labs.lab3_fairness.attention_study import AttentionStudy, PlantedAttention
from labs.lab3_fairness.faithfulness_study import FaithfulnessStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("Shapley", "LIME", "one ranking for all", "coefficients", "shuffled")
BARS = ("attention, last layer", "attention rollout", "integrated gradients")


def draw_curves(study: FaithfulnessStudy) -> Figure:
    """Distance to the row's output while columns are deleted, and while they are inserted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4))
    left, right = figure.subplots(1, 2, sharey=True)
    change = study.null.change
    places = np.arange(change.shape[1])
    low, high = np.quantile(change, [0.025, 0.975], axis=0)
    for axes, reverse in ((left, False), (right, True)):
        band = (low[::-1], high[::-1]) if reverse else (low, high)
        axes.fill_between(
            places, *band, color="lightgrey", label="random orders, 95 % of the means"
        )
        axes.set_xticks(places)
    for name in SHOWN:
        curves = study.score(name).curves
        deleted = np.abs(curves.deletion - curves.deletion[:, :1]).mean(axis=0)
        inserted = np.abs(curves.insertion - curves.insertion[:, -1:]).mean(axis=0)
        style = "--" if name in ("one ranking for all", "coefficients", "shuffled") else "-"
        left.plot(places, deleted, style, marker="o", markersize=3, label=name)
        right.plot(places, inserted, style, marker="o", markersize=3, label=name)
    left.set_title(f"Deletion, {study.model} (n = {study.n}): higher is better", fontsize=10)
    right.set_title("Insertion: lower is better", fontsize=10)
    left.set_xlabel("columns replaced by background cells")
    right.set_xlabel("columns put back")
    left.set_ylabel("mean |distance to the row's output| (log-odds)")
    left.legend(fontsize=8)
    figure.tight_layout()
    return figure


def draw_attention(study: AttentionStudy, planted: PlantedAttention) -> Figure:
    """Share of each column by method, on Adult and on rows whose label is one column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5))
    left, middle, right = figure.subplots(1, 3, width_ratios=[4, 3, 3])
    profiles = {name: study.score(name).profile for name in BARS}
    title = f"Adult, mean over {study.n} rows"
    _draw_shares(left, study.columns, {**profiles, "ablation": study.judge_profile}, title)
    left.legend(fontsize=8, loc="lower right")
    scores = study.scores[::-1]
    value = np.array([score.rank_correlation for score in scores])
    ends = np.array([score.rank_correlation_ci95 for score in scores]).T
    rows = np.arange(len(scores))
    middle.errorbar(value, rows, xerr=np.abs(ends - value), fmt="o", markersize=4)
    middle.axvline(0, color="grey", linewidth=0.6)
    middle.set_yticks(rows, [score.method for score in scores], fontsize=8)
    middle.set_xlabel("rank correlation with ablation\n(mean over rows, 95 % interval)")
    middle.set_title("Adult, within a row", fontsize=10)
    shares = {name: planted.shares[name] for name in (*BARS, "ablation")}
    _draw_shares(right, planted.columns, shares, "Label = group, attention penalised")
    figure.tight_layout()
    return figure


def _draw_shares(
    axes: Axes, columns: tuple[str, ...], shares: dict[str, np.ndarray], title: str
) -> None:
    places = np.arange(len(columns))
    colours = ("tab:orange", "tab:red", "tab:blue", "black")
    for number, (name, share) in enumerate(shares.items()):
        axes.barh(places + (number - 1.5) * 0.2, share, 0.19, label=name, color=colours[number])
    axes.set_yticks(places, columns, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the column in |score|")
    axes.set_title(title, fontsize=10)
