"""Figures of quantization: the batch by precision table, accuracy beside size, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.layer_sensitivity import Sensitivity
    from labs.lab4_model_serving.paired_accuracy import PrecisionAccuracy
    from labs.lab4_model_serving.precision_crossover import Crossover

LABELS = {
    "fp32": "float32",
    "fp16": "float16",
    "int8_dynamic": "INT8 dynamic",
    "int8_static": "INT8 static",
    "int4": "INT4, level unset",
    "int4_level4": "INT4, level 4",
}
COLOURS = {
    "fp32": "#444444",
    "fp16": "#228833",
    "int8_dynamic": "#4477aa",
    "int8_static": "#66ccee",
    "int4": "#ee6677",
    "int4_level4": "#aa3377",
}
MARKERS = {
    "fp32": "o",
    "fp16": "P",
    "int8_dynamic": "s",
    "int8_static": "D",
    "int4": "v",
    "int4_level4": "^",
}


def draw_crossover(result: Crossover, *, title: str = "Time an item by batch size") -> Figure:
    """Microseconds an item against batch size, a line a precision; bars are the quartiles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(result.precisions):
        cells = [result.cell(name, batch) for batch in result.batches]
        median = [each.median_us for each in cells]
        spread = [
            [each.median_us - each.low_us for each in cells],
            [each.high_us - each.median_us for each in cells],
        ]
        shift = 1 + 0.035 * (i - (len(result.precisions) - 1) / 2)  # so that bars do not overlap
        axes.errorbar(
            [batch * shift for batch in result.batches],
            median,
            yerr=spread,
            label=LABELS.get(name, name),
            color=COLOURS.get(name),
            marker=MARKERS.get(name, "o"),
            markersize=5,
            capsize=2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(result.batches, [str(batch) for batch in result.batches])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.set_xlabel("batch size")
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    axes.set_ylabel(f"microseconds an item ({threads})")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def draw_accuracy_and_size(rows: Sequence[PrecisionAccuracy], *, max_drop: float = 0.005) -> Figure:
    """Left: the paired drop in accuracy with its 95 % interval, and the limit; right: the bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.5 * len(rows) + 1.6), layout="constrained")
    drop, size = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    names = [LABELS.get(row.precision, row.precision) for row in rows]
    for i, row in enumerate(rows):
        pair, colour = row.against_fp32, COLOURS.get(row.precision)
        if i:
            low, high = pair.ci95
            drop.plot([100 * low, 100 * high], [i, i], color=colour, linewidth=2)
        drop.plot([100 * pair.drop], [i], "o", color=colour)
        size.barh(i, row.bytes / 1e6, color=colour)
        size.text(row.bytes / 1e6, i, f" {row.bytes / 1e6:.1f}", va="center", fontsize=8)
    drop.axvline(100 * max_drop, color="black", linestyle="--", linewidth=1)
    drop.text(100 * max_drop, 0, "limit ", fontsize=8, va="center", ha="right")
    drop.axvline(0, color="grey", linewidth=0.8)
    drop.set_yticks(places, names)
    drop.set_ylim(len(rows) - 0.5, -0.7)
    drop.set_xlabel("drop against float32 (points, 95 % interval)")
    drop.set_title(f"Accuracy, {rows[0].against_fp32.n:,} texts", fontsize=10)
    size.set_xlabel("MB on disk")
    size.set_title("Size", fontsize=10)
    size.margins(x=0.15)
    for axes in (drop, size):
        axes.grid(True, axis="x", alpha=0.25)
    return figure


def draw_sensitivity(found: Sequence[Sensitivity]) -> Figure:
    """Relative error of the logits when one product alone is INT8, the largest on top."""
    from matplotlib.figure import Figure

    ordered = sorted(found, key=lambda each: each.relative_error)
    figure = Figure(figsize=(7, 0.26 * len(ordered) + 1.3), layout="constrained")
    axes = figure.subplots()
    errors = [100 * each.relative_error for each in ordered]
    axes.barh([each.layer for each in ordered], errors, color="#4477aa")
    for i, error in enumerate(errors):
        axes.text(error, i, f" {error:.2f}", va="center", fontsize=8)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("relative error of the logits (%)")
    axes.set_title("One product or look-up in INT8, all others in float32", fontsize=10)
    axes.grid(True, axis="x", alpha=0.25)
    return figure
