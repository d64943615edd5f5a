"""Resampling by counting: the bootstrap and the permutation null at the cost of a few counts.

Rows that are alike cannot be told apart by a metric, so a resampled data set is a table of
counts: how often each distinct (label, prediction) pair was drawn in each group. Drawing n rows
with replacement is one multinomial draw of those counts; dealing the groups out anew is a
multivariate hypergeometric draw. Both are exact, and both cost O(cells) a replicate, not O(n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab3_fairness.resampling import GapNull, blocks, gap, gaps_of
from labs.lab3_fairness.row_metrics import RowMetric

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Seed = int | np.random.Generator

MAX_CELLS = 64  # distinct (label, prediction) pairs; with more, drawing rows is as fast


@dataclass(frozen=True)
class Cells:
    """The rows of a data set as counts of distinct (label, prediction) pairs.

    Attributes
    ----------
    truth, predicted : arrays of shape [c]
        The pair that each cell stands for.
    counts : int64 array of shape [groups, c]
        Rows of each group in each cell; every row of the data set is in exactly one.
    """

    truth: NDArray[Any]
    predicted: NDArray[Any]
    counts: Counts


def cell_counts(
    y_true: NDArray[Any],
    y_pred: NDArray[Any],
    codes: NDArray[np.intp],
    n_groups: int,
    *,
    max_cells: int = MAX_CELLS,
) -> Cells | None:
    """Count the distinct (label, prediction) pairs of each group.

    Parameters
    ----------
    y_true, y_pred : arrays of shape [n]
    codes : int array of shape [n]
        The group of each row, 0 to ``n_groups - 1``.
    n_groups
        Rows of ``counts``.
    max_cells
        The most distinct pairs to count.

    Returns
    -------
    Cells or None
        None when there are more pairs than ``max_cells``, as with real-valued predictions.
    """
    true_codes, truths = pd.factorize(y_true, sort=True)
    pred_codes, predictions = pd.factorize(y_pred, sort=True)
    if max(len(truths), len(predictions)) > max_cells:
        return None
    pairs, present = pd.factorize(true_codes * len(predictions) + pred_codes, sort=True)
    if len(present) > max_cells:
        return None
    flat = np.bincount(codes * len(present) + pairs, minlength=n_groups * len(present))
    return Cells(
        truth=np.asarray(truths)[present // len(predictions)],
        predicted=np.asarray(predictions)[present % len(predictions)],
        counts=flat.reshape(n_groups, len(present)).astype(np.int64),
    )


def cell_weights(metrics: Sequence[RowMetric], cells: Cells) -> tuple[Floats, NDArray[np.bool_]]:
    """What each metric makes of a row of each cell.

    Returns
    -------
    values : float64 array of shape [m, c]
        0 where the metric does not count the cell.
    counted : bool array of shape [m, c]
    """
    truth, predicted = cells.truth, cells.predicted
    shape = len(metrics), len(truth)  # also of no metric
    counted = np.array([metric.where(truth, predicted) for metric in metrics], dtype=bool)
    values = np.array([metric.value(truth, predicted) for metric in metrics], dtype=float)
    counted = counted.reshape(shape)
    return np.where(counted, values.reshape(shape), 0.0), counted


def rates(counts: NDArray[Any], values: ArrayLike, counted: ArrayLike) -> Floats:
    """The mean of each metric over the rows that it counts.

    Parameters
    ----------
    counts : array of shape [..., c]
        Rows in each cell.
    values, counted : arrays of shape [m, c]
        As :func:`cell_weights` returns them.

    Returns
    -------
    float64 array of shape [..., m]
        NaN where a metric counts nobody.
    """
    weights = np.asarray(counted, dtype=float)
    n = counts @ weights.T
    total = counts @ (np.asarray(values, dtype=float) * weights).T
    means: Floats = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    return means


@exercise(
    "3.8",
    points=8,
    title="The stratified bootstrap from counts alone",
    hint="Draw n rows with replacement from n rows and count how many landed in each cell: which "
    "distribution do the counts have, and what do they always sum to? Then divide what was drawn "
    "by what was drawn, not by what the data had.",
)
def bootstrap_from_counts(
    counts: Counts, values: ArrayLike, counted: ArrayLike, *, n_boot: int = 1000, seed: Seed = 0
) -> Floats:
    """Replicates of every metric in every group, from the counts of their cells.

    Row i of a group falls into cell c with probability ``counts[g, c] / n_g``, and the rows of
    a replicate are drawn independently, so the counts of a replicate of group g are

        Multinomial(n_g, counts[g] / n_g)

    which is the distribution that resampling its rows gives, exactly. One replicate of the
    counts serves all metrics, so differences and maxima of metrics are resampled jointly.
    ``rates`` makes metrics out of counts.

    Parameters
    ----------
    counts : int64 array of shape [g, c]
        Rows of each group in each cell, at least one a group.
    values, counted : arrays of shape [m, c]
        The value that a row of the cell adds to each metric, and whether the metric counts it.
    n_boot
        Replicates, B.
    seed
        Of the counts drawn, or a generator to draw from.

    Returns
    -------
    float64 array of shape [B, g, m]
        NaN where no row that the metric counts was drawn.

    References
    ----------
    Efron: Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7, 1979,
    section 3 (finite sample spaces).
    """
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1)
    drawn = rng.multinomial(sizes, counts / sizes[:, np.newaxis], size=(n_boot, len(sizes)))
    return rates(drawn, values, counted)


def cell_bootstrap(
    cells: Cells, metrics: Mapping[str, RowMetric], *, n_boot: int = 1000, seed: Seed = 0
) -> dict[str, Floats]:
    """Stratified bootstrap of several metrics on the same replicates.

    Returns
    -------
    dict of float64 arrays of shape [n_boot, groups]

    Raises
    ------
    InputError
        For fewer than one replicate, or a group without rows.
    """
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    smallest = int(cells.counts.sum(axis=1).min())
    require(smallest >= 1, "rows of the smallest group", smallest, "must be >= 1", "drop it")
    rng = np.random.default_rng(seed)
    values, counted = cell_weights(list(metrics.values()), cells)
    out = np.empty((n_boot, len(cells.counts), len(metrics)))
    for start, stop in blocks(n_boot, cells.counts.size):
        out[start:stop] = bootstrap_from_counts(
            cells.counts, values, counted, n_boot=stop - start, seed=rng
        )
    return {name: out[:, :, number] for number, name in enumerate(metrics)}


def shuffled_counts(counts: Counts, n: int, *, seed: Seed = 0) -> Counts:
    """Deal the groups out at random, by counts: group sizes and cell totals stay as they are.

    The table of a shuffle has the multivariate hypergeometric distribution. Group by group and
    cell by cell it is drawn from what the earlier ones left, so that n tables, and any number of
    data sets side by side, are drawn at once. For two groups of one data set numpy's
    ``Generator.multivariate_hypergeometric`` draws the same.

    Parameters
    ----------
    counts : int64 array of shape [..., g, c]
        Leading axes are independent data sets.
    n
        Shuffles of each.
    seed
        Of the shuffles, or a generator to draw from.

    Returns
    -------
    int64 array of shape [n, ..., g, c]

    References
    ----------
    Patefield: Algorithm AS 159, Applied Statistics 30, 1981 (random tables with given margins).
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts, dtype=np.int64)
    n_groups, n_cells = counts.shape[-2:]
    out = np.empty((n, *counts.shape), dtype=np.int64)
    left = np.broadcast_to(counts.sum(axis=-2), (n, *counts.shape[:-2], n_cells)).copy()
    for group in range(n_groups - 1):
        wanted = np.broadcast_to(counts[..., group, :].sum(axis=-1), left.shape[:-1]).copy()
        others = left.sum(axis=-1)
        for cell in range(n_cells - 1):
            others = others - left[..., cell]
            drawn = rng.hypergeometric(left[..., cell], others, wanted)
            out[..., group, cell] = drawn
            wanted -= drawn
        out[..., group, -1] = wanted
        left -= out[..., group, :]
    out[..., -1, :] = left
    return out


def gap_null_from_counts(
    cells: Cells, metric: RowMetric, *, n_permutations: int = 1000, seed: Seed = 0
) -> GapNull:
    """The max-min gap and its permutation null, as :func:`resampling.gap_null`, from counts.

    Only the rows that the metric counts are dealt out; cells of equal value are one column of
    the table, so a rate has two.

    Raises
    ------
    InputError
        For fewer than one shuffle.
    """
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    values, counted = cell_weights([metric], cells)
    eligible = cells.counts[:, counted[0]]
    distinct, column = np.unique(values[0, counted[0]], return_inverse=True)
    table = eligible @ np.eye(len(distinct), dtype=np.int64)[column.reshape(-1)]
    every = np.ones((1, len(distinct)))
    if not len(distinct):
        return GapNull(float("nan"), np.full(n_permutations, np.nan), float("nan"))
    observed = gap(rates(table, distinct[np.newaxis], every)[:, 0])
    rng = np.random.default_rng(seed)
    gaps = np.empty(n_permutations)
    for start, stop in blocks(n_permutations, table.size):
        shuffled = shuffled_counts(table, stop - start, seed=rng)
        gaps[start:stop] = gaps_of(rates(shuffled, distinct[np.newaxis], every)[..., 0])
    if np.isnan(observed):
        return GapNull(observed, gaps, float("nan"))
    reached = int(np.sum(gaps >= observed - 1e-12))
    return GapNull(observed, gaps, (1 + reached) / (1 + n_permutations))
