"""Figures of the audit: rates by group, and each gap beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.runner import Run
    from labs.lab3_fairness.group_metrics import GroupReport

TITLES = {
    "adult_sex": "Adult by sex (model)",
    "compas_two": "COMPAS by race, two groups",
    "compas_all": "COMPAS by race, all groups",
}


def _rates(run: Run, reports: Mapping[str, GroupReport]) -> None:
    """One panel an audit: each rate of each group with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2))
    for axes, (name, report) in zip(figure.subplots(1, len(reports), sharey=True), reports.items()):
        metrics = [gap.metric for gap in report.disparities]
        groups = sorted({value.group for value in report.groups})
        for number, group in enumerate(groups):
            values = [report.group(metric, group) for metric in metrics]
            shift = (number - (len(groups) - 1) / 2) * 0.7 / len(groups)
            axes.errorbar(
                [position + shift for position in range(len(metrics))],
                [value.value for value in values],
                yerr=[
                    [value.value - value.ci95[0] for value in values],
                    [value.ci95[1] - value.value for value in values],
                ],
                fmt="o",
                markersize=4,
                label=group,
            )
        labels = [metric.replace("_", "\n") for metric in metrics]
        axes.set_xticks(range(len(metrics)), labels, fontsize=7)
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_ylim(-0.03, 1.3)
        axes.legend(fontsize=7, loc="upper center", ncols=2)
    figure.tight_layout()
    run.figure(
        "group_rates",
        figure,
        caption="Rates by group with 95 % intervals (Wilson). Native Americans are 11 people, "
        "and their intervals say so.",
    )


def _gaps(run: Run, reports: Mapping[str, GroupReport]) -> None:
    """Observed gaps beside the gaps that chance gives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8))
    axes = figure.subplots()
    rows = [(TITLES[name], gap) for name, report in reports.items() for gap in report.disparities]
    for place, (_, gap) in enumerate(rows):
        label = "chance, up to its 95th percentile" if place == 0 else None
        axes.barh(place, gap.null_q95, color="lightgrey", label=label)
        axes.plot(gap.difference_ci95, (place, place), color="tab:blue")
        axes.plot(gap.difference, place, "o", color="tab:blue")
    names = [f"{title}: {gap.metric.replace('_', ' ')}" for title, gap in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("largest minus smallest group value")
    axes.legend(fontsize=8)
    figure.tight_layout()
    run.figure(
        "gaps_and_chance",
        figure,
        caption="Each gap (dot, 95 % interval) beside what randomly dealt groups of the same "
        "sizes give (grey). Six groups, two of them tiny, make large gaps out of nothing.",
    )


def draw(run: Run, reports: Mapping[str, GroupReport]) -> None:
    """Both figures."""
    _rates(run, reports)
    _gaps(run, reports)
