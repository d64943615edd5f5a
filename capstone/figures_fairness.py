"""Figures of the fairness audit: quality by user group, exposure by creator size."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from capstone import figures
from capstone.fairness_audit import N_SIZES, Audit, FairnessStudy
from capstone.figures import BLUE, GREY, ORANGE


def draw_user_groups(audit: Audit) -> Figure:
    """NDCG@10 by user group, with lab 3's 95 % intervals."""
    reports = {name: gap.report for name, gap in audit.gaps.items()}
    return figures.groups(reports, float(audit.ndcg.mean()))


def draw_creator_exposure(study: FairnessStudy) -> Figure:
    """Left: attention by size of the (simulated) creator. Right: what the minimum costs."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    before, after = study.before.creators, study.after.creators
    place = np.arange(N_SIZES)
    for step, (values, colour, label) in enumerate(
        (
            (before.by_size, ORANGE, "feeds without a minimum"),
            (after.by_size, BLUE, f"with a minimum of {study.config.min_exposure:g}"),
        )
    ):
        left.bar(place + 0.4 * step - 0.2, 100 * values, 0.38, color=colour, label=label)
    for values, marker, label in (
        (before.catalogue_by_size, "_", "share of the films"),
        (before.merit_by_size, "x", "share of what people came to next"),
    ):
        left.plot(
            place, 100 * values, marker, color="black", markersize=14 if marker == "_" else 7,
            markeredgewidth=2, label=label,
        )  # fmt: skip
    names = ["smallest", *[""] * (N_SIZES - 2), "largest"]
    left.set_xticks(place, names)
    left.set(xlabel="simulated creators, by audience", ylabel="share, %")
    left.set_ylim(0, 1.45 * 100 * max(before.by_size.max(), after.by_size.max()))
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    right.plot(
        [each.to_catalogue for each in study.tried],
        [100 * each.kept for each in study.tried],
        "o-", color=BLUE,
    )  # fmt: skip
    for number, each in enumerate(study.tried):
        mark = {"fontweight": "bold"} if each.min_exposure == study.config.min_exposure else {}
        right.annotate(
            f"{each.min_exposure:g}", (each.to_catalogue, 100 * each.kept),
            textcoords="offset points", xytext=(5, 4) if number % 2 else (-6, -12),
            fontsize=8, **mark,
        )  # fmt: skip
    right.axvline(1, color=GREY, linestyle="--", linewidth=1)
    right.set(
        xlabel="exposure of the smallest / their share of films",
        ylabel="NDCG kept, %, validation",
    )
    return figure
