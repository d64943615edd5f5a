"""The table a run ends with, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.hardware import detect

OUTCOMES = {True: ("passed", "green"), False: ("missed", "red"), None: ("not shown", "yellow")}


def number(value: float | int | None) -> str:
    """A number as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:,.4g}"


def show(results: dict[str, Any], folder: Path) -> None:
    """Print deliverables, metrics and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)  # names may hold [brackets]
    if not console.is_terminal:
        console.width = 120
    console.print()
    metrics = Table(title=f"{results['lab']}: measured in this run", title_justify="left")
    # Where there is no room, names fold and units wrap; no number is cut.
    metrics.add_column("metric", overflow="fold", min_width=10)
    metrics.add_column("value", justify="right", min_width=10)
    for column in ("95 % interval", "n"):
        metrics.add_column(column, justify="right", no_wrap=True)
    for name, metric in results["metrics"].items():
        if name.startswith("time."):
            continue
        ci = metric.get("ci95")
        unit = "" if metric["unit"] in ("ratio", "count") else f" {metric['unit']}"
        metrics.add_row(
            name,
            f"{number(metric['value'])}{unit}",
            f"{number(ci[0])} to {number(ci[1])}" if ci else "",
            number(metric.get("n")) if metric.get("n") else "",
        )
    console.print(metrics)
    if results["deliverables"]:
        scorecard = Table(title="Scorecard", title_justify="left")
        scorecard.add_column("id", no_wrap=True)
        scorecard.add_column("claim")
        scorecard.add_column("measured", justify="right", no_wrap=True)
        scorecard.add_column("outcome", no_wrap=True)
        scorecard.add_column("reason")
        for row in results["deliverables"]:
            word, colour = OUTCOMES[row["passed"]]
            scorecard.add_row(
                row["id"],
                row["claim"],
                number(row["measured"]),
                Text(word, style=colour),
                row["reason"],
            )
        console.print(scorecard)
    if results["mine"]:
        console.print("This run used your own code, named at its start.")
    console.print(f"{detect().sentence}; {results['duration_s']:.0f} s")
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
