"""Figures of the ranker: models on the random split, and a candidate before its gates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from capstone.gates import Verdict
    from capstone.random_split_study import RandomSplitStudy

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"
MOST = 1.6
"""How far right a margin is drawn; what is beyond is drawn there, with its value beside it."""


def draw_random_split(study: RandomSplitStudy) -> Figure:
    """AUC on the test tenth of each model with its interval over users, and the published one."""
    from matplotlib.figure import Figure

    from capstone.random_split import PUBLISHED_LR_AUC

    rows = (
        ("logistic regression", study.logistic_regression),
        ("wide: factorisation", study.wide),
        ("deep: set ranker", study.deep),
        ("ranker: both", study.ranker),
    )
    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, axis="x")
    for place, (_, each) in enumerate(reversed(rows)):
        colour = ORANGE if each is study.ranker else BLUE
        axes.plot(each.auc_ci95, [place, place], color=colour)
        axes.plot(each.auc, place, "o", color=colour)
        axes.annotate(f"{each.auc:.3f}", (each.auc, place), (0, 6),
                      textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    axes.axvline(PUBLISHED_LR_AUC, color=GREY, linestyle="--", label="published LR")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set(xlabel=f"AUC of rating >= 4, {study.n_test:,} test ratings", ylim=(-0.5, 3.7))
    axes.legend(frameon=False, loc="upper right")
    return figure


def draw_gates(verdict: Verdict) -> Figure:
    """How far each gate's value is on the good side of its limit: 1 is at the limit.

    Drawn is ``value / limit`` where more is better and ``limit / value`` where less is. A value
    that is missing or no number is drawn at 0.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.42 * len(verdict.outcomes) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, axis="x")
    for place, outcome in enumerate(reversed(verdict.outcomes)):
        gate, value = outcome.gate, outcome.value
        margin = 0.0
        if math.isfinite(value):
            margin = value / gate.limit if gate.op == ">=" else gate.limit / max(value, 1e-9)
        margin = min(max(margin, 0.0), MOST)
        axes.barh(place, margin, height=0.6, color=BLUE if outcome.passed else ORANGE)
        words = f"{value:.3g} {gate.op} {gate.limit:g}" if math.isfinite(value) else "no value"
        axes.annotate(words, (MOST, place), (6, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.axvline(1.0, color=GREY, linestyle="--")
    axes.set_yticks(range(len(verdict.outcomes)), [o.gate.name for o in reversed(verdict.outcomes)])
    axes.set_xticks((0, 0.5, 1.0, 1.5))
    axes.set(xlim=(0, MOST + 0.35), xlabel="value in units of the limit; right of 1 passes")
    return figure
