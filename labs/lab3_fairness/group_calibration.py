"""Calibration within groups: does the same score mean the same risk for everybody?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.confusion import binary_inputs
from labs.lab3_fairness.resampling import percentile_interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """The outcome's rate at each score, by group.

    Attributes
    ----------
    table : DataFrame
        One row a score and group: score, group, n, positives, rate (NaN where n is 0).
    gap
        Mean over rows of the largest difference in rate between two groups at the row's score,
        over the scores at which at least two groups have rows. 0 is calibration that does not
        depend on the group.
    ci95
        Stratified bootstrap's interval of the gap. Like the gap it never reaches 0.
    null_mean, null_q95, p_value
        Of the gap when, at every score, the groups are dealt out at random.
    """

    table: pd.DataFrame
    gap: float
    ci95: Interval
    null_mean: float
    null_q95: float
    p_value: float


def calibration_within_groups(
    y_true: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Does the same score mean the same risk in every group?

    Dealing the groups out anew among the rows of one score leaves the number of positives of
    each group multivariate hypergeometric, so the permutations are drawn as counts.

    Parameters
    ----------
    y_true : array of shape [n]
        0 or 1.
    scores : array of shape [n]
        Few distinct values, such as deciles; cut a continuous score into bins first.
    groups : array of shape [n]
    n_boot, n_permutations, seed
        Of the interval and of the null.

    Raises
    ------
    InputError
        For labels other than 0 and 1, NaN among the scores, lengths that differ, a missing group
        or only one, or no score at which two groups have rows.
    """
    values = pd.Series(np.asarray(scores))
    truth, _, codes, names = binary_inputs(y_true, np.zeros(len(values), dtype=int), groups)
    if values.isna().any():
        raise InputError(f"scores are NaN in {int(values.isna().sum())} rows; leave them out")
    bins, levels = pd.factorize(values, sort=True)
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    cells = bins * len(names) + codes
    shape = (len(levels), len(names))
    n = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    positives = np.bincount(cells[truth == 1], minlength=shape[0] * shape[1]).reshape(shape)
    shared = (n > 0).sum(axis=1) >= 2
    if not shared.any():
        raise InputError(
            f"no score of {len(levels)} is held by rows of two groups; cut the scores into bins"
        )
    observed = float(_calibration_gap(positives[None], n[None])[0])
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [
            rng.multivariate_hypergeometric(n[level], int(positives[level].sum()), n_permutations)
            for level in np.flatnonzero(shared)
        ],
        axis=1,
    )
    null = _calibration_gap(drawn, np.broadcast_to(n[shared], drawn.shape))
    replicates = _resampled_calibration(positives, n, n_boot, rng)
    rates = np.divide(positives, n, out=np.full(shape, np.nan), where=n > 0)
    table = pd.DataFrame(
        {
            "score": np.repeat(np.asarray(levels), len(names)),
            "group": [str(name) for name in names] * len(levels),
            "n": n.ravel(),
            "positives": positives.ravel(),
            "rate": rates.ravel(),
        }
    )
    reached = int(np.sum(null >= observed - 1e-12))
    return Calibration(
        table,
        observed,
        percentile_interval(replicates),
        float(null.mean()),
        float(np.quantile(null, 0.95)),
        (1 + reached) / (1 + n_permutations),
    )


def _calibration_gap(positives: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """[b, levels, groups] positives, of as many rows, to [b] gaps over the shared levels."""
    rates = np.divide(positives, n, out=np.full(n.shape, np.nan), where=n > 0)
    gaps = np.fmax.reduce(rates, axis=-1) - np.fmin.reduce(rates, axis=-1)
    weights = np.where((n > 0).sum(axis=-1) >= 2, n.sum(axis=-1), 0)
    total = weights.sum(axis=-1)
    weighted = (np.nan_to_num(gaps) * weights).sum(axis=-1)
    return np.divide(weighted, total, out=np.full(total.shape, np.nan), where=total > 0)


def _resampled_calibration(
    positives: NDArray[np.int64], n: NDArray[np.int64], n_boot: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The gap of [n_boot] resamples of the rows of each group: counts of its cells are drawn."""
    levels, groups = n.shape
    hits, rows = (np.empty((n_boot, levels, groups), dtype=np.int64) for _ in range(2))
    for group in range(groups):
        cells = np.concatenate([positives[:, group], (n - positives)[:, group]])
        drawn = rng.multinomial(int(cells.sum()), cells / cells.sum(), size=n_boot)
        hits[:, :, group] = drawn[:, :levels]
        rows[:, :, group] = drawn[:, :levels] + drawn[:, levels:]
    return _calibration_gap(hits, rows)
