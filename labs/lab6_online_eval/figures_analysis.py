"""Figures of the analysis: effects with their margins, and what an analysis costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labs.lab6_online_eval.guardrails import GuardrailResult, Verdict
from labs.lab6_online_eval.memo import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab6_online_eval.analyze import ArmAnalysis, MetricResult


GREEN, RED, GREY, BLUE, ORANGE = "#2f855a", "#c53030", "#718096", "#2b6cb0", "#c05621"
INK = "#2d3748"
GIB = 2**30


def draw_forest(arm: ArmAnalysis, *, alpha: float = 0.05) -> Figure:
    """Relative effects of one treatment with their intervals; guardrails apart, with margins.

    A metric whose control is 0 has no relative effect and is left out. A guardrail's bar ends, on
    the side of harm, at the one-sided bound by which it is judged; beyond its margin is red.
    """
    from matplotlib.figure import Figure

    judged = {guardrail.name: guardrail for guardrail in arm.guardrails}
    bars = [
        Bar.of(each, judged.get(each.metric.name), alpha)
        for each in arm.results
        if each.relative is not None
    ]
    parts = [
        (title, chosen)
        for title, chosen in (
            ("What should improve, and information", [b for b in bars if b.edge is None]),
            ("What must not get worse by its margin", [b for b in bars if b.edge is not None]),
        )
        if chosen
    ]
    sizes = [0.55 * len(chosen) + 0.75 for _, chosen in parts]
    figure = Figure(figsize=(9, sum(sizes)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (title, chosen) in zip(panels, parts, strict=True):
        _draw_bars(axes, chosen)
        axes.set_title(title, fontsize=10, loc="left")
    panels[-1].set_xlabel(f"{arm.arm} against the control, {100 * (1 - alpha):g} % intervals")
    return figure


@dataclass(frozen=True)
class Bar:
    """One line of the forest: label, estimate, ends, colour, and where harm beyond it begins."""

    label: str
    estimate: float
    ends: tuple[float, float]
    colour: str
    edge: float | None

    @classmethod
    def of(cls, result: MetricResult, guardrail: GuardrailResult | None, alpha: float) -> Bar:
        assert result.relative is not None
        estimate, ends, edge = result.relative.estimate, result.relative.interval, None
        if guardrail is not None:
            higher = guardrail.higher_is_better
            ends = (guardrail.bound, ends[1]) if higher else (ends[0], guardrail.bound)
            edge = -guardrail.margin if higher else guardrail.margin
        return cls(label_of(result), estimate, ends, colour_of(result, guardrail, alpha), edge)


def _draw_bars(axes: Axes, bars: Sequence[Bar]) -> None:
    from matplotlib.ticker import PercentFormatter

    reach = 1.15 * max(abs(value) for bar in bars for value in (*bar.ends, bar.edge or 0.0))
    for place, bar in enumerate(bars):
        if bar.edge is not None:
            rows = (place - 0.42, place + 0.42)
            end = reach if bar.edge > 0 else -reach
            axes.fill_betweenx(rows, bar.edge, end, color=RED, alpha=0.12, lw=0)
            axes.plot((bar.edge, bar.edge), rows, color=RED, lw=1.5)
        axes.plot(bar.ends, (place, place), color=INK, lw=2.2, solid_capstyle="butt")
        axes.plot(bar.estimate, place, "o", color=bar.colour, markersize=8)
        axes.annotate(
            percent(bar.estimate), (1, place), (8, 0), va="center", fontsize=9,
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    axes.axvline(0, color=GREY, lw=1, zorder=0)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def label_of(result: MetricResult) -> str:
    """The metric's name, and which direction is good where it is down."""
    metric = result.metric
    good = "" if metric.higher_is_better else "\n(lower is better)"
    return metric.name.replace("_", " ") + good


def colour_of(result: MetricResult, guardrail: GuardrailResult | None, alpha: float) -> str:
    """Green: better, or a guardrail that held. Red: worse or broken. Grey: not shown."""
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
