"""Which of hundreds of overlapping groups does a score treat wrongly, beyond what chance gives?

The largest of many noisy deviations is large without any fault. The audit compares it with the
largest deviation of simulated data sets in which the scores are right, groups and overlaps kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from common.errors import InputError, require
from labs.lab3_fairness.calibration import Floats, bin_codes, checked_scores, equal_width_edges

Condition = tuple[tuple[str, str], ...]
BLOCK = 4_000_000  # simulated labels held at once: about 32 MB


@dataclass(frozen=True)
class GroupFamily:
    """Groups of rows that may overlap, each a conjunction of ``column = value``.

    The first group has no condition and holds everybody.
    """

    conditions: tuple[Condition, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """One name a group, such as ``sex=Female & race=Black``."""
        return tuple(
            " & ".join(f"{column}={value}" for column, value in condition) or "everybody"
            for condition in self.conditions
        )

    def members(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Which row is in which group, [n, groups].

        Raises
        ------
        InputError
            For a column that the table lacks, or one with missing values.
        """
        columns = {column for condition in self.conditions for column, _ in condition}
        text = _as_text(table, sorted(columns))
        holds = {
            (column, value): (text[column] == value).to_numpy()
            for column, value in {pair for condition in self.conditions for pair in condition}
        }
        out = np.ones((len(table), len(self.conditions)), dtype=bool)
        for number, condition in enumerate(self.conditions):
            for pair in condition:
                out[:, number] &= holds[pair]
        return out


def overlapping_groups(
    table: pd.DataFrame, columns: Sequence[str], *, depth: int = 3, min_rows: int = 100
) -> GroupFamily:
    """Every conjunction of up to ``depth`` columns' values that at least ``min_rows`` rows meet.

    Parameters
    ----------
    table
        Rows with the columns, none missing; numbers must be cut into bands before.
    columns
        At least one.
    depth
        Columns in a conjunction.
    min_rows
        Of the table given; another table may have fewer.
    """
    require(depth >= 1, "depth", depth, "must be >= 1", "try 2")
    require(min_rows >= 1, "min_rows", min_rows, "must be >= 1", "try 100")
    require(len(columns) >= 1, "columns", list(columns), "must name at least one")
    text = _as_text(table, columns)
    conditions: list[Condition] = [()]
    for size in range(1, min(depth, len(columns)) + 1):
        for chosen in combinations(columns, size):
            counts = text.groupby(list(chosen)).size()
            for values in counts.index[counts >= min_rows]:
                pair = values if isinstance(values, tuple) else (values,)
                conditions.append(tuple(zip(chosen, pair)))
    return GroupFamily(tuple(conditions))


@dataclass(frozen=True)
class Sample:
    """Labels [n], scores [n] and membership [n, groups] of the same rows."""

    y_true: NDArray[np.int64]
    scores: Floats
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class GroupAudit:
    """How far each group's residuals lie from what a calibrated score would give.

    Attributes
    ----------
    n, mean_residual, z : arrays of shape [groups]
        ``z`` is the sum of residuals over its standard deviation when the scores are right.
        A group with fewer than ``min_rows`` rows, or with scores of 0 and 1 only, has NaN.
    cell_n, cell_mean_residual, cell_z : arrays of shape [groups, buckets]
        The same within buckets of the score.
    worst_z, worst_cell_z
        The largest ``|z|`` of a group, and of a cell.
    null_q95, cell_null_q95
        What the largest stays below in 95 % of data sets with right scores. It knows how many
        groups there are and how they overlap: what lies above it is a finding.
    p_value, cell_p_value
        Share of such data sets whose largest ``|z|`` is at least as large.
    rms
        Root mean square over cells, weighted by rows, of the mean residual without its noise.
    """

    names: tuple[str, ...]
    n: NDArray[np.int64]
    mean_residual: Floats
    z: Floats
    cell_n: NDArray[np.int64]
    cell_mean_residual: Floats
    cell_z: Floats
    worst_z: float
    null_q95: float
    p_value: float
    worst_cell_z: float
    cell_null_q95: float
    cell_p_value: float
    rms: float

    @property
    def worst_group(self) -> str:
        """The group with the largest ``|z|``."""
        return self.names[int(np.nanargmax(abs(self.z)))]

    @property
    def n_audited(self) -> int:
        """Groups with enough rows."""
        return int(np.sum(~np.isnan(self.z)))

    @property
    def n_flagged(self) -> int:
        """Groups beyond ``null_q95``: any is a finding at a family-wise 5 %."""
        return int(np.sum(abs(self.z) > self.null_q95))

    @property
    def n_cells_flagged(self) -> int:
        """Cells beyond ``cell_null_q95``."""
        return int(np.sum(abs(self.cell_z) > self.cell_null_q95))


def audit_groups(
    sample: Sample,
    names: Sequence[str],
    *,
    n_buckets: int = 10,
    min_rows: int = 50,
    n_simulations: int = 200,
    seed: int = 0,
) -> GroupAudit:
    """Calibration of every group and cell, against the largest deviation that chance gives.

    Parameters
    ----------
    sample
        Rows that neither the model nor its corrections were fitted on.
    names
        One a group.
    n_buckets
        Of equal width over the score.
    min_rows
        Smaller groups and cells are not judged.
    n_simulations, seed
        Data sets with labels drawn from the scores, for the null of the largest ``|z|``.

    Raises
    ------
    InputError
        For bad labels or scores, shapes that do not match, or no group with enough rows.
    """
    rows = checked_sample(sample)
    require(
        len(names) == rows.members.shape[1],
        "names",
        len(names),
        f"must be one a group, {rows.members.shape[1]}",
    )
    require(n_simulations >= 19, "n_simulations", n_simulations, "must be >= 19", "try 200")
    require(min_rows >= 2, "min_rows", min_rows, "must be >= 2", "try 50")
    y, s = rows.y_true.astype(float), rows.scores
    buckets = bin_codes(s, equal_width_edges(n_buckets))
    groups = sparse.csr_matrix(rows.members.T, dtype=np.float64)
    cells = _cell_matrix(groups, buckets, n_buckets)
    n = np.asarray(cells.sum(axis=1), dtype=np.float64).ravel()
    variance = cells @ (s * (1 - s))
    total = cells @ (y - s)
    squares = cells @ ((y - s) ** 2)
    judged = (n >= min_rows) & (variance > 0)
    shape = (len(names), n_buckets)
    group_n, group_variance = n.reshape(shape).sum(axis=1), variance.reshape(shape).sum(axis=1)
    group_judged = (group_n >= min_rows) & (group_variance > 0)
    require(
        bool(group_judged.any()),
        "rows of the largest group",
        int(group_n.max()),
        f"must be >= min_rows = {min_rows}, with scores between 0 and 1",
        "give more rows",
    )
    worst = np.empty((n_simulations, 2))
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // len(y))
    for start in range(0, n_simulations, step):
        stop = min(start + step, n_simulations)
        drawn = (rng.random((len(y), stop - start)) < s[:, None]) - s[:, None]
        sums = cells @ drawn
        by_group = sums.reshape(*shape, -1).sum(axis=1)
        worst[start:stop, 0] = _largest(by_group, group_variance, group_judged)
        worst[start:stop, 1] = _largest(sums, variance, judged)
    mean, z = _mean_and_z(total, n, variance, judged)
    group_total = total.reshape(shape).sum(axis=1)
    group_mean, group_z = _mean_and_z(group_total, group_n, group_variance, group_judged)
    noise = (squares[judged] / n[judged] - mean[judged] ** 2) / (n[judged] - 1)
    squared = np.average(mean[judged] ** 2 - noise, weights=n[judged]) if judged.any() else np.nan
    worst_z = float(np.nanmax(abs(group_z)))
    worst_cell_z = float(np.nanmax(abs(z))) if judged.any() else float("nan")
    return GroupAudit(
        names=tuple(names),
        n=group_n.astype(np.int64),
        mean_residual=group_mean,
        z=group_z,
        cell_n=n.reshape(shape).astype(np.int64),
        cell_mean_residual=mean.reshape(shape),
        cell_z=z.reshape(shape),
        worst_z=worst_z,
        null_q95=float(np.quantile(worst[:, 0], 0.95)),
        p_value=float((1 + np.sum(worst[:, 0] >= worst_z - 1e-12)) / (1 + n_simulations)),
        worst_cell_z=worst_cell_z,
        cell_null_q95=float(np.quantile(worst[:, 1], 0.95)),
        cell_p_value=float((1 + np.sum(worst[:, 1] >= worst_cell_z - 1e-12)) / (1 + n_simulations)),
        rms=float(np.sqrt(max(0.0, squared))) if np.isfinite(squared) else float("nan"),
    )


def census_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Adult's columns as the audit cuts them: sex, race, age band, schooling, marital status."""
    ages = pd.cut(table["age"], [0, 25, 35, 45, 55, 120], right=False).astype(str)
    school = pd.cut(table["education_num"], [0, 9, 10, 13, 17], right=False)
    schooling = school.cat.rename_categories(["no diploma", "high school", "college", "degree"])
    columns: Mapping[str, pd.Series] = {
        "sex": table["sex"],
        "race": table["race"],
        "age": ages,
        "schooling": schooling.astype(str),
        "marital": table["marital_status"],
    }
    return pd.DataFrame({name: column.to_numpy(dtype=object) for name, column in columns.items()})


def _as_text(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    for column in columns:
        if column not in table:
            raise InputError(f"no column {column!r}; the table has {list(table.columns)}")
    for column in columns:
        if table[column].isna().any():
            raise InputError(f"column {column!r} has missing values; call them 'unknown'")
    return table[list(columns)].astype(str)


def _cell_matrix(
    member_rows: sparse.csr_matrix, buckets: NDArray[np.intp], n_buckets: int
) -> sparse.csr_matrix:
    """Membership of rows in cells, [groups * buckets, n]."""
    pairs = member_rows.tocoo()
    cells = pairs.row * n_buckets + buckets[pairs.col]
    shape = (member_rows.shape[0] * n_buckets, member_rows.shape[1])
    return sparse.csr_matrix((np.ones(len(cells)), (cells, pairs.col)), shape=shape)


def _largest(sums: Floats, variance: Floats, judged: NDArray[np.bool_]) -> Floats:
    """The largest |z| of each simulated data set, [simulations], of sums [k, simulations]."""
    if not judged.any():
        return np.full(sums.shape[1], np.nan)
    return np.asarray(abs(sums[judged] / np.sqrt(variance[judged])[:, None]).max(axis=0))


def _mean_and_z(
    total: Floats, n: Floats, variance: Floats, judged: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    mean, z = np.full(len(n), np.nan), np.full(len(n), np.nan)
    mean[judged] = total[judged] / n[judged]
    z[judged] = total[judged] / np.sqrt(variance[judged])
    return mean, z


def checked_sample(sample: Sample) -> Sample:
    """The sample with arrays of the right types; InputError for bad values or shapes."""
    truth, chance = checked_scores(sample.y_true, sample.scores)
    members = np.asarray(sample.members)
    if members.ndim != 2 or len(members) != len(truth) or members.dtype != bool:
        raise InputError(
            f"members {members.shape} of {members.dtype} must be bool [{len(truth)}, groups]"
        )
    return Sample(truth.astype(np.int64), chance, members)
