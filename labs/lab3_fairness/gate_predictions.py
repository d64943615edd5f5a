"""The table a gate judges, read from a CSV file that nobody vouches for."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab3_fairness.gate_policy import Columns
from labs.lab3_fairness.untrusted import safe, shown

JOINT = " & "  # between the names of an intersection
MISSING = ("", "?", "nan", "nat", "na", "n/a", "#n/a", "<na>", "none", "null", "nil")


@dataclass(frozen=True)
class Predictions:
    """What the gate judges: label, decision and group of each of n people.

    Attributes
    ----------
    labels, decisions : int64 arrays of shape [n], 0 or 1
    groups : object array of shape [n], text
    """

    labels: NDArray[np.int64]
    decisions: NDArray[np.int64]
    groups: NDArray[np.object_]


def read_predictions(path: Path | str, columns: Columns) -> Predictions:
    """Read the columns a policy names from a CSV file that nobody vouches for.

    Parameters
    ----------
    path
        UTF-8, comma-separated, with a header. Other columns are ignored.
    columns
        Of the policy.

    Raises
    ------
    InputError
        Naming file, line and value: unreadable, no CSV, a column missing or twice, a row of
        another length, a missing value or a marker of one ("?", "N/A", "None"), a group whose
        name would act in a log, a label or prediction that is not 0 or 1, a score that is no
        finite number, no rows.
    """
    labels: list[int] = []
    decisions: list[int] = []
    groups: list[str] = []
    joined: dict[str, tuple[str, ...]] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            at = _positions(header, columns, path)
            for row in rows:
                where = f"{path} line {rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"{where}: {len(row)} fields, the header has {len(header)}")
                cells = {name: row[place].strip() for name, place in at.items()}
                for name, cell in cells.items():
                    kept = columns.keep_missing and name in columns.group and cell
                    if cell.lower() in MISSING and not kept:
                        raise InputError(
                            f"{where}: {name} = {cell!r} is missing; leave the row out, or give "
                            "the missing a group of their own, such as unknown"
                            + _keep_hint(name, cell, columns)
                        )
                labels.append(_binary(cells[columns.label], columns.label, where))
                decisions.append(_decision(cells, columns, where))
                parts = tuple(safe(cells[name], f"{where}: {name}") for name in columns.group)
                group = JOINT.join(parts)
                if joined.setdefault(group, parts) != parts:
                    raise InputError(f"{where}: group {shown(group)} is two groups; rename one")
                groups.append(group)
    except OSError as error:
        raise InputError(f"predictions {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"predictions {path} is no CSV in UTF-8: {error}") from None
    require(len(labels) > 0, f"predictions {path}: rows", 0, "must be at least 1")
    return Predictions(
        np.array(labels, dtype=np.int64),
        np.array(decisions, dtype=np.int64),
        np.array(groups, dtype=object),
    )


def _positions(header: Sequence[str], columns: Columns, path: Path | str) -> dict[str, int]:
    names = [name.strip() for name in header]
    for name in columns.needed:
        if name not in names:
            has = ", ".join(map(shown, names))[:500]
            raise InputError(f"predictions {path}: no column {name!r}; the file has {has}")
        if names.count(name) > 1:
            raise InputError(f"predictions {path}: column {name!r} stands there twice")
    return {name: names.index(name) for name in columns.needed}


def _keep_hint(name: str, cell: str, columns: Columns) -> str:
    if name not in columns.group or not cell:
        return ""
    return f'; if {cell!r} is the name of a group, say missing_group = "keep" under [columns]'


def _decision(cells: Mapping[str, str], columns: Columns, where: str) -> int:
    if columns.prediction is not None:
        return _binary(cells[columns.prediction], columns.prediction, where)
    assert columns.score is not None
    assert columns.threshold is not None
    text = cells[columns.score]
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{where}: {columns.score} = {shown(text)} must be a finite number")
    return int(score >= columns.threshold)


def _binary(text: str, name: str, where: str) -> int:
    value = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}.get(text)
    if value is None:
        raise InputError(f"{where}: {name} = {shown(text)} must be 0 or 1")
    return value
