"""The figure of the benchmark: five servers, one bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.bench import Row


def draw_bench(rows: Sequence[Row], limit_ms: float) -> Figure:
    """p99 by offered rate on the left, CPU time of 1,000 requests on the right."""
    from matplotlib.figure import Figure

    most_ms = 20 * limit_ms
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, row in enumerate(rows):
        tried = sorted(row.trials, key=lambda pair: pair[0])
        rates = [rate for rate, _ in tried]
        p99 = [min(result.summary.p99_ms, most_ms) for _, result in tried]
        left.plot(rates, p99, "o-", color=f"C{number}", markersize=4, label=row.name)
    left.axhline(limit_ms, linestyle="--", color="grey", label=f"limit, {limit_ms:g} ms")
    left.set_xscale("log")
    left.set_yscale("log")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter("")
    left.set_xlabel("offered rate (requests/s)")
    left.set_ylabel(f"p99 (ms), drawn up to {most_ms:,.0f}")
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    names = [row.name for row in rows]
    used = [row.cpu_s_per_1000 for row in rows]
    bars = right.barh(names, used, color=[f"C{number}" for number in range(len(rows))])
    right.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    right.invert_yaxis()
    right.margins(x=0.15)
    right.set_xlabel("CPU seconds for 1,000 requests")
    right.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return figure
