"""What a learner has passed: ``work/.progress.json``, and the deliverables the runs measured."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import InputError
from common.exercises.catalog import Entry, locate, order, read_source
from common.exercises.explain import check_command, named, short
from common.exercises.grading import FAILED, NOT_RUN, PASSED
from common.exercises.overlay import in_student_repository
from common.exercises.prerequisites import prerequisites
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


@dataclass(frozen=True)
class Row:
    """An exercise, where the learner stands with it, and the one to pass first."""

    entry: Entry
    state: str
    blocked_by: Entry | None = None

    @property
    def text(self) -> str:
        return f"blocked by {named(self.blocked_by)}" if self.blocked_by else self.state


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


def record(
    work: Path,
    outcomes: Mapping[str, str],
    sources: Mapping[str, str | None],
    waits: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add the outcomes of a check, for the sources as they were before it; written atomically.

    ``waits`` are the exercises that met another's stub, and that other one.
    """
    state = load(work)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for exercise, outcome in outcomes.items():
        if outcome != NOT_RUN:
            sha256 = sources.get(exercise) or ""
            state[exercise] = {"outcome": outcome, "sha256": sha256, "checked_at": now}
            if exercise in waits:
                state[exercise]["blocked_by"] = waits[exercise]
    write_json(work / STATE_FILE, {"schema": 1, "exercises": state})


def standing(
    entry: Entry, state: dict[str, dict[str, str]], current: str | None, work: Path
) -> str:
    """``passed``, ``failed``, ``changed since it passed``, ``not checked`` or ``not started``."""
    known = state.get(entry.id)
    if not entry.work_file(work).is_file():
        return NOT_STARTED
    if known is None or known.get("blocked_by"):
        return NOT_CHECKED
    if known.get("outcome") == PASSED and known.get("sha256") != current:
        return CHANGED
    return known.get("outcome", NOT_CHECKED)


def rows(root: Path, entries: list[Entry], work: Path) -> list[Row]:
    """Where the learner stands with each exercise, and what blocks those that are not passed.

    ``entries`` are all exercises of one or more labs.
    """
    state, current = load(work), fingerprints(entries, work)
    stands = {entry.id: standing(entry, state, current[entry.id], work) for entry in entries}
    by_id = {entry.id: entry for entry in entries}
    begun = {key for key, stand in stands.items() if stand in (FAILED, NOT_CHECKED)}
    # Where there is no file of the learner's, ours is used: a stub in a student's repository.
    unsolved = set(stands) - _done(stands) if in_student_repository() else begun
    labs = {by_id[key].lab for key in begun}
    needs = prerequisites(root, [entry for entry in entries if entry.lab in labs], work)
    waits: dict[str, list[str]] = {}
    for key in begun:
        met = {state.get(key, {}).get("blocked_by", "")} & set(stands) - _done(stands)
        waits[key] = sorted(met | set(needs[key]) & unsolved, key=order)
    found = []
    for entry in entries:
        others = waits.get(entry.id, [])
        ready = [other for other in others if not waits.get(other)]
        first = (ready or others)[:1]
        found.append(Row(entry, stands[entry.id], by_id[first[0]] if first else None))
    return found


def _done(stands: Mapping[str, str]) -> set[str]:
    return {key for key, stand in stands.items() if stand in (PASSED, CHANGED)}


def next_command(rows: Sequence[Row], state: dict[str, dict[str, str]]) -> str | None:
    """What to do next: in the lab that was checked last, else in the first that is not done."""
    last = {row.entry.lab: state.get(row.entry.id, {}).get("checked_at", "") for row in rows}
    for row in rows:
        checked = state.get(row.entry.id, {}).get("checked_at", "")
        last[row.entry.lab] = max(last[row.entry.lab], checked)
    recent = max(last, key=lambda lab: last[lab], default="")
    for row in sorted(rows, key=lambda row: row.entry.lab != recent or not last[recent]):
        if row.state == PASSED or row.blocked_by:
            continue
        if row.state == NOT_STARTED:
            return f"course start {short(row.entry.lab)}"
        return check_command(row.entry)
    return None


def runs_folder(given: str | None, root: Path) -> Path:
    """The folder of runs, which need not be there; :class:`InputError` for one named in vain."""
    if given is None:
        return root / "runs"
    if not Path(given).is_dir():
        raise InputError(f"--runs {given}: there is no such folder; a lab that is run writes it")
    return Path(given).resolve()


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


def number(measured: float | None) -> str:
    """A measured value in four digits; nothing where nothing was measured."""
    if measured is None:
        return ""
    return f"{measured:,.0f}" if abs(measured) >= 1000 else f"{measured:.4g}"
