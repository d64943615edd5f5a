"""The figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from capstone.fault_drills import Drill
    from labs.lab3_fairness.group_metrics import GroupReport

Losses = list[tuple[int, float]]
"""(step, loss per token)."""
BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"


def _axes(width: float = 7.0, height: float = 3.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def loss(losses: Mapping[str, Losses]) -> Figure:
    """Training loss by step, one panel a model."""
    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(1, len(losses), squeeze=False)[0], losses.items(), strict=True
    ):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.plot(*zip(*points, strict=True), color=BLUE)
        axes.set(xlabel="step", title=name)
    figure.axes[0].set_ylabel("loss per token")
    return figure


def latency(tried: Sequence[tuple[float, Any]], limit_ms: float) -> Figure:
    """p50 and p99 against the offered rate."""
    figure, axes = _axes()
    ordered = sorted(tried, key=lambda pair: pair[0])
    rates = [rate for rate, _ in ordered]
    for key, colour in (("p50_ms", BLUE), ("p99_ms", ORANGE)):
        values = [getattr(result.summary, key) for _, result in ordered]
        axes.plot(rates, values, marker="o", color=colour, label=key.removesuffix("_ms"))
    axes.axhline(limit_ms, color=GREY, linestyle="--", label=f"limit {limit_ms:g} ms")
    axes.set(xlabel="offered requests/s", ylabel="latency (ms)", yscale="log")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.legend(frameon=False)
    return figure


def groups(reports: Mapping[str, GroupReport], overall: float) -> Figure:
    """A metric by group, with intervals."""
    rows = [
        (f"{value.group} (n = {value.n})", value)
        for report in reports.values()
        for value in report.groups
    ][::-1]
    figure, axes = _axes(height=0.45 * len(rows) + 1)
    for position, (_, value) in enumerate(rows):
        axes.plot(value.ci95, [position, position], color=BLUE)
        axes.plot(value.value, position, "o", color=BLUE)
    axes.axvline(overall, color=GREY, linestyle="--", label="all users")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlabel="NDCG@10")
    axes.legend(frameon=False, loc="lower right")
    return figure


def drills(found: Sequence[Drill]) -> Figure:
    """p99, and the share of fallbacks and errors, in each phase of each drill."""
    figure = Figure(figsize=(8.4, 0.55 * len(found) + 1.2), layout="constrained")
    latencies, shares = figure.subplots(1, 2, sharey=True)
    colours = {"before": GREY, "during": ORANGE, "after": BLUE}
    for row, drill in enumerate(found[::-1]):
        for number, phase in enumerate(drill.phases):
            height = row + 0.25 * (1 - number)
            colour = colours[phase.name]
            latencies.plot(phase.p99_ms, height, "o", color=colour)
            share = 100 * (phase.fallbacks + phase.errors) / max(phase.n, 1)
            shares.barh(height, share, 0.2, color=colour)
            shares.text(share + 1, height, f"{phase.errors} errors", va="center", fontsize=7)
    latencies.set_yticks(range(len(found)), [drill.fault for drill in found[::-1]])
    latencies.set(xlabel="p99 (ms)", xscale="log")
    latencies.set_xticks([5, 10, 20, 50, 100, 200], minor=False)
    latencies.xaxis.set_major_formatter("{x:g}")
    latencies.xaxis.set_minor_formatter("")
    latencies.axvline(50, color=GREY, linestyle="--", linewidth=1)
    shares.set(xlabel="fallback feeds and errors (%)", xlim=(0, 118))
    for name, colour in colours.items():
        latencies.plot([], [], "o", color=colour, label=name)
    latencies.legend(frameon=False, fontsize=8)
    for axes in (latencies, shares):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, axis="x")
    return figure
