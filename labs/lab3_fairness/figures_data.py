"""Figures of an audit before any model, and of a gate's verdicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labs.lab3_fairness.data_audit import DataAudit
from labs.lab3_fairness.gate import GateReport, Verdict
from labs.lab3_fairness.proxies import ProxyReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    Verdict.PASS: "tab:green",
    Verdict.FAIL: "tab:red",
    Verdict.NOT_ENOUGH_DATA: "tab:grey",
}


def draw_representation(audit: DataAudit) -> Figure:
    """Share of the rows and base rate of each group, both with 95 % Wilson intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.42 * len(audit.base_rates)), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = audit.representation
    for place, share in enumerate(shares):
        left.barh(place, share.share, color="tab:blue", alpha=0.35)
        left.plot(share.ci95, (place, place), color="tab:blue")
        if not math.isnan(share.reference):
            left.plot(share.reference, place, "D", color="black", markersize=5)
        left.text(1.02, place, f"n = {share.n:,}", va="center", fontsize=7)
    names = [f"{share.attribute}: {share.group}" for share in shares]
    left.set_yticks(range(len(shares)), names, fontsize=8)
    left.set_xlim(0, 1)
    referenced = any(not math.isnan(share.reference) for share in shares)
    left.set_xlabel("share of the rows" + (" (diamond: reference)" if referenced else ""))
    for place, rate in enumerate(audit.base_rates):
        right.plot(rate.ci95, (place, place), color="tab:orange")
        right.plot(rate.rate, place, "o", color="tab:orange", markersize=4)
    names = [f"{rate.attribute}: {rate.group}" for rate in audit.base_rates]
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.set_xlabel(f"share with {audit.label} = 1")
    right.set_xlim(left=0)
    left.set_ylim(len(shares) - 0.4, -0.6)
    right.set_ylim(len(audit.base_rates) - 0.4, -0.6)
    return figure


def draw_missingness(audit: DataAudit, limit: int = 12) -> Figure:
    """Share of missing answers by group, the tests with the widest spread first."""
    from matplotlib.figure import Figure

    tests = sorted(audit.missingness, key=lambda test: -test.spread)[:limit]
    figure = Figure(figsize=(8, 1.4 + 0.45 * max(1, len(tests))), layout="constrained")
    axes = figure.subplots()
    for place, test in enumerate(tests):
        sure = test.p_corrected < 0.05
        rates = sorted(test.rates.items(), key=lambda item: item[1])
        axes.plot(
            (rates[0][1], rates[-1][1]),
            (place, place),
            color="tab:red" if sure else "lightgrey",
            zorder=1,
        )
        axes.scatter([rate for _, rate in rates], [place] * len(rates), color="black", s=12)
        said = f"  {rates[0][0]} to {rates[-1][0]}"
        axes.text(rates[-1][1], place, said, va="center", fontsize=7)
    if not tests:
        axes.text(0.5, 0.5, "no answer is missing", ha="center", transform=axes.transAxes)
    names = [f"{test.column} by {test.by}" for test in tests]
    axes.set_yticks(range(len(tests)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the group without an answer (red: corrected p < .05)")
    axes.set_xlim(left=-0.005)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.5)
    return figure


def draw_proxies(report: ProxyReport) -> Figure:
    """AUC of each column alone, and of all together as columns are dropped."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 1.6 + 0.32 * len(report.columns)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, column in enumerate(report.columns):
        left.barh(place, column.auc - 0.5, left=0.5, color="tab:blue", alpha=0.5)
    left.axvspan(*report.auc_ci95, color="black", alpha=0.25)
    left.axvline(report.auc, color="black", linewidth=1, label="all columns together")
    names = [column.column for column in report.columns]
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0.45, 1.0)
    left.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
    left.set_xlabel(f"AUC of telling {report.sensitive} = {report.group}, one column")
    left.legend(fontsize=7, loc="lower right")
    table = report.drop_table()
    for place, row in enumerate(table.itertuples()):
        right.plot((row.low, row.high), (place, place), color="tab:blue", linewidth=3, alpha=0.4)
        right.plot(
            row.auc, place, "o", color="tab:blue", label="of the group" if place == 0 else None
        )
        right.plot(
            row.label_auc,
            place,
            "s",
            color="tab:orange",
            label="of the label" if place == 0 else None,
        )
    dropped = [str(name).replace(", ", ",\n") for name in table["dropped"]]
    right.set_yticks(range(len(dropped)), dropped, fontsize=7)
    right.set_ylabel("columns dropped")
    right.invert_yaxis()
    right.set_xlim(0.45, 1.0)
    right.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
    right.set_xlabel("AUC without these columns")
    right.legend(fontsize=7, loc="lower left")
    return figure


def draw_gate(report: GateReport) -> Figure:
    """Each rule's interval and bound, on the side it must stay shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.5 * len(report.results)), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(report.results):
        rule = result.rule
        good = (0, rule.bound) if rule.direction == "at_most" else (rule.bound, 1)
        axes.barh(
            place,
            good[1] - good[0],
            left=good[0],
            color="tab:green",
            alpha=0.12,
            height=0.8,
            label="promised" if place == 0 else None,
        )
        colour = COLOURS[result.verdict]
        if not math.isnan(result.lower):
            axes.plot(
                (result.lower, result.upper),
                (place, place),
                color=colour,
                lw=4,
                solid_capstyle="butt",
            )
            axes.plot(result.estimate, place, "|", color="black", markersize=12)
        axes.text(1.02, place, str(result.verdict), color=colour, va="center", fontsize=8)
    names = [f"{result.rule.name}\n{result.rule.promise}" for result in report.results]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence limits (bar) and estimate (tick)")
    axes.legend(fontsize=7, loc="upper right")
    return figure
