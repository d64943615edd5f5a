"""Figures of the analysis: effects with their margins, and what an analysis costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labs.lab6_online_eval.guardrails import GuardrailResult, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab6_online_eval.analyze import ArmAnalysis, MetricResult


GREEN, RED, GREY, BLUE, ORANGE = "#2f855a", "#c53030", "#718096", "#2b6cb0", "#c05621"
INK = "#2d3748"
GIB = 2**30


def draw_forest(arm: ArmAnalysis, *, alpha: float = 0.05) -> Figure:
    """Relative effects of one treatment with their intervals; guardrails with their margins.

    A metric whose control is 0 has no relative effect and is left out. The area beyond a
    guardrail's margin is red.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    judged = {guardrail.name: guardrail for guardrail in arm.guardrails}
    shown = [(each, each.relative) for each in arm.results if each.relative is not None]
    figure = Figure(figsize=(9, 0.9 + 0.55 * len(shown)), layout="constrained")
    axes = figure.subplots()
    reach = 1.1 * max(
        abs(value)
        for each, relative in shown
        for value in (*relative.interval, each.metric.margin or 0.0)
    )
    for place, (each, relative) in enumerate(shown):
        margin = each.metric.margin
        if margin is not None:
            side = -1 if each.metric.higher_is_better else 1
            edge = side * margin
            axes.fill_betweenx(
                (place - 0.42, place + 0.42), edge, side * reach, color=RED, alpha=0.12, lw=0
            )
            axes.plot((edge, edge), (place - 0.42, place + 0.42), color=RED, lw=1.5)
        axes.plot(relative.interval, (place, place), color=INK, lw=2.2, solid_capstyle="butt")
        axes.plot(relative.estimate, place, "o", color=colour_of(each, judged, alpha), markersize=8)
        axes.annotate(
            f"{relative.estimate:+.1%}", (1, place), (8, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.axvline(0, color=GREY, lw=1, zorder=0)
    axes.set_yticks(range(len(shown)), [label_of(each) for each, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"{arm.arm} against the control, relative, {1 - alpha:.4g} interval")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def label_of(result: MetricResult) -> str:
    """The metric's name and role, and which direction is good where it is down."""
    metric = result.metric
    good = "" if metric.higher_is_better else ", lower is better"
    return f"{metric.name.replace('_', ' ')}\n({metric.role.value}{good})"


def colour_of(result: MetricResult, judged: Mapping[str, GuardrailResult], alpha: float) -> str:
    """Green: better, or a guardrail that held. Red: worse or broken. Grey: not shown."""
    guardrail = judged.get(result.metric.name)
    if guardrail is not None:
        return {Verdict.SAFE: GREEN, Verdict.HARMED: RED}.get(guardrail.verdict, GREY)
    p = result.effect.p if result.p_adjusted is None else result.p_adjusted
    good = (result.effect.estimate > 0) is result.metric.higher_is_better
    if (p if good else result.effect.p) >= alpha:
        return GREY
    return GREEN if good else RED


def draw_bench(found: Mapping[str, Sequence[Mapping[str, Any]]], users: int) -> Figure:
    """Seconds and peak memory by side; a dot a repetition.

    Parameters
    ----------
    found
        What a side is, to what `bench_sides.measure` gave for each repetition.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, runs in enumerate(found.values()):
        seconds = [run["seconds"] for run in runs]
        memory = [run["peak_bytes"] / GIB for run in runs]
        colour = BLUE if place == 0 else ORANGE
        for axes, values, unit in ((left, seconds, "s"), (right, memory, "GiB")):
            middle = sorted(values)[len(values) // 2]
            axes.barh(place, middle, color=colour, alpha=0.35, height=0.6)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
            axes.annotate(
                f"{middle:.2f} {unit}", (max(values), place), (6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
    left.set_yticks(range(len(found)), list(found))
    left.invert_yaxis()
    left.set(xlabel=f"seconds for {users:,} users", xlim=(0, left.get_xlim()[1] * 1.2))
    right.set(xlabel="peak memory (GiB)", xlim=(0, right.get_xlim()[1] * 1.2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
