"""Figures of fair rankings: exposure before and after, and how the targets grow with the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab3_fairness.fair_ranking import adjust_alpha
from labs.lab3_fairness.ranking_comparison import Pool, RankingOutcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73")


def draw_exposure(outcomes: Sequence[RankingOutcome]) -> Figure:
    """Exposure of the protected in relation to the others, and the price in NDCG.

    Parameters
    ----------
    outcomes
        Of :func:`labs.lab3_fairness.ranking_comparison.compare_rankings`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    exposure, price = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(outcomes))[::-1]
    for offset, colour, fill, label, field in (
        (0.12, "#0072b2", "full", "per candidate", "exposure_ratio"),
        (-0.12, "#d55e00", "none", "per repaid loan (DTR)", "merit_ratio"),
    ):
        _points(exposure, outcomes, field, places + offset, colour, fill, label)
    exposure.axvline(1, color="grey", linewidth=0.8)
    exposure.axvspan(0, outcomes[0].null_low, color="grey", alpha=0.15, linewidth=0)
    exposure.plot([], [], "s", color="grey", alpha=0.3, label="5 % of random orders lie here")
    exposure.set(
        title="Exposure: protected over others",
        xlabel="ratio (1 is equal)",
        yticks=places,
        yticklabels=[outcome.rule for outcome in outcomes],
        xlim=(0, 1.4),
        ylim=(-0.5, len(outcomes) + 0.35),
    )
    exposure.legend(loc="upper left", fontsize=8, ncols=2)
    _points(price, outcomes, "ndcg_price", places, "#000000", "full", "")
    price.axvline(0, color="grey", linewidth=0.8)
    price.set(title="Price", xlabel="NDCG lost against the order by score")
    return figure


def draw_targets(pool: Pool, outcomes: Sequence[RankingOutcome], *, alpha: float = 0.1) -> Figure:
    """Protected among the first i places under each rule, beside FA*IR's targets.

    Parameters
    ----------
    pool, outcomes
        What :func:`labs.lab3_fairness.ranking_comparison.compare_rankings` got and gave.
    alpha
        The level it used.
    """
    from matplotlib.figure import Figure

    k = len(outcomes[0].ranking)
    share = float(pool.protected.mean())
    places = np.arange(1, k + 1)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(
        places,
        adjust_alpha(k, share, alpha).targets,
        step="post",
        color="grey",
        alpha=0.25,
        label=f"FA*IR rejects (level {alpha:g}, all prefixes)",
    )
    axes.plot(places, share * places, ":", color="grey", label=f"share of the pool, {share:.2f}")
    for colour, outcome in zip(COLOURS, outcomes):
        held = np.cumsum(pool.protected[outcome.ranking])
        axes.step(places, held, where="post", color=colour, label=outcome.rule)
    axes.set(
        title="Protected candidates among the first places",
        xlabel="first i places",
        ylabel="protected among them",
        xlim=(1, k),
        ylim=(0, None),
    )
    axes.legend(loc="upper left")
    return figure


def _points(
    axes: object,
    outcomes: Sequence[RankingOutcome],
    field: str,
    heights: np.ndarray,
    colour: str,
    fill: str,
    label: str,
) -> None:
    values = np.array([getattr(outcome, field) for outcome in outcomes])
    ends = np.array([getattr(outcome, f"{field}_ci95") for outcome in outcomes])
    reach = np.maximum(np.abs(ends.T - values), 0)
    axes.errorbar(  # type: ignore[attr-defined]
        values,
        heights,
        xerr=reach,
        fmt="o",
        fillstyle=fill,
        color=colour,
        capsize=3,
        label=label or None,
    )
