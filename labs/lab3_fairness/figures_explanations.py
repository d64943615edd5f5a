"""Figures of the explanations: the gap shared out, LIME's scatter, the attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labs.lab3_fairness.explainer_comparison import Comparison
from labs.lab3_fairness.gap_attribution import GapAttribution, GapStudy
from labs.lab3_fairness.scaffolding import FoolingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_gap_attribution(study: GapStudy) -> Figure:
    """Contribution of each column to the gap, one panel a model, with interval and null."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8))
    left, right = figure.subplots(1, 2)
    _draw_shares(left, study.linear, "Logistic regression, log-odds")
    _draw_shares(right, study.trees, "Gradient boosting, probability")
    right.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def _draw_shares(axes: Axes, gap: GapAttribution, title: str) -> None:
    shares = sorted(gap.shares, key=lambda share: share.contribution)
    places = np.arange(len(shares))
    value = np.array([share.contribution for share in shares])
    ends = np.array([share.ci95 for share in shares]).T
    chance = np.array([share.null_q95 for share in shares])
    axes.barh(places, 2 * chance, left=-chance, color="lightgrey", label="chance, 95 % of shuffles")
    axes.errorbar(
        value,
        places,
        xerr=np.abs(ends - value),
        fmt="o",
        markersize=4,
        color="tab:blue",
        label="contribution, 95 % interval",
    )
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(places, [share.column for share in shares], fontsize=8)
    axes.set_xlabel(f"contribution to the gap, {gap.high} minus {gap.low}")
    axes.set_title(f"{title}: gap {gap.gap:.3g} (n = {gap.n:,})", fontsize=10)


def draw_lime_spread(comparison: Comparison) -> Figure:
    """LIME's coefficients of one row for each seed, and the relative spread by setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    seeds, exact = comparison.lime_seeds, comparison.exact.values[0]
    order = np.argsort(np.abs(exact))
    places = np.arange(len(order))
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.2, 0.2, seeds.shape)
    left.plot(
        seeds[:, order].ravel(),
        (places + jitter).ravel(),
        ".",
        color="tab:orange",
        alpha=0.6,
        label=f"LIME, 500 neighbours, {len(seeds)} seeds",
    )
    left.plot(exact[order], places, "|", color="black", markersize=16, label="exact Shapley value")
    left.axvline(0, color="grey", linewidth=0.6)
    left.set_yticks(places, [comparison.exact.columns[place] for place in order], fontsize=8)
    left.set_xlabel("credit for one row's score (probability)")
    left.legend(fontsize=8)
    for width, part in comparison.settings.groupby("kernel_width"):
        level = part["mean_coefficient"].iloc[-1]
        label = f"kernel width {width:g}, mean |coefficient| {level:.2g}"
        right.plot(part["n_samples"], part["spread"], "o-", label=label)
    right.set_xscale("log")
    sizes = sorted(comparison.settings["n_samples"].unique())
    right.set_xticks(sizes, [f"{size:,}" for size in sizes])
    right.minorticks_off()
    right.set_yscale("log")
    right.set_xlabel("neighbours a row")
    right.set_ylabel("mean spread between seeds (probability)")
    right.legend(fontsize=8)
    figure.tight_layout()
    return figure


def draw_fooling(result: FoolingResult) -> Figure:
    """Top feature by explainer before and after the attack, and the gap on real rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    names = list(dict.fromkeys(each.explainer for each in result.tops))
    places = np.arange(len(names))
    bars = (
        ("open", "race", "race, open rule", "tab:red", None),
        ("scaffold", "race", "race, after the attack", "tab:red", "///"),
        ("scaffold", "unrelated", "random column, after the attack", "tab:grey", None),
    )
    for number, (model, column, label, colour, hatch) in enumerate(bars):
        left.bar(
            places + (number - 1) * 0.26,
            [getattr(result.top(name, model), column) for name in names],
            0.24,
            label=label,
            color=colour if hatch is None else "white",
            edgecolor=colour,
            hatch=hatch,
        )
    left.set_xticks(places, names, fontsize=8)
    left.set_ylim(0, 1.35)
    left.set_yticks(np.linspace(0, 1, 6))
    left.set_ylabel("rows with this top feature (share)")
    left.set_title("What the explainers say", fontsize=10)
    left.legend(fontsize=8, ncols=2, loc="upper center")
    values = np.array([outcome.dp_diff for outcome in result.outcomes.values()])
    ends = np.array([outcome.dp_diff_ci95 for outcome in result.outcomes.values()]).T
    rows = np.arange(len(values))
    right.errorbar(values, rows, xerr=np.abs(ends - values), fmt="o", color="tab:blue")
    right.set_yticks(rows, [name.replace(", ", "\n", 1) for name in result.outcomes], fontsize=8)
    right.invert_yaxis()
    right.set_xlim(0, 1.05)
    right.set_xlabel("demographic parity difference, real rows")
    right.set_title("What group metrics say", fontsize=10)
    figure.tight_layout()
    return figure
