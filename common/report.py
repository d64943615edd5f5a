"""The self-contained HTML report of a run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.scorecard import number


@dataclass(frozen=True)
class FigureFile:
    """A figure of the run and what it shows."""

    path: Path
    caption: str


def render(
    results: dict[str, Any],
    *,
    title: str,
    machine: str,
    figures: Sequence[FigureFile],
    notes: Sequence[str],
    reading: Sequence[str],
    overlaid: Sequence[str],
) -> str:
    """The report as one HTML page: scorecard, figures, metrics, data, configuration, reading."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    outcomes = [row["passed"] for row in results["deliverables"]]
    encoded = [
        {"png": base64.b64encode(figure.path.read_bytes()).decode(), "caption": figure.caption}
        for figure in figures
    ]
    # A metric without its optional fields renders as if they were empty.
    optional = {"n": None, "ci95": None, "how": "", "reason": ""}
    shown = results | {
        "metrics": {name: optional | metric for name, metric in results["metrics"].items()}
    }
    return environment.get_template("report.html.j2").render(
        r=shown,
        title=title,
        machine=machine,
        tallies=[
            (outcomes.count(True), "passed", "passed"),
            (outcomes.count(False), "missed", "missed"),
            (outcomes.count(None), "open", "not shown at this scale or on this machine"),
        ],
        figures=encoded,
        notes=notes,
        reading=reading,
        overlaid=overlaid,
        times=[
            (name.removeprefix("time.").removesuffix("_s").replace("_", " "), metric["value"])
            for name, metric in results["metrics"].items()
            if name.startswith("time.")
        ],
    )
