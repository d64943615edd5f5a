"""``course progress --html``: what was passed and measured, as one page that needs no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exercises.grading import FAILED, PASSED
from common.exercises.progress import CHANGED, NOT_STARTED, Deliverable, Row, number
from common.results import write_text

MARK = '<meta name="generator" content="course progress">'
"""Stands at the top of every page of ours; a file without it is not replaced."""
KINDS = {PASSED: "passed", FAILED: "failed", CHANGED: "open"}
"""How a state is coloured; what is not checked is no colour of its own."""


def render(
    rows: Sequence[Row], measured: Sequence[Deliverable], following: str | None, now: str = ""
) -> str:
    """The page as HTML.

    Parameters
    ----------
    following
        The command to run next.
    now
        When it was made (default: now, UTC).
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    labs = [
        _lab(lab, [row for row in rows if row.entry.lab == lab])
        for lab in dict.fromkeys(row.entry.lab for row in rows)
    ]
    packages: dict[tuple[str, bool], list[Deliverable]] = {}
    for each in measured:
        packages.setdefault((each.lab, each.mine), []).append(each)
    return environment.get_template("progress.html.j2").render(
        mark=MARK,
        made_at=now or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        following=following,
        labs=labs,
        kind=_kind,
        packages=packages,
        tally=_tally(rows, measured),
    )


def write(file: Path, page: str) -> None:
    """Write the page whole, or leave what is there.

    Raises
    ------
    InputError
        When ``file`` is no earlier page of ours, or its folder is not there.
    """
    if not file.parent.is_dir():
        raise InputError(f"--html {file}: there is no folder {file.parent}")
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file() or not _is_ours(file)):
        raise InputError(
            f"--html {file}: it is no page that `course progress` wrote, so it stays; "
            "name another file"
        )
    write_text(file, page)


def _is_ours(file: Path) -> bool:
    with file.open("rb") as stream:
        return MARK.encode() in stream.read(1000)


def _kind(row: Row) -> str:
    return "blocked" if row.blocked_by else KINDS.get(row.state, "none")


def _lab(lab: str, rows: Sequence[Row]) -> dict[str, Any]:
    points = sum(row.entry.points for row in rows)
    parts: dict[str, int] = {}
    for row in rows:
        parts[_kind(row)] = parts.get(_kind(row), 0) + row.entry.points
    return {
        "name": lab,
        "rows": rows,
        "points": points,
        "earned": parts.get("passed", 0),
        "passed": sum(row.state == PASSED for row in rows),
        "begun": any(row.state != NOT_STARTED for row in rows),
        "parts": [(kind, parts.get(kind, 0)) for kind in KINDS.values()],
    }


def _tally(rows: Sequence[Row], measured: Sequence[Deliverable]) -> list[tuple[str, str]]:
    passed = [row for row in rows if row.state == PASSED]
    mine = [each for each in measured if each.mine]
    return [
        (f"{len(passed)} of {len(rows)}", "exercises passed"),
        (
            f"{sum(r.entry.points for r in passed)} of {sum(r.entry.points for r in rows)}",
            "points of the public tests",
        ),
        (f"{sum(each.passed is True for each in mine)}", "deliverables passed on your code"),
    ]
