"""How sure is a group's value, and how large is a gap when there is none?

Two questions, two resamplings. The bootstrap keeps every row in its group and asks how the
values would scatter in another sample. The permutation deals the groups out anew and asks what
gap chance alone gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.row_metrics import (
    Metric,
    RowMetric,
    evaluate_groups,
    evaluate_rows,
    group_codes,
    row_form,
)

BLOCK = 2_000_000  # resampled rows held at once: about 50 MB


@exercise(
    "3.2",
    points=8,
    title="Stratified bootstrap",
    hint="Draw row numbers, not values, so that a label stays with its prediction; and draw them "
    "from the rows of one group at a time, as many as the group has.",
)
def stratified_bootstrap(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike,
    metric: Metric,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Resample rows with replacement inside each group, and evaluate the metric each time.

    Every replicate has as many rows of each group as the data, so that no group vanishes from a
    replicate and the group sizes add no scatter of their own. ``paired`` checks the arguments,
    ``blocks`` cuts the replicates into pieces that fit in memory, ``evaluate_rows`` evaluates
    the metric on a [b, n] matrix of resampled rows.

    Parameters
    ----------
    y_true, y_pred, groups : arrays of shape [n]
        ``y_pred`` may be real-valued; what a value means is the metric's business.
    metric
        ``metric(y_true, y_pred) -> float``. A :class:`RowMetric` is many times faster.
    n_boot
        Replicates, B.
    seed
        Of the row numbers drawn.

    Returns
    -------
    float64 array of shape [B, number of groups]
        Groups in sorted order. The 2.5 and 97.5 percentiles of a column are the 95 % interval.

    References
    ----------
    Efron and Tibshirani: An Introduction to the Bootstrap, 1993, sections 8.3 and 13.3.
    """
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    metric = row_form(metric)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_boot, len(names)))
    for code in range(len(names)):
        members = np.flatnonzero(codes == code)
        for start, stop in blocks(n_boot, len(members)):
            drawn = rng.choice(members, size=(stop - start, len(members)), replace=True)
            replicates[start:stop, code] = evaluate_rows(metric, truth[drawn], predicted[drawn])
    return replicates


@dataclass(frozen=True)
class GapNull:
    """The observed max-min gap beside the gaps that random groups of the same sizes have."""

    observed: float
    gaps: NDArray[np.float64]
    p_value: float

    @property
    def mean(self) -> float:
        """The expected gap when the groups do not differ; it is never 0."""
        return float(np.mean(self._known)) if self._known.size else float("nan")

    @property
    def q95(self) -> float:
        """The gap that chance exceeds in 5 % of cases."""
        return float(np.quantile(self._known, 0.95)) if self._known.size else float("nan")

    @property
    def _known(self) -> NDArray[np.float64]:
        return self.gaps[~np.isnan(self.gaps)]


@exercise(
    "3.4",
    points=5,
    title="A null distribution for the gap",
    hint="Shuffle which row belongs to which group, keep everything else, and take the gap again. "
    "The observed data is itself one of the possible shuffles, so no p-value is 0.",
)
def gap_null(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike,
    metric: Metric,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
) -> GapNull:
    """The max-min gap between groups, and its distribution when groups mean nothing.

    The largest of several noisy values lies above the smallest even when the truth is one value
    for all, so the gap is biased upward, most with many small groups. Dealing the group labels
    out at random, sizes kept, shows by how much. ``eligible_rows`` leaves the rows that the
    metric counts (a TPR: the positives), so that every shuffle keeps their number a group;
    ``gap`` is the largest minus the smallest.

    Parameters
    ----------
    y_true, y_pred, groups : arrays of shape [n]
    metric
        ``metric(y_true, y_pred) -> float``.
    n_permutations
        B, the shuffles.
    seed
        Of the shuffles.

    Returns
    -------
    GapNull
        ``p_value = (1 + #{shuffled gap >= observed}) / (1 + B)``;
        NaN where fewer than two groups have a value.

    References
    ----------
    Phipson and Smyth: Permutation P-values Should Never Be Zero, 2010, equation 2.
    DiCiccio et al.: Evaluating Fairness Using Permutation Tests, KDD 2020.
    """
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    metric = row_form(metric)
    keep = eligible_rows(metric, truth, predicted)
    truth, predicted, codes = truth[keep], predicted[keep], codes[keep]
    observed = gap(evaluate_groups(metric, truth, predicted, codes, len(names)))
    rng = np.random.default_rng(seed)
    gaps = np.array(
        [
            gap(evaluate_groups(metric, truth, predicted, rng.permutation(codes), len(names)))
            for _ in range(n_permutations)
        ]
    )
    if np.isnan(observed):
        return GapNull(observed, gaps, float("nan"))
    # Equal gaps can differ in the last bits: the sums are taken in another order.
    reached = int(np.sum(gaps >= observed - 1e-12))
    return GapNull(observed, gaps, (1 + reached) / (1 + n_permutations))


def eligible_rows(metric: Metric, y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows a metric counts: those of a :class:`RowMetric`'s ``where``, or all."""
    if isinstance(metric, RowMetric):
        return np.asarray(metric.where(y_true, y_pred), dtype=bool)
    return np.ones(len(y_true), dtype=bool)


def gap(values: NDArray[np.float64]) -> float:
    """Largest minus smallest of [g] group values, as :func:`gaps_of`."""
    return float(gaps_of(values))


def gaps_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest minus smallest over the last axis, [..., g] to [...].

    Groups without a value (NaN) stay out; NaN with fewer than two that have one.
    """
    known = ~np.isnan(values)
    high = np.where(known, values, -np.inf).max(axis=-1)
    low = np.where(known, values, np.inf).min(axis=-1)
    return np.where(known.sum(axis=-1) >= 2, high - low, np.nan)


def blocks(n_boot: int, n_rows: int) -> list[tuple[int, int]]:
    """Cut ``range(n_boot)`` into (start, stop) pieces of at most ``BLOCK`` resampled rows."""
    size = max(1, BLOCK // max(1, n_rows))
    return [(start, min(start + size, n_boot)) for start in range(0, n_boot, size)]


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of [B] replicates; undefined ones (NaN) stay out."""
    known = replicates[~np.isnan(replicates)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def paired(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], tuple[Any, ...]]:
    """Check three columns of the same rows; return the arrays, group codes and group names.

    Raises
    ------
    InputError
        For lengths that differ, NaN, a missing group, or fewer than two groups.
    """
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise InputError(f"y_true {truth.shape} and y_pred {predicted.shape} must both be [n]")
    for name, values in (("y_true", truth), ("y_pred", predicted)):
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name}[{row}] = {values[row]} is not finite; leave the row out")
        if values.dtype == object and pd.isna(values).any():
            row = int(np.flatnonzero(pd.isna(values))[0])
            raise InputError(f"{name}[{row}] is missing; leave the row out")
    codes, names = group_codes(groups, len(predicted))
    return truth, predicted, codes, names
