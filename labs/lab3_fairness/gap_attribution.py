"""Which columns carry the gap between two groups: Shapley values of the gap itself.

Shapley values are linear in the game. So the difference between two groups' mean attributions is
the attribution of the difference between their mean outputs, and sums to it exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.attribution import Attribution, ColumnCodes
from labs.lab3_fairness.resampling import blocks, percentile_interval
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.scoring import boosting, logistic_regression, scores
from labs.lab3_fairness.shapley import logistic_shapley, permutation_shapley
from labs.lab3_fairness.tabular import Task

Interval = tuple[float, float]


@dataclass(frozen=True)
class ColumnShare:
    """What one column adds to the gap. ``null_q95`` is what chance gives, in absolute value."""

    column: str
    contribution: float
    ci95: Interval
    null_q95: float
    p_value: float


@dataclass(frozen=True)
class GapAttribution:
    """The mean output of ``high`` minus that of ``low``, shared out among the columns.

    The intervals are stratified percentile bootstrap over people; model and background are held
    fixed. ``unexplained`` is the gap minus the sum of the shares: 0 for an efficient method.
    """

    high: str
    low: str
    gap: float
    gap_ci95: Interval
    shares: tuple[ColumnShare, ...]
    method: str
    n: int

    @property
    def unexplained(self) -> float:
        return self.gap - sum(share.contribution for share in self.shares)

    def share(self, column: str) -> ColumnShare:
        """The share of one column; InputError when there is none."""
        for share in self.shares:
            if share.column == column:
                return share
        raise InputError(f"no column {column!r}; the gap has {[s.column for s in self.shares]}")

    def table(self) -> pd.DataFrame:
        """One row a column, largest contribution first."""
        return pd.DataFrame(
            [
                (s.column, s.contribution, *s.ci95, s.null_q95, s.p_value)
                for s in sorted(self.shares, key=lambda s: -abs(s.contribution))
            ],
            columns=["column", "contribution", "low", "high", "null_q95", "p_value"],
        )


def attribute_gap(
    attribution: Attribution,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> GapAttribution:
    """Share the gap in mean output between two groups out among the columns.

    Parameters
    ----------
    attribution
        Of n rows.
    groups : array of shape [n]
        Exactly two, each of at least two rows.
    n_boot
        Bootstrap replicates, inside each group.
    n_permutations
        Shuffles of the groups for the null of each column's contribution.
    seed
        Of both.

    Raises
    ------
    InputError
        For another number of groups, a group of one row, or lengths that differ.
    """
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    codes, names = group_codes(groups, len(attribution.outputs))
    require(len(names) == 2, "groups", names, "must be two", "compare two groups at a time")
    sizes = np.bincount(codes)
    smallest = int(sizes.argmin())
    require(
        sizes.min() >= 2, "group", names[smallest], "has one row; an interval needs two or more"
    )
    # The outputs ride along as one more column, so that gap and shares see the same draws.
    columns = np.column_stack([attribution.values, attribution.outputs])
    means = [columns[codes == code].mean(axis=0) for code in (0, 1)]
    top = int(means[1][-1] > means[0][-1])
    observed = means[top] - means[1 - top]
    rng = np.random.default_rng(seed)
    replicates = _bootstrap_means(columns[codes == top], n_boot, rng) - _bootstrap_means(
        columns[codes == 1 - top], n_boot, rng
    )
    null = np.abs(_null_differences(columns, int(sizes[top]), n_permutations, rng))
    reached = (null >= np.abs(observed) - 1e-12).sum(axis=0)
    shares = tuple(
        ColumnShare(
            column=name,
            contribution=float(observed[place]),
            ci95=percentile_interval(replicates[:, place]),
            null_q95=float(np.quantile(null[:, place], 0.95)),
            p_value=float((1 + reached[place]) / (1 + n_permutations)),
        )
        for place, name in enumerate(attribution.columns)
    )
    return GapAttribution(
        high=str(names[top]),
        low=str(names[1 - top]),
        gap=float(observed[-1]),
        gap_ci95=percentile_interval(replicates[:, -1]),
        shares=shares,
        method=attribution.method,
        n=len(codes),
    )


def _bootstrap_means(
    columns: NDArray[np.float64], n_boot: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of resampled rows, [n_boot, columns]: how often each row was drawn, by its values."""
    n = len(columns)
    means = np.empty((n_boot, columns.shape[1]))
    for start, stop in blocks(n_boot, n):
        drawn = rng.integers(n, size=(stop - start, n)) + n * np.arange(stop - start)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=(stop - start) * n).reshape(-1, n)
        means[start:stop] = counts @ columns / n
    return means


def _null_differences(
    columns: NDArray[np.float64], size: int, n_permutations: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Differences of means between ``size`` rows dealt out at random and the others."""
    n = len(columns)
    total = columns.sum(axis=0)
    differences = np.empty((n_permutations, columns.shape[1]))
    for number in range(n_permutations):
        chosen = columns[rng.choice(n, size, replace=False, shuffle=False)].sum(axis=0)
        differences[number] = chosen / size - (total - chosen) / (n - size)
    return differences


@dataclass(frozen=True)
class WithoutColumn:
    """The gap in mean score after one column was removed and the model refitted."""

    column: str
    model: str
    gap_before: float
    gap_after: float
    attributed: float

    @property
    def removed(self) -> float:
        """How much of the gap the removal took away; attribution predicts ``attributed``."""
        return self.gap_before - self.gap_after


@dataclass(frozen=True)
class GapStudy:
    """The gap of two models, and what the refit says about the attribution."""

    linear: GapAttribution
    trees: GapAttribution
    refit: WithoutColumn


def gap_study(
    train: Task,
    test: Task,
    *,
    per_group: int = 400,
    n_background: int = 50,
    n_permutations: int = 1000,
    n_boot: int = 1000,
    seed: int = 0,
) -> GapStudy:
    """Attribute the gap of logistic regression (closed form) and of boosting (sampled orders).

    The logistic gap is in log-odds, over all test rows. The boosting gap is in probability, over
    ``per_group`` random test rows of each group with one pair of orders a row: the mean over
    people averages the orders as well, and the bootstrap over people contains that noise. The
    largest column of the latter is then removed and the model refitted.
    """
    sizes = pd.Series(test.groups).value_counts()
    require(
        per_group <= sizes.min(), "per_group", per_group, f"must be <= {sizes.min()}, the smallest"
    )
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"n_boot": n_boot, "n_permutations": n_permutations, "seed": seed}
    logistic = logistic_regression(seed).fit(train.features, train.labels)
    exact = logistic_shapley(logistic, test.features, train.features)
    linear = attribute_gap(exact, test.groups, **options)

    trees = boosting(seed).fit(train.features, train.labels)
    codes = ColumnCodes.of(train.features, test.features)
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(test.groups == name), per_group, replace=False)
            for name in sizes.index
        ]
    )
    part = test.rows(chosen)
    drawn = rng.choice(len(train), n_background, replace=False)
    background = codes.encode(train.features.iloc[drawn])
    f, rows = codes.probability(trees), codes.encode(part.features)
    sampled = permutation_shapley(f, rows, background, n_permutations=1, seed=seed)
    attribution = Attribution(
        codes.columns, sampled.values, float(f(background).mean()), f(rows), "sampled orders"
    )
    gap = attribute_gap(attribution, part.groups, **options)
    largest = max(gap.shares, key=lambda share: share.contribution)
    refit = without_column(
        boosting, trees, train, test, largest.column, largest.contribution, seed=seed
    )
    return GapStudy(linear, gap, refit)


def without_column(
    make: Callable[[int], Any],
    fitted: Any,
    train: Task,
    test: Task,
    column: str,
    attributed: float,
    *,
    seed: int = 0,
) -> WithoutColumn:
    """Remove a column, fit again, and see what becomes of the gap in mean score on the test rows.

    Attribution explains one fixed model. A refitted model takes what it needs from the columns
    that are left, so the gap shrinks by less than the column's share when others stand in for it.

    Parameters
    ----------
    make
        ``make(seed)`` returns an unfitted pipeline, such as ``scoring.boosting``.
    fitted
        One fitted on all columns of ``train``.
    train, test
        Rows to fit and to measure on.
    column
        To remove.
    attributed
        Its contribution to the gap of ``fitted``.
    """
    kept = train.features.columns.drop(column)
    refitted = make(seed).fit(train.features[kept], train.labels)
    before = _mean_score_gap(scores(fitted, test.features), test)
    after = _mean_score_gap(scores(refitted, test.features[kept]), test)
    return WithoutColumn(column, type(fitted[-1]).__name__, before, after, attributed)


def _mean_score_gap(score: NDArray[np.float64], task: Task) -> float:
    means = pd.Series(score).groupby(task.groups).mean()
    return float(means.max() - means.min())
