"""Figures of calibration: curves by group, the worst group's error, coverage, and abstention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from labs.lab3_fairness.calibration import ReliabilityCurve
from labs.lab3_fairness.calibration_study import (
    AdultMulticalibration,
    AdultUncertainty,
    CompasCalibration,
    Coverage,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#0072b2", "#d55e00", "0.55", "#009e73"


def draw_reliability(result: CompasCalibration) -> Figure:
    """Positive rate against score for each group, over the bars of a calibrated model."""
    from matplotlib.figure import Figure

    curves: Mapping[str, ReliabilityCurve] = result.curves
    figure = Figure(figsize=(4.4 * len(curves), 4.4), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    errors = {group.group: group for group in result.groups}
    for ax, (name, curve) in zip(axes, curves.items()):
        low, high = curve.positive_rate - curve.low, curve.high - curve.positive_rate
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="score = rate")
        ax.vlines(
            curve.mean_score,
            curve.consistent_low,
            curve.consistent_high,
            color=GREY,
            alpha=0.45,
            linewidth=9,
            label="95 % of calibrated models",
        )
        ax.errorbar(
            curve.mean_score,
            curve.positive_rate,
            yerr=[low, high],
            fmt="o",
            color=BLUE,
            capsize=2,
            label="observed, 95 % interval",
        )
        report = errors[name]
        ax.set_title(
            f"{name} (n = {report.n:,})\nECE {report.ece:.3f}, "
            f"by chance {report.ece_null_mean:.3f}, p = {report.p_value:.3f}",
            fontsize=10,
        )
        ax.set_xlabel("mean score of the bin")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
    axes[0].set_ylabel("share rearrested within two years")
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def draw_recalibration(result: CompasCalibration) -> Figure:
    """Both gaps of the decisions after each recalibration, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.9), layout="constrained")
    ax = figure.subplots()
    names = [
        each.method if each.method == "none" else f"{each.method}, {each.scope}"
        for each in result.recalibrated
    ]
    place = np.arange(len(names))
    for offset, colour, label, field in (
        (-0.13, BLUE, "selection rates (DP)", "dp_diff"),
        (0.13, ORANGE, "error rates (EO)", "eo_diff"),
    ):
        value = np.array([getattr(each.outcome, field) for each in result.recalibrated])
        limits = np.array([getattr(each.outcome, f"{field}_ci95") for each in result.recalibrated])
        ax.errorbar(
            value,
            place + offset,
            xerr=np.maximum(0, [value - limits[:, 0], limits[:, 1] - value]),
            fmt="o",
            color=colour,
            capsize=2,
            label=label,
        )
    ax.set_yticks(place, names)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("difference between the two groups at a threshold of 0.5, with 95 % interval")
    ax.legend(loc="lower left", fontsize=8)
    return figure


def draw_multicalibration(results: Mapping[str, AdultMulticalibration]) -> Figure:
    """The worst of all groups before and after, with what the worst of calibrated ones reaches.

    ``results`` maps the name of a model to its result.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(results), 4.0), layout="constrained")
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    labels = ("as it is", "calibrated\nfor each sex", "multi-\ncalibrated")
    for ax, (name, result) in zip(axes, results.items()):
        audits = [s.audit for s in (result.plain, result.per_sex, result.multicalibrated)]
        for place, audit in enumerate(audits):
            z = np.sort(abs(audit.z[~np.isnan(audit.z)]))
            spread = np.linspace(-0.25, 0.25, len(z))
            beyond = z > audit.null_q95
            ax.scatter(place + spread[~beyond], z[~beyond], s=6, color=GREY)
            ax.scatter(place + spread[beyond], z[beyond], s=12, color=ORANGE)
            ax.hlines(audit.null_q95, place - 0.35, place + 0.35, color=BLUE)
            ax.annotate(
                f"{audit.n_flagged} flagged",
                (place, max(audit.worst_z, audit.null_q95) + 0.25),
                ha="center",
                fontsize=9,
            )
        ax.scatter([], [], s=6, color=GREY, label="a group")
        ax.scatter([], [], s=12, color=ORANGE, label="a group beyond chance")
        ax.plot([], [], color=BLUE, label="95 % quantile of the largest, by chance")
        ax.set_title(f"{name}, {audits[0].n_audited} groups", fontsize=10)
        ax.set_xticks(range(3), labels)
        ax.set_ylim(0, max(8.5, audits[0].worst_z + 1.2))
    axes[0].set_ylabel("|z| of the mean residual")
    axes[-1].legend(loc="upper right", fontsize=8)
    return figure


def draw_coverage(result: Coverage) -> Figure:
    """Coverage of each group by one threshold and by one a group, and sets without a decision."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.55 * len(result.marginal)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(result.marginal))
    for offset, colour, label, table in (
        (-0.13, ORANGE, "one threshold", result.marginal),
        (0.13, BLUE, "one a group", result.mondrian),
    ):
        value = table["coverage"].to_numpy()
        left.errorbar(
            value,
            place + offset,
            xerr=[value - table["low"], table["high"] - value],
            fmt="o",
            color=colour,
            capsize=2,
            label=label,
        )
        right.barh(place + offset, table["several"], height=0.22, color=colour)
        right.barh(
            place + offset,
            table["empty"],
            left=table["several"],
            height=0.22,
            color="white",
            edgecolor=colour,
            hatch="////",
        )
    right.margins(x=0.05)
    left.axvline(1 - result.alpha, color=GREY, linewidth=1, label="promised")
    left.set_yticks(place, [f"{name} (n = {n:,})" for name, n in result.marginal["n"].items()])
    left.invert_yaxis()
    left.set_xlabel("coverage of test rows, with 95 % interval")
    left.legend(fontsize=8)
    right.set_xlabel("share without a decision:\nboth labels (filled), no label (hatched)")
    return figure


def draw_selective(result: AdultUncertainty) -> Figure:
    """Accuracy of each cell of sex and income when only the surest share is decided."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax = figure.subplots()
    styles = {"Female": ("o", BLUE), "Male": ("s", ORANGE)}
    for name, rows in result.selective.groupby("group"):
        marker, colour = styles[str(name).split(" ", 1)[0]]
        line = "-" if ">" in str(name) else ":"
        ax.plot(
            rows["coverage"], rows["accuracy"], line, marker=marker, color=colour, label=str(name)
        )
        ax.fill_between(rows["coverage"], rows["low"], rows["high"], color=colour, alpha=0.12)
    ax.invert_xaxis()
    ax.set_xlabel("share of all people decided about, the surest first")
    ax.set_ylabel("accuracy, with 95 % interval")
    ax.legend(fontsize=8)
    return figure
