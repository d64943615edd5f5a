"""Figures of many metrics, few clusters, and what a prior is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab6_online_eval.bayesian import BayesStudy
from labs.lab6_online_eval.clustered import FewClusters
from labs.lab6_online_eval.multiple_testing import FamilyErrors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "unadjusted": "#c0392b",
    "bonferroni": "#777777",
    "holm": "#1f5f99",
    "hochberg": "#5fa2d9",
    "benjamini_hochberg": "#2e7d4f",
    "benjamini_yekutieli": "#8a6d1f",
}
LABELS = {
    "unadjusted": "p as it is",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "benjamini_hochberg": "Benjamini-Hochberg",
    "benjamini_yekutieli": "Benjamini-Yekutieli",
}
PRIORS = {"flat": "#c0392b", "fitted": "#1f5f99"}


def draw_multiple_testing(rows: Sequence[FamilyErrors]) -> Figure:
    """Left: chance of any false finding when nothing moved. Right: what is found, and how much of
    it is false, in the largest family with real effects; independent metrics."""
    figure, (left, right) = _two_panels()
    independent = [row for row in rows if row.correlation == 0]
    for name in ("unadjusted", "holm", "benjamini_hochberg"):
        none = [row for row in independent if row.n_real == 0 and row.procedure == name]
        dotted = name == "benjamini_hochberg"  # it lies on Holm's line when nothing moved
        left.plot(
            [row.n_metrics for row in none],
            [row.fwer for row in none],
            marker="s" if dotted else "o",
            linestyle=":" if dotted else "-",
            color=COLOURS[name],
            label=LABELS[name],
        )
    left.axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    left.set(xlabel="metrics, none of which moved", ylabel="any false finding", ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    largest = max((row.n_metrics for row in independent if row.n_real), default=0)
    family = [row for row in independent if row.n_metrics == largest and row.n_real]
    places = np.arange(len(family))
    right.barh(
        places - 0.2,
        [row.power for row in family],
        0.36,
        color=[COLOURS[row.procedure] for row in family],
    )
    right.barh(places + 0.2, [row.fdr for row in family], 0.36, color="black")
    for place, row in zip(places, family):
        right.text(row.fdr + 0.01, place + 0.2, f"{row.fdr:.3f} false", va="center", fontsize=7)
    right.axvline(0.05, color="black", linewidth=0.8, linestyle="--")
    right.set_yticks(places, [LABELS[row.procedure] for row in family], fontsize=8)
    right.invert_yaxis()
    title = f"{largest} metrics, {family[0].n_real} moved" if family else "no family with effects"
    right.set(xlim=(0, 1), xlabel="real effects found; black: findings that are false")
    right.set_title(title, fontsize=9)
    return figure


def draw_few_clusters(rows: Sequence[FewClusters]) -> Figure:
    """A/A false positives by the number of clusters, for four ways to take the error."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    clusters = [row.n_clusters for row in rows]
    for field, label, colour in (
        ("rows", "rows as independent", "#c0392b"),
        ("cr0", "clustered, CR0, normal", "#8a6d1f"),
        ("cr1", "clustered, CR1, normal", "#5fa2d9"),
        ("cr1_t", "clustered, CR1, Student's t", "#1f5f99"),
    ):
        shares = [getattr(row, field) for row in rows]
        axis.plot(clusters, shares, marker="o", markersize=4, color=colour, label=label)
    axis.axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_xticks(clusters, [str(count) for count in clusters])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="clusters, both arms", ylabel="false positives (A/A)", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_bayes(study: BayesStudy) -> Figure:
    """Left: what was claimed at the stop, and how often it was true. Right: experiments without
    any effect that ended with a claim."""
    figure, (left, right) = _two_panels()
    looks = list(dict.fromkeys(row.looks for row in study.rows))
    places = np.arange(len(looks))
    for offset, (name, colour) in zip((-0.2, 0.2), PRIORS.items()):
        rows = [study.row(name, count) for count in looks]
        left.bar(
            places + offset,
            [row.improved for row in rows],
            0.36,
            color=colour,
            label=f"{name} prior: were better",
        )
        for place, row in zip(places + offset, rows):
            left.plot([place - 0.18, place + 0.18], [row.claimed] * 2, color="black", linewidth=2)
        right.bar(
            places + offset,
            [row.stopped_of_none for row in rows],
            0.36,
            color=colour,
            label=f"{name} prior",
        )
    left.plot([], [], color="black", linewidth=2, label="were said to be, on average")
    left.set(ylim=(0, 1.4), ylabel="share of those that stopped")
    left.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    right.axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    right.set_ylabel("stopped, of experiments without effect")
    for axis in (left, right):
        axis.set_xticks(places, [str(count) for count in looks])
        axis.set_xlabel("looks; stopped at the first P(better) > .95")
        axis.legend(frameon=False, fontsize=8, loc="upper left" if axis is right else "best")
    return figure


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)
