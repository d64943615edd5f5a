"""Figures of the exports and of ONNX Runtime: parity, the graph at each level, time by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.ort_options import OptimizedGraph
    from labs.lab4_model_serving.ort_profile import Profile
    from labs.lab4_model_serving.parity_report import ArtefactParity

BLUE, ORANGE, GREY, GREEN, RED = "#2b6cb0", "#c05621", "#a0aec0", "#2f855a", "#c53030"
SHADES = (BLUE, "#4299e1", ORANGE, "#ed8936", GREEN, "#68d391", "#805ad5", "#b794f4")
FLOOR = 1e-8  # where an error of 0 is drawn on the logarithmic axis
REFUSED = 1e2  # where an artefact that raised is drawn
SHAPE = 70.0  # size of a marker


def draw_parity(report: Sequence[ArtefactParity]) -> Figure:
    """Largest error of each artefact at each shape, and its accuracy with its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.0 + 0.42 * len(report)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    cases = [case.case for case in report[0].cases]
    for place, name in enumerate(cases):
        errors = [row.cases[place].max_abs_error for row in report]
        left.scatter(
            np.clip(errors, FLOOR, REFUSED),
            np.arange(len(report)) + (place - (len(cases) - 1) / 2) * 0.09,
            s=SHAPE / 3,
            color=SHADES[place % len(SHADES)],
            label=name,
        )
    left.axvline(1e-4, color=RED, linewidth=1, linestyle="--")
    left.text(1.2e-4, -0.62, "limit of float32", color=RED, fontsize=8, va="center")
    left.set(xscale="log", xlim=(FLOOR / 3, REFUSED * 3))
    left.set_xlabel("largest error of a logit (0 at the left edge, raised or NaN at the right)")
    left.set_yticks(range(len(report)), [_named(row) for row in report])
    left.set_ylim(len(report) - 0.4, -0.9)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside lower left")
    for place, row in enumerate(report):
        low, high = row.accuracy_interval
        right.plot([low, high], [place, place], color=GREY, linewidth=3, solid_capstyle="butt")
        colour = GREEN if row.passed else RED
        right.scatter(row.accuracy, place, color=colour, s=SHAPE / 2, zorder=3)
    right.scatter([], [], color=GREEN, s=SHAPE / 2, label="passes the gate")
    right.scatter([], [], color=RED, s=SHAPE / 2, label="refused")
    right.set_xlabel("accuracy on the labelled texts, 95 % interval")
    figure.legend(
        *right.get_legend_handles_labels(), fontsize=8, ncols=1, loc="outside lower right"
    )
    for axes in (left, right):
        axes.grid(axis="x", color="#edf2f7")
        axes.set_axisbelow(True)
    return figure


def _named(row: ArtefactParity) -> str:
    return row.name if row.bytes is None else f"{row.name}\n{row.bytes / 1e6:.1f} MB"


def draw_optimized_graphs(graphs: Mapping[str, Sequence[OptimizedGraph]]) -> Figure:
    """Nodes that run at each optimization level, for each file.

    Parameters
    ----------
    graphs
        Name of a file to its :func:`ort_options.optimized_graphs`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(graphs)
    for place, (name, levels) in enumerate(graphs.items()):
        at = np.arange(len(levels)) + (place - (len(graphs) - 1) / 2) * width
        bars = axes.bar(
            at, [each.nodes for each in levels], width * 0.94,
            color=SHADES[2 * place % len(SHADES)], label=name,
        )  # fmt: skip
        axes.bar_label(bars, fontsize=8)
    first = next(iter(graphs.values()))
    axes.set_xticks(range(len(first)), [each.level for each in first])
    axes.set(xlabel="graph optimization level of the session", ylabel="nodes that run")
    axes.margins(y=0.12)
    axes.legend(fontsize=8)
    return figure


def draw_operator_times(profiles: Sequence[Profile], *, shown: int = 7) -> Figure:
    """Time of a run by operator, one bar a model.

    Parameters
    ----------
    profiles
        Of :func:`ort_profile.profile_model` on the same inputs.
    shown
        Operators with a colour of their own, those with the most time in any bar.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.9 + 0.55 * len(profiles)), layout="constrained")
    axes = figure.subplots()
    most: dict[str, float] = {}
    for profile in profiles:
        for operator, seconds in profile.by_operator.items():
            most[operator] = max(seconds, most.get(operator, 0.0))
    named = sorted(most, key=lambda operator: -most[operator])[:shown]
    rows = np.arange(len(profiles))
    left = np.zeros(len(profiles))

    def segment(label: str, seconds: list[float], colour: str, hatch: str = "") -> None:
        nonlocal left
        widths = 1000 * np.array(seconds)
        axes.barh(
            rows, widths, 0.66, left=left, color=colour, label=label, hatch=hatch,
            edgecolor="white", linewidth=0.7,
        )  # fmt: skip
        left = left + widths

    for place, operator in enumerate(named):
        times = [profile.by_operator.get(operator, 0.0) for profile in profiles]
        segment(operator, times, SHADES[place % len(SHADES)])
    rest = [
        sum(each for name, each in profile.by_operator.items() if name not in named)
        for profile in profiles
    ]
    segment("other operators", rest, GREY)
    segment("outside every kernel", [each.overhead_s for each in profiles], "#e2e8f0", "///")
    for place, profile in enumerate(profiles):
        kernels = sum(profile.kernels.values())
        axes.text(left[place], place, f"  {left[place]:.2f} ms, {kernels:.0f} kernels", va="center")
    axes.set_yticks(rows, [profile.name for profile in profiles])
    axes.set_xlim(0, 1.3 * left.max())
    axes.set_xlabel("time of a run (ms), mean, profiling on")
    axes.invert_yaxis()
    figure.legend(fontsize=8, ncols=5, loc="outside lower center")
    return figure
