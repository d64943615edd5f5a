"""The validation table as a picture: what each method promised, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labs.lab6_online_eval.validation import ALPHA, COVERAGE, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_END = 0.6
OFFERED, REFUSED, FLAWED = "#1b6ca8", "#c0392b", "#8a8a8a"


def draw_validation(verdicts: Sequence[Verdict]) -> Figure:
    """False-positive rate (left, logarithmic) and coverage (right), one row a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.27 * len(verdicts) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    order = sorted(verdicts, key=lambda each: (each.flawed, each.sequential, each.name))[::-1]
    for row, each in enumerate(order):
        colour = FLAWED if each.flawed else OFFERED if each.offered else REFUSED
        marker = "D" if each.sequential else "o"
        for axes, value, interval in (
            (left, each.fpr, each.fpr_ci),
            (right, each.coverage, each.coverage_ci),
        ):
            axes.plot(interval, (row, row), color=colour, linewidth=1.5)
            at = value if axes is left else max(value, LEFT_END + 0.01)
            axes.plot(at, row, marker if at == value else "<", color=colour, markersize=5)
    left.set_yticks(range(len(order)), [each.name for each in order], fontsize=8)
    left.axvline(ALPHA, color="black", linewidth=0.8, linestyle="--")
    left.set_xscale("log")
    left.set_xticks(
        [0.01, 0.02, 0.05, 0.1, 0.25, 1.0], ["1 %", "2 %", "5 %", "10 %", "25 %", "100 %"]
    )
    left.set_xlabel("false positives among A/A experiments")
    right.axvspan(*COVERAGE, color="#d9ead3", zorder=0)
    right.set_xlim(LEFT_END, 1.005)
    right.set_xlabel("intervals that hold the true effect (95 % promised)")
    handles = [
        left.plot([], [], "o", color=OFFERED)[0],
        left.plot([], [], "D", color=OFFERED)[0],
        left.plot([], [], "o", color=FLAWED)[0],
        left.plot([], [], "o", color=REFUSED)[0],
    ]
    labels = ["offered", "offered, sequential", "a classic mistake", "refused"]
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure
