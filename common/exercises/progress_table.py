"""The tables of ``course progress``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.exercises.grading import FAILED, PASSED
from common.exercises.progress import NOT_STARTED, Deliverable, Row, number

COLOURS: dict[str, str] = {PASSED: "green", FAILED: "red", NOT_STARTED: "dim"}


def show(rows: Sequence[Row], measured: Sequence[Deliverable], following: str | None) -> None:
    """Print what was passed per lab, each exercise, and the deliverables of the newest runs."""
    console = Console(highlight=False)
    labs = Table("lab", "exercises passed", "points", title="Public tests", title_justify="left")
    for lab in dict.fromkeys(row.entry.lab for row in rows):
        own = [row for row in rows if row.entry.lab == lab]
        passed = [row for row in own if row.state == PASSED]
        points = f"{sum(r.entry.points for r in passed)} of {sum(r.entry.points for r in own)}"
        labs.add_row(lab, f"{len(passed)} of {len(own)}", points)
    console.print(labs)
    exercises = Table("exercise", "title", "points", "state")
    for row in rows:
        colour = COLOURS.get(row.text, "yellow")
        points, state = str(row.entry.points), f"[{colour}]{escape(row.text)}[/]"
        exercises.add_row(row.entry.id, escape(row.entry.title), points, state)
    console.print(exercises)
    _show_deliverables(measured, console)
    if following:
        console.print(f"next: {following}")


def _show_deliverables(measured: Sequence[Deliverable], console: Console) -> None:
    if not measured:
        console.print("No run has measured a deliverable yet: `make lab1` runs the first lab.")
        return
    table = Table("package", "deliverable", "measured", "outcome", title="Newest runs")
    for row in measured:
        value = number(row.measured)
        if row.passed is None:
            outcome = f"[yellow]not shown[/]: {escape(row.reason)}"
        else:
            outcome = "[green]passed[/]" if row.passed else "[red]missed[/]"
        package = row.lab + (" (your code)" if row.mine else "")
        table.add_row(package, escape(row.claim), value, outcome)
    console.print(table)
