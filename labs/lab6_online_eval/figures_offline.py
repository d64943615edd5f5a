"""Figures of the offline and online study, of position bias, and of interleaving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labs.lab6_online_eval.interleaving_sensitivity import InterleavingStudy
from labs.lab6_online_eval.offline_online import OfflineOnline, PositionBias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#1f6fb4", "#d9730d", "#2e8b57", "#9a9a9a"
LABEL_SHIFT = {"ease": -11, "discovery_10": 5, "discovery_20": 3}
"""Points up, where labels would lie on one another."""
ESTIMATORS = (
    ("ips", "item-position IPS", ORANGE, "o"),
    ("position_based", "position-based IPS", BLUE, "s"),
    ("doubly_robust", "doubly robust", GREEN, "^"),
)


def draw_offline_online(result: OfflineOnline) -> Figure:
    """Left: NDCG against true clicks. Right: estimates from a log against true clicks."""
    figure, (left, right) = _panels(2, (11, 4.6))
    truth = np.array([row.clicks for row in result.rows])
    for row in result.rows:
        value = row.offline.ndcg
        left.errorbar(
            value.mean,
            row.clicks,
            xerr=[[value.mean - value.low], [value.high - value.mean]],
            fmt="o",
            color=BLUE,
            ecolor=GREY,
            capsize=2,
        )
        left.annotate(
            row.name,
            (value.high, row.clicks),
            textcoords="offset points",
            xytext=(4, LABEL_SHIFT.get(row.name, -3)),
            fontsize=8,
        )
    left.set(xlabel="NDCG@10 on held-out films (95 % over users)", ylabel="true clicks a session")
    left.set_xlim(right=left.get_xlim()[1] + 0.035)
    left.set_title(f"Offline against online: Kendall's tau {result.tau['ndcg']:.2f}", fontsize=10)
    limit = truth.max() * 1.1
    right.plot([0, limit], [0, limit], color=GREY, linewidth=1, linestyle="--")
    for name, label, colour, marker in ESTIMATORS:
        for refused in (False, True):
            chosen = [
                (row.clicks, row.off_policy[name])
                for row in result.rows
                if (row.off_policy[name].refused is not None) == refused
            ]
            if not chosen:
                continue
            y = np.array([each.clicks for _, each in chosen])
            error = [
                y - np.array([each.low for _, each in chosen]),
                np.array([each.high for _, each in chosen]) - y,
            ]
            right.errorbar(
                [clicks for clicks, _ in chosen],
                y,
                yerr=error,
                fmt=marker,
                color=colour,
                markerfacecolor="white" if refused else colour,
                capsize=2,
                markersize=5,
                label=label + (" (refused)" if refused else ""),
            )
    right.set(xlabel="true clicks a session", ylabel="estimate from the log", xlim=(0, limit))
    right.set_title(f"Off-policy estimates, {result.sessions:,} logged sessions", fontsize=10)
    right.legend(fontsize=7, frameon=False)
    return figure


def draw_decomposition(result: OfflineOnline) -> Figure:
    """Each ranker's clicks less those of ease, as appeal, awareness and their joint part."""
    figure, (axes,) = _panels(1, (8, 4))
    rows = [row for row in result.rows if row.name != "ease"]
    y = np.arange(len(rows))
    parts = (("appeal", BLUE), ("awareness", ORANGE), ("joint", GREY))
    for offset, (name, colour) in zip((-0.26, 0.0, 0.26), parts, strict=True):
        values = [getattr(row.parts, name) for row in rows]
        axes.barh(y + offset, values, height=0.24, color=colour, label=name)
    axes.plot([row.parts.total for row in rows], y, "D", color=INK, markersize=5, label="total")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(y, [row.name for row in rows])
    axes.set_xlabel("true clicks a session, less those of ease")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def draw_position_bias(result: PositionBias) -> Figure:
    """Examination by position: the truth, and the three estimates."""
    figure, (axes,) = _panels(1, (7, 4.2))
    position = np.arange(1, len(result.truth) + 1)
    axes.plot(position, result.truth, color=INK, linewidth=2, label="true examination")
    axes.plot(
        position,
        result.click_through.relative,
        color=ORANGE,
        marker="x",
        linestyle=":",
        label="click-through of fixed lists",
    )
    value = result.swaps.relative
    low = value if result.swaps.low is None else result.swaps.low
    high = value if result.swaps.high is None else result.swaps.high
    axes.errorbar(
        position - 0.1,
        value,
        yerr=[value - low, high - value],
        fmt="o",
        color=BLUE,
        capsize=2,
        label="random swaps (95 %)",
    )
    axes.plot(
        position + 0.1, result.em.relative, "^", color=GREEN, label="EM, position-based model"
    )
    axes.set(xlabel="position", ylabel="relative to the first position", ylim=(0, 1.08))
    axes.set_xticks(position)
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw_sensitivity(result: InterleavingStudy) -> Figure:
    """Power against sessions in both designs, one panel a small difference."""
    pairs = result.small
    figure, panels = _panels(len(pairs), (4.2 * len(pairs), 3.8))
    for axes, each in zip(panels, pairs, strict=True):
        for curve, colour, label in (
            (each.interleaved_curve, BLUE, "interleaved"),
            (each.ab_curve, ORANGE, "A/B"),
        ):
            sessions = [point.sessions for point in curve]
            axes.plot(sessions, [point.power for point in curve], color=colour, label=label)
            axes.fill_between(
                sessions,
                [point.low for point in curve],
                [point.high for point in curve],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
        axes.axhline(each.power, color=GREY, linewidth=0.8, linestyle="--")
        for needed, colour in (
            (each.interleaved_sessions, BLUE),
            (each.ab_sessions, ORANGE),
        ):
            axes.plot([needed], [each.power], "o", color=colour)
        axes.set_xscale("log")
        axes.set(xlabel="sessions in all", ylim=(0, 1.03))
        axes.set_title(
            f"{each.control} to {each.treatment}: {each.true_effect:+.3f}\n"
            f"{each.power:.0%} power: {each.ab_sessions:,} sessions A/B, "
            f"{each.interleaved_sessions:,} interleaved",
            fontsize=9,
        )
    panels[0].set_ylabel("share of experiments that find it")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def draw_agreement(result: InterleavingStudy) -> Figure:
    """Interleaved preference against the true effect, a point for each pair of rankers."""
    figure, (axes,) = _panels(1, (5.6, 4.4))
    found = result.agreement
    sign = np.sign(found.true_effect)
    effect, preference = found.true_effect * sign, found.preference * sign
    right = preference > 0
    axes.errorbar(
        effect[right], preference[right], yerr=1.96 * found.se[right], fmt="o", color=BLUE
    )
    axes.errorbar(
        effect[~right], preference[~right], yerr=1.96 * found.se[~right], fmt="x", color=ORANGE
    )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(
        xlabel="true difference in clicks a session, better less worse",
        ylabel="interleaved preference for the better",
        xlim=(0, None),
    )
    axes.set_title(f"{int(right.sum())} of {len(right)} pairs point the right way", fontsize=10)
    return figure


def _panels(n: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(1, n, number + 1) for number in range(n)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes
