"""Figures of post-processing: the frontier with every method, ROC curves, and who is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labs.lab3_fairness.derandomize import band_rule
from labs.lab3_fairness.postprocessing import group_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab3_fairness.decisions import Outcome
    from labs.lab3_fairness.frontier import Comparison, Curve
    from labs.lab3_fairness.relaxed_odds import ScoreBins
    from labs.lab3_fairness.target_rules import Attempt, Pursuit, ScoredRows

GREY, BLUE, ORANGE, GREEN, BLACK = "#718096", "#2b6cb0", "#c05621", "#2f855a", "#1a202c"
FAMILIES = {
    "none": (GREY, "o", "not mitigated"),
    "pre": (GREEN, "s", "pre-processing"),
    "in": (ORANGE, "^", "in-processing"),
    "post": (BLUE, "D", "post-processing"),
}
GROUP_COLOURS = (ORANGE, BLUE, GREEN, GREY)


def draw_frontier(
    comparisons: Sequence[Comparison],
    attempts: Sequence[Attempt],
    by_dp: Curve,
    by_eo: Curve,
) -> Figure:
    """Accuracy against each gap on the test rows: methods with intervals, and the frontier.

    Parameters
    ----------
    comparisons
        Of :func:`frontier.compare_with_programme`: the methods that do not post-process.
    attempts
        The rules for the targets.
    by_dp, by_eo
        Of :func:`frontier.frontier_curve`, with one gap bounded and the other free.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    points = [(each.method.name, each.method.family, each.method_outcome) for each in comparisons]
    points += [(each.method.name, "post", each.outcome) for each in attempts]
    numbers = {name: number for number, (name, _, _) in enumerate(points, 1)}
    for axes, gap, curve, title in (
        (left, "dp_diff", by_dp, "demographic parity difference"),
        (right, "eo_diff", by_eo, "equalized odds difference"),
    ):
        axes.plot(
            getattr(curve, gap), curve.accuracy, color=BLACK, linewidth=1.6,
            label="frontier of one model", zorder=3,
        )  # fmt: skip
        for name, family, result in points:
            _point(axes, result, gap, family, numbers[name])
        axes.set(xlabel=f"{title} (test rows)")
        axes.set_xlim(left=-0.005)
        _quiet(axes)
    left.set_ylabel("accuracy (test rows)")
    handles = {label: handle for handle, label in zip(*left.get_legend_handles_labels())}
    left.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="lower right")
    keys = "   ".join(f"{number} {name}" for name, number in numbers.items())
    figure.supxlabel(_wrapped(keys, 170), fontsize=7.5, color=BLACK)
    return figure


def draw_group_roc(validation: ScoredRows, pursuits: Sequence[Pursuit]) -> Figure:
    """Each group's ROC curve on validation rows, and where the rule for each target puts it.

    A point below its curve is a group that was made worse than its scores allow.
    """
    from matplotlib.figure import Figure

    curves = group_curves(validation.scores, validation.labels, validation.groups)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(GROUP_COLOURS, curves.items()):
        axes.plot(curve.fpr, curve.tpr, color=colour, linewidth=1.3, label=f"{name}")
    for marker, pursuit in zip("osD^", pursuits):
        for colour, (fpr, tpr) in zip(GROUP_COLOURS, pursuit.rule.roc_points):
            axes.plot(
                fpr, tpr, marker, color=colour, markersize=8, markeredgecolor="white", zorder=4
            )
        axes.plot([], [], marker, color=BLACK, label=f"target {pursuit.target.name}")
    axes.set(
        xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 0.25), ylim=(0.3, 1)
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _quiet(axes)
    return figure


def draw_decision_bands(validation: ScoredRows, pursuits: Sequence[Pursuit]) -> Figure:
    """Who is accepted, by score: one row a target, one column a group.

    The line is the chance by the programme; the shaded scores are accepted by the band rule.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.1 * len(pursuits) + 0.6), layout="constrained")
    names = pursuits[0].rule.bins.groups
    every = figure.subplots(len(pursuits), len(names), sharex=True, sharey=True, squeeze=False)
    for row, pursuit in zip(every, pursuits):
        bands = band_rule(
            validation.scores, validation.labels, validation.groups, pursuit.rule.roc_points
        ).bands
        for code, (axes, name) in enumerate(zip(row, names)):
            band = bands[name]
            shade: dict[str, Any] = {"color": GROUP_COLOURS[code], "alpha": 0.22, "linewidth": 0}
            axes.axvspan(min(band.top, 1.0), 1.0, **shade)
            if band.passed_over:
                axes.axvspan(max(band.low, 0.0), band.high, **shade)
            x, y = _steps(pursuit.rule.bins, pursuit.rule.accept[code], code)
            axes.plot(x, y, color=GROUP_COLOURS[code], linewidth=1.5)
            axes.set_title(
                f"{name}, target {pursuit.target.name}: {band.passed_over:.1%} of the group "
                "passed over",
                fontsize=9,
            )
            axes.set(xlim=(0, 1), ylim=(-0.03, 1.05))
            _quiet(axes)
    for axes in every[-1]:
        axes.set_xlabel("score: estimated P(Y=1)")
    for row in every:
        row[0].set_ylabel("P(accepted)")
    return figure


def draw_surface(surface: Any, dp_bounds: Sequence[float], eo_bounds: Sequence[float]) -> Figure:
    """The best accuracy, promised on validation rows, at every pair of bounds.

    Parameters
    ----------
    surface : array of shape [len(dp_bounds), len(eo_bounds)]
        Of :func:`frontier.frontier_surface`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.8), layout="constrained")
    axes = figure.subplots()
    filled = axes.contourf(eo_bounds, dp_bounds, surface, levels=14, cmap="viridis")
    lines = axes.contour(
        eo_bounds, dp_bounds, surface, levels=[0.80, 0.82, 0.84, 0.85, 0.86, 0.87],
        colors="white", linewidths=0.9,
    )  # fmt: skip
    axes.clabel(lines, fontsize=8, fmt="%.2f")
    axes.plot(0.10, 0.05, "o", color="white", markersize=6)
    axes.annotate(
        "joint target", (0.10, 0.05), xytext=(6, 6), textcoords="offset points", color="white"
    )
    axes.set(
        xlabel="bound on the equalized odds difference",
        ylabel="bound on the demographic parity difference",
    )
    figure.colorbar(filled, label="best accuracy (validation rows)")
    return figure


def _point(axes: Axes, result: Outcome, gap: str, family: str, number: int) -> None:
    colour, marker, label = FAMILIES[family]
    x, (low, high) = getattr(result, gap), getattr(result, f"{gap}_ci95")
    bottom, top = result.accuracy_ci95
    axes.errorbar(
        x, result.accuracy,
        xerr=[[max(0.0, x - low)], [max(0.0, high - x)]],
        yerr=[[max(0.0, result.accuracy - bottom)], [max(0.0, top - result.accuracy)]],
        fmt=marker, color=colour, markersize=5, linewidth=0.6, alpha=0.85, label=label,
    )  # fmt: skip
    axes.annotate(
        str(number),
        (x, result.accuracy),
        xytext=(4, 3) if number % 2 else (-13, -10),
        textcoords="offset points",
        fontsize=7.5,
    )


def _steps(bins: ScoreBins, accept: Any, code: int) -> tuple[Any, Any]:
    edges = np.concatenate([[0.0], bins.edges[code], [1.0]])
    return np.repeat(edges, 2)[1:-1], np.repeat(accept[: len(edges) - 1], 2)


def _wrapped(text: str, width: int) -> str:
    lines, line = [], ""
    for part in text.split("   "):
        if len(line) + len(part) > width:
            lines.append(line)
            line = ""
        line += part + "   "
    return "\n".join([*lines, line])


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
