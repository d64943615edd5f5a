"""Calibrated for men and for women, but for young women without a degree? Multicalibration.

Hundreds of overlapping groups, each with buckets of the score: one cell has a residual whose
mean is far from 0, correct it, look again. Stop when rows that had no say in it stop improving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import expit

from common.errors import InputError, require
from labs.lab3_fairness.calibration import Floats, bin_codes, equal_mass_edges, logits
from labs.lab3_fairness.calibration_audit import Sample, checked_sample


@dataclass(frozen=True)
class Update:
    """Add ``shift`` to the logit of the rows of ``group`` whose score is in ``bucket``.

    The bucket after the last stands for the whole group.
    """

    group: int
    bucket: int
    shift: float


@dataclass(frozen=True)
class Multicalibrator:
    """Updates to replay in order, on any rows whose groups are known.

    ``held_out_loss`` has the log loss of the held-out rows before the first update and after each
    tried; the updates that are kept end at its minimum. ``edges`` are those of the buckets.
    """

    updates: tuple[Update, ...]
    edges: Floats
    held_out_loss: Floats

    def __call__(self, scores: ArrayLike, members: NDArray[np.bool_]) -> Floats:
        """Corrected scores [n] of rows with scores [n] and membership [n, groups]."""
        current = np.array(scores, dtype=float)
        if len(members) != len(current):
            raise InputError(f"members has {len(members)} rows, scores has {len(current)}")
        for update in self.updates:
            _apply(update, current, members, self.edges)
        return current


def multicalibrate(
    fitted_on: Sample,
    held_out: Sample,
    *,
    alpha: float = 0.005,
    n_buckets: int = 5,
    min_rows: int = 50,
    learning_rate: float = 0.5,
    max_updates: int = 300,
    patience: int = 20,
) -> Multicalibrator:
    """Correct the worst cell of (group, score bucket), again and again.

    With the residuals ``r = y - s`` of a cell's rows, ``z = sum r / sqrt(sum s (1 - s))`` is how
    far the cell is from calibrated. Moving its logits by ``sum r / sum s (1 - s)`` is a Newton
    step on the log loss and gains about ``z² / 2``; the cell with the largest ``|z|`` is next and
    moves by ``learning_rate`` of the step, at most 1. A cell is one bucket of a group, or the
    whole group.

    An update always helps the rows it was computed on, and not always others: the updates after
    the least log loss of ``held_out`` are dropped.

    Parameters
    ----------
    fitted_on, held_out
        Two sets of rows, with scores of a model that saw neither (or out-of-fold scores).
    alpha
        Mean residual that is tolerated.
    n_buckets
        Of equal mass over the scores of ``fitted_on``.
    min_rows
        Smaller cells are left alone.
    learning_rate
        Share of a Newton step, above 0 and at most 1.
    max_updates
        Tried at most.
    patience
        Updates without a new least log loss before the search ends.

    References
    ----------
    Hébert-Johnson, Kim, Reingold, Rothblum: Multicalibration, ICML 2018, section 3 (they add the
    mean residual to the score, which cannot lower scores that are near 0 already).
    """
    require(alpha >= 0, "alpha", alpha, "must be >= 0", "try 0.005")
    require(min_rows >= 2, "min_rows", min_rows, "must be >= 2", "try 50")
    require(0 < learning_rate <= 1, "learning_rate", learning_rate, "must be > 0 and <= 1")
    require(max_updates >= 1, "max_updates", max_updates, "must be >= 1", "try 300")
    require(patience >= 1, "patience", patience, "must be >= 1", "try 20")
    fit, check = checked_sample(fitted_on), checked_sample(held_out)
    require(
        fit.members.shape[1] == check.members.shape[1],
        "groups of held_out",
        check.members.shape[1],
        f"must be those of fitted_on, {fit.members.shape[1]}",
        "make both with one GroupFamily",
    )
    edges = equal_mass_edges(fit.scores, n_buckets)
    groups = sparse.csr_matrix(fit.members.T, dtype=np.float64)
    ours, theirs = fit.scores.copy(), check.scores.copy()
    losses = [_log_loss(check.y_true, theirs)]
    updates: list[Update] = []
    while len(updates) < max_updates and len(updates) - int(np.argmin(losses)) < patience:
        buckets = bin_codes(ours, edges)
        n, total, variance = (
            _cell_sums(groups, buckets, len(edges) - 1, values)
            for values in (np.ones(len(ours)), fit.y_true - ours, ours * (1 - ours))
        )
        open_cells = (n >= min_rows) & (abs(total) > alpha * n) & (variance > 0)
        squared_z = np.divide(total**2, variance, out=np.zeros_like(total), where=open_cells)
        group, bucket = divmod(int(np.argmax(squared_z)), squared_z.shape[1])
        if squared_z[group, bucket] == 0:
            break
        step = float(total[group, bucket] / variance[group, bucket])
        updates.append(Update(group, bucket, learning_rate * float(np.clip(step, -1, 1))))
        _apply(updates[-1], ours, fit.members, edges)
        _apply(updates[-1], theirs, check.members, edges)
        losses.append(_log_loss(check.y_true, theirs))
    return Multicalibrator(tuple(updates[: int(np.argmin(losses))]), edges, np.array(losses))


def _apply(update: Update, scores: Floats, members: NDArray[np.bool_], edges: Floats) -> None:
    """Change the scores of the update's rows in place."""
    rows = members[:, update.group]
    if update.bucket < len(edges) - 1:
        rows = rows & (bin_codes(scores, edges) == update.bucket)
    scores[rows] = expit(logits(scores[rows]) + update.shift)


def _log_loss(labels: NDArray[np.int64], scores: Floats) -> float:
    odds = logits(scores)
    return float(np.mean(np.logaddexp(0, odds) - labels * odds))


def _cell_sums(
    groups: sparse.csr_matrix, buckets: NDArray[np.intp], n_buckets: int, values: Floats
) -> Floats:
    """Sum of values of each cell, [groups, buckets + 1]; the last column is the whole group."""
    where = (np.arange(len(buckets)), buckets)
    by_bucket = groups @ sparse.csr_matrix((values, where), shape=(len(buckets), n_buckets))
    dense = by_bucket.toarray()
    return np.concatenate([dense, dense.sum(axis=1, keepdims=True)], axis=1)
