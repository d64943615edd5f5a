"""The tables of ``course progress``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.exercises.catalog import Entry
from common.exercises.grading import FAILED, PASSED
from common.exercises.progress import Deliverable, fingerprints, standing

COLOURS: dict[str, str] = {PASSED: "green", FAILED: "red"}


def show(
    entries: list[Entry],
    work: Path,
    state: dict[str, dict[str, str]],
    measured: list[Deliverable],
) -> None:
    """Print what was passed per lab, each exercise, and the deliverables of the newest runs."""
    console = Console(highlight=False)
    current = fingerprints(entries, work)
    stands = {entry.id: standing(entry, state, current[entry.id], work) for entry in entries}
    labs = Table("lab", "exercises passed", "points", title="Public tests", title_justify="left")
    for lab in dict.fromkeys(entry.lab for entry in entries):
        own = [entry for entry in entries if entry.lab == lab]
        passed = [entry for entry in own if stands[entry.id] == PASSED]
        points = f"{sum(e.points for e in passed)} of {sum(e.points for e in own)}"
        labs.add_row(lab, f"{len(passed)} of {len(own)}", points)
    console.print(labs)
    rows = Table("exercise", "title", "points", "state")
    for entry in entries:
        colour = COLOURS.get(stands[entry.id], "yellow")
        points = str(entry.points)
        state_text = f"[{colour}]{stands[entry.id]}[/]"
        rows.add_row(entry.id, escape(entry.title), points, state_text)
    console.print(rows)
    if not measured:
        console.print("No run has measured a deliverable yet: `make lab1` runs the first lab.")
        return
    table = Table("package", "deliverable", "measured", "outcome", title="Newest runs")
    for row in measured:
        value = "" if row.measured is None else f"{row.measured:.4g}"
        if row.passed is None:
            outcome = f"[yellow]not shown[/]: {escape(row.reason)}"
        else:
            outcome = "[green]passed[/]" if row.passed else "[red]missed[/]"
        package = row.lab + (" (your code)" if row.mine else "")
        table.add_row(package, escape(row.claim), value, outcome)
    console.print(table)
