"""Figures of the definitions: what base rates force on COMPAS, what each rule costs a lender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from common.statistics import proportion_ci
from labs.lab3_fairness.impossibility import CompasDebate, implied_false_positive_rate
from labs.lab3_fairness.lending import CreditScores, LendingPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKERS = ("o", "s", "^", "D")


def draw_impossibility(debate: CompasDebate) -> Figure:
    """Left: rearrest by decile and race. Right: the FPR that each race's PPV forces.

    Parameters
    ----------
    debate
        Of :func:`labs.lab3_fairness.impossibility.compas_debate`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    calibration, forced = figure.subplots(1, 2)
    table = debate.calibration.table
    for colour, marker, (race, rows) in zip(COLOURS, MARKERS, table.groupby("group")):
        known = rows[rows["n"] > 0]
        ends = [proportion_ci(int(hits), int(n)) for hits, n in zip(known["positives"], known["n"])]
        error = np.abs(np.array(ends).T - known["rate"].to_numpy())
        calibration.errorbar(
            known["score"],
            known["rate"],
            yerr=error,
            color=colour,
            marker=marker,
            capsize=3,
            label=f"{race}, n = {rows['n'].sum():,}",
        )
    calibration.set(
        title=f"Rearrest by decile (difference: p = {debate.calibration.p_value:.2f})",
        xlabel="COMPAS decile",
        ylabel="share arrested again within two years",
        xticks=range(1, 11),
        ylim=(0, 1),
    )
    calibration.legend(loc="upper left")
    ppvs = np.linspace(0.45, 0.95, 200)
    for colour, marker, race in zip(COLOURS, MARKERS, debate.rates.index):
        row = debate.rates.loc[race]
        p = float(row["base_rate"])
        curve = [implied_false_positive_rate(p, float(v), debate.shared_fnr) for v in ppvs]
        forced.plot(ppvs, curve, color=colour, label=f"{race}, base rate {p:.2f}")
        forced.plot(debate.shared_ppv, debate.forced_fpr[race], marker, color=colour, markersize=8)
        forced.plot(row["ppv"], row["fpr"], marker, color=colour, markersize=8, fillstyle="none")
    forced.axvline(debate.shared_ppv, color="grey", linewidth=0.8, linestyle=":")
    forced.plot([], [], "ko", label="forced by equal PPV and FNR")
    forced.plot([], [], "ko", fillstyle="none", label="COMPAS, each with its own FNR")
    forced.set(
        title="Equal PPV and FNR force unequal FPR",
        xlabel="positive predictive value",
        ylabel=f"false positive rate at FNR {debate.shared_fnr:.2f}",
        ylim=(0, 0.9),
    )
    forced.legend(loc="upper right")
    return figure


def draw_lending(policies: Mapping[str, LendingPolicy], credit: CreditScores) -> Figure:
    """Left: profit under each rule. Right: who gets a loan of those who would repay.

    Parameters
    ----------
    policies, credit
        Of :func:`labs.lab3_fairness.lending.lending_policies` and its data.
    """
    from matplotlib.figure import Figure

    names = list(policies)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    profits, served = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(names))[::-1]
    shares = [100 * policies[name].profit_share for name in names]
    bars = profits.barh(places, shares, color="#999999")
    profits.bar_label(bars, fmt="%.2f", padding=3)
    profits.set(
        title="What the lender keeps",
        xlabel="share of maximum profit (%), break-even 82 %",
        yticks=places,
        yticklabels=names,
        xlim=(0, 115),
    )
    for index, group in enumerate(credit.groups):
        rates = [100 * float(policies[name].rates["tpr"][group]) for name in names]
        offset = 0.24 - 0.16 * index
        served.plot(
            rates,
            places + offset,
            MARKERS[index],
            color=COLOURS[index],
            label=f"{group.capitalize()} ({100 * credit.population[index]:.0f} % of people)",
        )
    served.set(
        title="Who is served",
        xlabel="loans among those who would repay: true positive rate (%)",
        xlim=(35, 100),
    )
    served.grid(axis="x", alpha=0.3)
    figure.legend(*served.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_thresholds(policies: Mapping[str, LendingPolicy], credit: CreditScores) -> Figure:
    """The score distribution of each group, and where the threshold rules cut it.

    Parameters
    ----------
    policies, credit
        As for :func:`draw_lending`. Equalized odds has no threshold and is not drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    drawn = [name for name in policies if name != "equalized odds"]
    for index, group in enumerate(credit.groups):
        below = 100 * np.cumsum(credit.mass[:, index])
        axes.plot(credit.scores, below, color=COLOURS[index], label=group.capitalize())
        for marker, name in zip(("v", "o", "s", "*"), drawn):
            score = float(policies[name].rates["threshold"][group])
            axes.plot(
                score,
                np.interp(score, credit.scores, below),
                marker,
                color=COLOURS[index],
                markersize=11 if marker == "*" else 8,
                markeredgecolor="white",
            )
    for marker, name in zip(("v", "o", "s", "*"), drawn):
        axes.plot([], [], marker, color="black", label=name, linestyle="none")
    axes.set(
        title="One definition, one set of thresholds",
        xlabel="TransRisk score",
        ylabel="share of the group at or below the score (%)",
        xlim=(0, 100),
        ylim=(0, 100),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", ncols=2)
    return figure
