"""Groups that several columns make together, and what their margins hide.

A model can treat women like men and old people like young ones, and old women worse than either.
Intersections are smaller than margins, so each gets its interval, a correction for their number,
and a rate drawn towards the others'; those with too few rows are said to be so, not dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import fisher_exact

from common.errors import InputError, require
from labs.lab3_fairness.multiple_testing import holm
from labs.lab3_fairness.row_metrics import RowMetric, check_columns
from labs.lab3_fairness.score_intervals import wilson
from labs.lab3_fairness.shrinkage import Shrunk, beta_binomial_shrinkage

Interval = tuple[float, float]

SEPARATOR = " x "
NOT_ENOUGH = "not enough data"
WORSE, LOWER, NO_WORSE = "worse than every margin", "worse, within chance", ""


@dataclass(frozen=True)
class Intersection:
    """One metric on one intersection, beside its margins.

    Attributes
    ----------
    group : str
        Its values joined by " x ".
    n, n_counted : int
        Rows, and those that enter the metric.
    value, ci95
        The raw rate and its Wilson interval; NaN without enough data.
    shrunk, shrunk_ci95
        The rate drawn towards those of the other intersections; for all, the smallest too.
    margins : dict
        Column to the rate of everybody who has this value of it.
    expected : float
        The rate if the margins' distances to the overall rate simply added up (as logits).
    p_value : float
        Holm-corrected, one-sided. Of the intersection against the rest of each margin (Fisher)
        the largest: it claims to be worse than every one. NaN where it is not, or without
        enough data.
    verdict : str
        "worse than every margin" (p <= 0.05), "worse, within chance", "not enough data", or
        empty.
    """

    group: str
    n: int
    n_counted: int
    value: float
    ci95: Interval
    shrunk: float
    shrunk_ci95: Interval
    margins: Mapping[str, float]
    expected: float
    p_value: float
    verdict: str


@dataclass(frozen=True)
class IntersectionReport:
    """A metric over all intersections of some columns that have rows."""

    metric: str
    columns: tuple[str, ...]
    overall: float
    intersections: tuple[Intersection, ...]
    shrinkage: Shrunk

    def table(self) -> pd.DataFrame:
        """One row an intersection, the fields of :class:`Intersection`, margins as columns."""
        rows = []
        for each in self.intersections:
            row = {field.name: getattr(each, field.name) for field in fields(each)}
            for name in ("ci95", "shrunk_ci95"):
                stem = name.removesuffix("ci95")
                row[f"{stem}low"], row[f"{stem}high"] = row.pop(name)
            margins = row.pop("margins")
            rows.append(row | {f"margin_{column}": value for column, value in margins.items()})
        return pd.DataFrame(rows)

    def worse(self) -> tuple[Intersection, ...]:
        """Those that are worse than every margin by more than chance."""
        return tuple(each for each in self.intersections if each.verdict == WORSE)

    @property
    def n_too_small(self) -> int:
        """How many intersections have too few rows for a verdict."""
        return sum(each.verdict == NOT_ENOUGH for each in self.intersections)


def age_bands(age: ArrayLike, edges: Sequence[int] = (25, 40, 60)) -> NDArray[np.object_]:
    """Ages in whole years as text: "under 25", "25-39", "40-59", "60 and over".

    Raises
    ------
    InputError
        For a missing age, or edges that do not increase.
    """
    years = np.asarray(age, dtype=float)
    if np.isnan(years).any():
        row = int(np.flatnonzero(np.isnan(years))[0])
        raise InputError(f"age[{row}] is missing; give such rows a band of their own")
    increasing = len(edges) > 0 and all(a < b for a, b in pairwise(edges))
    require(increasing, "edges", tuple(edges), "must increase", "try (25, 40, 60)")
    names = [f"under {edges[0]}"]
    names += [f"{low}-{high - 1}" for low, high in pairwise(edges)]
    names.append(f"{edges[-1]} and over")
    return np.array(names, dtype=object)[np.searchsorted(edges, years, side="right")]


def intersect(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.object_]:
    """The intersection that each row is in, as text, [n].

    Parameters
    ----------
    table
        With the sensitive columns, none of their values missing.
    columns
        At least two.

    Raises
    ------
    InputError
        For fewer than two columns, one that the table lacks, or a missing value.
    """
    require(len(columns) >= 2, "columns", tuple(columns), "must name two or more", "try sex, race")
    absent = [column for column in columns if column not in table.columns]
    if absent:
        known = ", ".join(map(str, table.columns))
        raise InputError(f"no column {absent[0]!r} in the table; it has {known}")
    for column in columns:
        missing = int(table[column].isna().sum())
        if missing:
            raise InputError(
                f"{column} is missing in {missing} of {len(table)} rows; give them a value of "
                "their own, such as 'unknown', or leave the rows out"
            )
    text = [table[column].astype(str).to_numpy(dtype=object) for column in columns]
    return np.array([SEPARATOR.join(row) for row in zip(*text)], dtype=object)


def pool_small(
    groups: ArrayLike, *, min_rows: int = 50, name: str = "all other groups"
) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """Put the groups of fewer than ``min_rows`` rows into one, and say which they were.

    Pooling keeps their rows in the audit, at the price of a group that nobody belongs to: what
    harms one of its members may be hidden by the others. Hence a choice, and never a default.

    Returns
    -------
    groups : object array of shape [n]
    pooled : tuple of str
        The groups that were; none where fewer than two are small.

    Raises
    ------
    InputError
        When a group already has that name.
    """
    values = pd.Series(np.asarray(groups, dtype=object)).astype(str)
    sizes = values.value_counts()
    if name in sizes.index:
        raise InputError(f"a group is already called {name!r}; give the pool another name")
    small = tuple(sorted(sizes.index[sizes < min_rows]))
    if len(small) < 2:
        return values.to_numpy(dtype=object), ()
    return values.where(~values.isin(small), name).to_numpy(dtype=object), small


def intersection_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    table: pd.DataFrame,
    columns: Sequence[str],
    metric: RowMetric,
    *,
    worse: Literal["low", "high"] = "low",
    min_rows: int = 50,
) -> IntersectionReport:
    """A metric on every intersection of some columns, beside the margins it belongs to.

    Parameters
    ----------
    y_true, y_pred : arrays of shape [n]
    table, columns
        As for :func:`intersect`.
    metric
        A share of rows, such as ``true_positive_rate``.
    worse
        "low" where a low value harms (selection, TPR), "high" where a high one does (FPR).
    min_rows
        An intersection in which the metric counts fewer rows has no verdict.

    Raises
    ------
    InputError
        Beside those of :func:`intersect`: lengths that differ, a metric that is no share of
        rows, or fewer than three intersections.

    References
    ----------
    Berger: Multiparameter Hypothesis Testing and Acceptance Sampling, Technometrics 24, 1982
    (every one of several must hold: the largest p-value).
    """
    require(worse in ("low", "high"), "worse", worse, "must be 'low' or 'high'")
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    if not len(truth) == len(predicted) == len(table):
        raise InputError(
            f"y_true has {len(truth)} rows, y_pred {len(predicted)}, the table {len(table)}"
        )
    check_columns(metric.name, metric, truth, predicted)
    counted = np.asarray(metric.where(truth, predicted), dtype=bool)
    ones = np.where(counted, metric.value(truth, predicted), 0.0)
    if not np.isin(ones, (0.0, 1.0)).all():
        raise InputError(f"{metric.name} is no share of rows here; use group_metrics for means")
    require(bool(counted.any()), "rows that count", 0, "must be above 0")
    labels = intersect(table, columns)
    frame = pd.DataFrame({"n": 1, "counted": counted.astype(int), "hits": ones})
    sums = frame.groupby(labels, sort=True).sum()
    hits, n = sums["hits"].to_numpy(float), sums["counted"].to_numpy(float)
    overall = float(frame["hits"].sum() / frame["counted"].sum())
    by_column = {column: frame.groupby(table[column].to_numpy()).sum() for column in columns}
    first = pd.Series(np.arange(len(labels))).groupby(labels, sort=True).first().to_numpy()
    members = {column: table[column].to_numpy()[first] for column in columns}
    margin_hits = {c: by_column[c].loc[members[c], "hits"].to_numpy(float) for c in columns}
    margin_n = {c: by_column[c].loc[members[c], "counted"].to_numpy(float) for c in columns}
    with np.errstate(invalid="ignore", divide="ignore"):
        value = hits / n
        margins = np.array([margin_hits[c] / margin_n[c] for c in columns])
        # Half a row each way keeps the logit of a margin of 0 or 1 finite.
        logits = np.array([_logit(margin_hits[c], margin_n[c]) for c in columns])
        base = _logit(np.array(frame["hits"].sum()), np.array(frame["counted"].sum()))
        expected = 1 / (1 + np.exp(-(base + (logits - base).sum(axis=0))))
    sign = 1.0 if worse == "low" else -1.0
    enough = n >= min_rows
    lower = enough & (sign * (margins - value) > 0).all(axis=0)
    p = np.full(len(n), np.nan)
    side: Literal["less", "greater"] = "less" if worse == "low" else "greater"
    for at in np.flatnonzero(enough):
        p[at] = max(
            _one_sided(hits[at], n[at], margin_hits[c][at], margin_n[c][at], side) for c in columns
        )
    if enough.any():
        # Every intersection that could have been found worse counts as a test.
        p[enough] = holm(p[enough])
    shrinkage = beta_binomial_shrinkage(hits, n)
    low, high = wilson(hits, n)
    rows = []
    for number, group in enumerate(sums.index.to_list()):
        found = WORSE if p[number] <= 0.05 else LOWER
        rows.append(
            Intersection(
                group=str(group),
                n=int(sums["n"].iloc[number]),
                n_counted=int(n[number]),
                value=float(value[number]) if enough[number] else float("nan"),
                ci95=(float(low[number]), float(high[number]))
                if enough[number]
                else (np.nan, np.nan),
                shrunk=float(shrinkage.values[number]),
                shrunk_ci95=(float(shrinkage.low[number]), float(shrinkage.high[number])),
                margins={c: float(margins[place, number]) for place, c in enumerate(columns)},
                expected=float(expected[number]),
                p_value=float(p[number]) if lower[number] else float("nan"),
                verdict=(found if lower[number] else NO_WORSE) if enough[number] else NOT_ENOUGH,
            )
        )
    return IntersectionReport(metric.name, tuple(columns), overall, tuple(rows), shrinkage)


def _one_sided(
    hits: float, n: float, of_hits: float, of_n: float, side: Literal["less", "greater"]
) -> float:
    """Fisher's p-value of ``hits`` of n against the rest of the margin ``of_hits`` of ``of_n``."""
    cells = np.array([[hits, n - hits], [of_hits - hits, of_n - n - (of_hits - hits)]], dtype=int)
    return float(fisher_exact(cells, alternative=side).pvalue)


def _logit(hits: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log((hits + 0.5) / (n - hits + 0.5))
    return result
