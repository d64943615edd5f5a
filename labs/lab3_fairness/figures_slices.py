"""Figures of the slice search: what was found against what held, and what noise alone reports."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

from common.errors import require
from labs.lab3_fairness.slice_confirmation import SliceReport
from labs.lab3_fairness.slice_study import NullStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_held_out_effects(reports: Mapping[str, SliceReport]) -> Figure:
    """One panel a report: each slice's effect where it was found, and where it was not.

    Parameters
    ----------
    reports
        Title to report; one with no slice is drawn as an empty panel that says so.
    """
    from matplotlib.figure import Figure

    require(len(reports) > 0, "reports", dict(reports), "must hold at least one report")
    heights = [max(2, len(report.slices)) for report in reports.values()]
    figure = Figure(figsize=(9.5, 0.34 * sum(heights) + 0.7 * len(heights)))
    panels = figure.subplots(
        len(reports), 1, squeeze=False, gridspec_kw={"height_ratios": heights}, sharex=True
    )[:, 0]
    for axes, (title, report) in zip(panels, reports.items()):
        for place, each in enumerate(report.slices):
            colour = "tab:red" if each.confirmed else "tab:gray"
            axes.plot(each.ci95, (place, place), color=colour, linewidth=1.5)
            axes.plot(each.effect, place, "o", color=colour, markersize=6)
            axes.plot(
                each.effect_discovery, place, "D", color="black", fillstyle="none", markersize=6
            )
        names = [fill(f"{each.text} ({each.n:,})", 66) for each in report.slices]
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        share = "" if not names else f"; effects keep {report.shrinkage:.2f}"
        axes.set_title(
            f"{title}: {report.tested:,} tested, {len(names)} found, "
            f"{len(report.confirmed)} confirmed{share}",
            fontsize=9,
            loc="left",
        )
        if not names:
            axes.text(0.5, 0.5, "no slice found", transform=axes.transAxes, ha="center")
    panels[-1].set_xlabel("mean loss in the slice minus mean loss outside")
    handles = [
        ("D", "black", "none", "on the half that found it"),
        ("o", "tab:red", "full", "held out, 95 % interval, confirmed"),
        ("o", "tab:gray", "full", "held out, 95 % interval, not confirmed"),
    ]
    for marker, colour, style, label in handles:
        panels[0].plot([], [], marker, color=colour, fillstyle=style, label=label)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8
    )
    figure.set_layout_engine("constrained")
    return figure


def draw_null_discoveries(study: NullStudy) -> Figure:
    """How often each procedure reports a slice where none is worse, beside its own promise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    procedures = [
        (f"no correction\n(p <= {study.alpha:g})", study.any_uncorrected, study.alpha),
        ("Bonferroni", study.any_bonferroni, study.alpha),
        ("Benjamini-\nHochberg", study.any_benjamini_hochberg, study.fdr),
        ("found on one half,\nconfirmed on the other", study.any_confirmed, study.alpha),
    ]
    for place, (_, rate, level) in enumerate(procedures):
        left.bar(place, rate.value, color="tab:blue", width=0.6)
        low, high = rate.value - rate.ci95[0], rate.ci95[1] - rate.value
        left.errorbar(place, rate.value, yerr=[[low], [high]], color="black", capsize=3)
        left.plot((place - 0.4, place + 0.4), (level, level), color="tab:red", linewidth=2)
        left.text(place + 0.05, max(level, rate.ci95[1]) + 0.02, f"{rate.value:.3f}", fontsize=8)
    left.plot([], [], color="tab:red", label="level promised")
    left.set_xticks(range(len(procedures)), [name for name, *_ in procedures], fontsize=8)
    left.set_ylabel("share of null data sets\nin which a slice is reported")
    left.set_ylim(0, 1.12)
    left.legend(fontsize=8)
    right.hist(study.uncorrected, bins=20, color="tab:blue")
    expected = study.alpha * study.tested
    right.axvline(expected, color="tab:red", label=f"{study.alpha:g} of {study.tested:,} slices")
    right.set_xlabel(f"slices with p <= {study.alpha:g} in a null data set")
    right.set_ylabel("null data sets")
    right.legend(fontsize=8)
    figure.set_layout_engine("constrained")
    return figure
