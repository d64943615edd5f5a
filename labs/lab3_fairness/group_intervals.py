"""Which interval a group's value gets: that of a share of rows, or that of any other mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.statistics import Z95
from labs.lab3_fairness.cell_bootstrap import Cells, cell_bootstrap
from labs.lab3_fairness.resampling import blocks, eligible_rows, percentile_interval
from labs.lab3_fairness.row_metrics import Metric, RowMetric, evaluate_rows
from labs.lab3_fairness.score_intervals import all_pairs_z, wilson

Interval = tuple[float, float]

WILSON, PERCENTILE = "Wilson", "percentile bootstrap"
POOLED = "normal, with the spread of the other groups"


@dataclass(frozen=True)
class Sample:
    """The rows of an audit as one metric sees them; ``bounds`` are those of its values."""

    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    codes: NDArray[np.intp]
    n_groups: int
    metric: Metric
    cells: Cells | None
    bounds: Interval = (-np.inf, np.inf)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Which rows count."""
        return eligible_rows(self.metric, self.y_true, self.y_pred)

    @cached_property
    def n_counted(self) -> NDArray[np.float64]:
        """Rows that count, of each group."""
        n = np.bincount(self.codes, weights=self.counted, minlength=self.n_groups)
        return np.asarray(n, dtype=float)

    @cached_property
    def hits(self) -> NDArray[np.float64] | None:
        """Rows of value 1, of each group, where the metric is a share of rows; None elsewhere."""
        if not isinstance(self.metric, RowMetric):
            return None
        ones = np.where(self.counted, self.metric.value(self.y_true, self.y_pred), 0.0)
        if not np.isin(ones, (0.0, 1.0)).all():
            return None
        hits = np.bincount(self.codes, weights=ones, minlength=self.n_groups)
        return np.asarray(hits, dtype=float)


@dataclass(frozen=True)
class GroupIntervals:
    """The 95 % interval of each group, and what it was made with.

    ``pairs`` are the limits of each group at the level at which all pairs hold at once;
    ``is_share`` says whether the metric is a share of rows.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    names: list[str]
    pairs: tuple[NDArray[np.float64], NDArray[np.float64]]
    is_share: bool


def group_intervals(
    sample: Sample, values: NDArray[np.float64], replicates: NDArray[np.float64]
) -> GroupIntervals:
    """Wilson where a metric is a share of rows, the bootstrap elsewhere.

    Parameters
    ----------
    sample
    values : float64 array of shape [g]
        NaN for a group in which no row counts.
    replicates : float64 array of shape [B, g]
        Of the stratified bootstrap. A group whose rows are all alike has no spread there; it
        borrows that of the others, and has no interval (NaN) where all groups are so.
    """
    z = all_pairs_z(max(2, int(np.sum(~np.isnan(values)))))
    if sample.hits is not None:
        low, high = wilson(sample.hits, sample.n_counted)
        pairs = wilson(sample.hits, sample.n_counted, z=z)
        return GroupIntervals(low, high, [WILSON] * sample.n_groups, pairs, True)
    known = np.where(np.isnan(replicates).all(axis=0), 0.0, replicates)
    error = np.nanstd(known, axis=0)
    # All rows of a group alike: no spread to resample. It borrows that of the others.
    alike = (error < 1e-12) & ~np.isnan(values)
    spread = error[error >= 1e-12] * np.sqrt(sample.n_counted[error >= 1e-12])
    pooled = np.sqrt(np.mean(spread**2)) if spread.size else np.nan
    error = np.where(alike, pooled / np.sqrt(np.maximum(sample.n_counted, 1)), error)
    low, high = np.array([percentile_interval(column) for column in replicates.T]).T
    least, most = sample.bounds
    low = np.where(alike, np.maximum(values - Z95 * error, least), low)
    high = np.where(alike, np.minimum(values + Z95 * error, most), high)
    names = [POOLED if same else PERCENTILE for same in alike]
    pairs = np.maximum(values - z * error, least), np.minimum(values + z * error, most)
    return GroupIntervals(low, high, names, pairs, False)


def overall_interval(sample: Sample, n_boot: int, seed: int) -> Interval:
    """The 95 % interval of a metric over all rows; other than shares, resampled together."""
    if sample.hits is not None:
        low, high = wilson(sample.hits.sum(), sample.n_counted.sum())
        return float(low), float(high)
    if sample.cells is not None and isinstance(sample.metric, RowMetric):
        every = replace(sample.cells, counts=sample.cells.counts.sum(axis=0, keepdims=True))
        replicates = cell_bootstrap(every, {"": sample.metric}, n_boot=n_boot, seed=seed)[""]
        return percentile_interval(replicates[:, 0])
    rng = np.random.default_rng(seed)
    n = len(sample.y_true)
    values = np.empty(n_boot)
    for start, stop in blocks(n_boot, n):
        drawn = rng.integers(n, size=(stop - start, n))
        values[start:stop] = evaluate_rows(
            sample.metric, sample.y_true[drawn], sample.y_pred[drawn]
        )
    return percentile_interval(values)
