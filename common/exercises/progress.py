"""What a learner has passed: ``work/.progress.json``, and the deliverables the runs measured."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exercises.catalog import Entry, locate, read_source
from common.exercises.grading import NOT_RUN, PASSED
from common.results import write_json

STATE_FILE = ".progress.json"
NOT_STARTED = "not started"
NOT_CHECKED = "not checked"
CHANGED = "changed since it passed"


@dataclass(frozen=True)
class Deliverable:
    """One row of ``deliverables`` in a run's results.json, and the run it comes from."""

    lab: str
    claim: str
    measured: float | None
    passed: bool | None
    reason: str
    mine: bool


def fingerprint(source: str, name: str) -> str | None:
    """sha256 of the text of one definition, or None when the source lacks it or does not parse."""
    try:
        node = locate(source, name)
    except SyntaxError:
        return None
    if node is None:
        return None
    text = ast.get_source_segment(source, node) or ""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprints(entries: list[Entry], work: Path) -> dict[str, str | None]:
    """The fingerprint of every exercise as the learner's files are now."""
    found: dict[str, str | None] = {}
    for entry in entries:
        file = entry.work_file(work)
        source = read_source(file) if file.is_file() else ""
        found[entry.id] = fingerprint(source, entry.name)
    return found


def load(work: Path) -> dict[str, dict[str, str]]:
    """What earlier checks recorded: exercise id to outcome, sha256 and time."""
    path = work / STATE_FILE
    if not path.is_file():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): dict(value) for key, value in state["exercises"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and check again") from error


def record(work: Path, outcomes: dict[str, str], sources: dict[str, str | None]) -> None:
    """Add the outcomes of a check, for the sources as they were before it; written atomically."""
    state = load(work)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for exercise, outcome in outcomes.items():
        if outcome != NOT_RUN:
            sha256 = sources.get(exercise) or ""
            state[exercise] = {"outcome": outcome, "sha256": sha256, "checked_at": now}
    write_json(work / STATE_FILE, {"schema": 1, "exercises": state})


def standing(
    entry: Entry, state: dict[str, dict[str, str]], current: str | None, work: Path
) -> str:
    """``passed``, ``failed``, ``changed since it passed``, ``not checked`` or ``not started``."""
    known = state.get(entry.id)
    if not entry.work_file(work).is_file():
        return NOT_STARTED
    if known is None:
        return NOT_CHECKED
    if known.get("outcome") == PASSED and known.get("sha256") != current:
        return CHANGED
    return known.get("outcome", NOT_CHECKED)


def deliverables(runs: Path) -> list[Deliverable]:
    """The deliverables of the newest run of every package below ``runs``."""
    found: list[Deliverable] = []
    for path in sorted(runs.glob("*/latest/results.json")):
        try:
            results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rows = [
                Deliverable(
                    lab=results["lab"],
                    claim=row["claim"],
                    measured=row["measured"],
                    passed=row["passed"],
                    reason=row["reason"],
                    mine=results["mine"],
                )
                for row in results["deliverables"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no results.json of a run ({error!r})") from error
        found += rows
    return found
