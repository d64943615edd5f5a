"""Ratios such as clicks a session, when users are what was randomised.

The metric is ``sum of clicks / sum of sessions`` over an arm. Its parts are independent between
users only, so its variance is that of a function of two means over *users*: the delta method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab6_online_eval.estimates import finite
from labs.lab6_online_eval.significance import Comparison, Moments, compare_moments
from labs.lab6_online_eval.sufficient_statistics import (
    Columns,
    SufficientStatistics,
    compare_statistics,
)

Floats = NDArray[np.float64]
Arm = TypeVar("Arm")
NAMES = ("numerator", "denominator", "covariate_numerator", "covariate_denominator")


@exercise(
    "6.10",
    points=10,
    title="The variance of a ratio of sums, by the delta method",
    hint="Near its value the ratio moves with both means. What is its derivative by each, and what "
    "does a user with many sessions do to the numerator and the denominator at once?",
)
def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    """An arm's ratio, written as though it were a mean over its units.

        R = sum(a) / sum(b)
        variance = (s_a^2 - 2 R s_ab + R^2 s_b^2) / mean(b)^2

    with the sample variances and covariance (n - 1) over units, so that ``variance / n`` is the
    squared standard error of R, and `compare_moments` tests the difference between two arms.

    Parameters
    ----------
    numerator, denominator
        The sums of each unit of randomisation, float [n]: a user's clicks, a user's sessions.
        Units with 0 in both belong in.

    Returns
    -------
    Moments
        ``n`` units, ``mean`` R, and ``variance`` as above.

    Notes
    -----
    Deng, Knoblich & Lu (2018), Applying the Delta Method in Metric Analytics, KDD.
    """
    # BEGIN SOLUTION
    below = float(denominator.mean())
    ratio = float(numerator.mean()) / below
    (a, ab), (_, b) = np.cov(numerator, denominator)
    return Moments(len(numerator), ratio, float(a - 2 * ratio * ab + ratio**2 * b) / below**2)
    # END SOLUTION


@dataclass(frozen=True)
class RatioArm:
    """What is known of each unit of an arm, float [n] each; with both covariates or neither."""

    numerator: ArrayLike
    denominator: ArrayLike
    covariate_numerator: ArrayLike | None = None
    covariate_denominator: ArrayLike | None = None


def compare_ratios(control: RatioArm, treatment: RatioArm, *, alpha: float = 0.05) -> Comparison:
    """Treatment against control on a ratio of sums, with CUPED when there are covariates.

    The covariate is the same ratio before the experiment. It is linearised like the metric, with
    theta and centre over the units of both arms, so that no unit needs a ratio of its own.

    Returns
    -------
    Comparison
        ``effect`` is ``R_t - R_c``, ``relative`` is ``R_t / R_c - 1``.

    Raises
    ------
    InputError
        Fewer than two units, values that are not finite, lengths that differ, a denominator that
        is negative or sums to 0, covariates in one arm only, or a ratio that does not vary.
    """
    columns = [_columns(f"{name}: ", arm) for name, arm in _arms(control, treatment)]
    if len(columns[0]) != len(columns[1]):
        raise InputError("covariates must be given for both arms or for none")
    if len(columns[0]) == 2:
        return compare_moments(*(ratio_moments(*arm) for arm in columns), alpha=alpha)
    names = NAMES[: len(columns[0])]
    arms = [SufficientStatistics.of(names, np.column_stack(arm)) for arm in columns]
    return compare_statistics(arms[0], arms[1], Columns(*names), alpha=alpha)


@dataclass(frozen=True)
class RatioSums:
    """An arm's ratio in sums: what a query over the log can return.

    Attributes
    ----------
    n
        Units.
    mean
        Mean over units of numerator and denominator, and of those of the covariate: float [2] or
        [4].
    covariance
        Their sample covariance (n - 1) over units, float [2, 2] or [4, 4].
    """

    n: int
    mean: ArrayLike
    covariance: ArrayLike


def compare_ratio_sums(
    control: RatioSums, treatment: RatioSums, *, alpha: float = 0.05
) -> Comparison:
    """`compare_ratios` from each arm's means and covariances: the same answer, without a row.

    Raises
    ------
    InputError
        As `compare_ratios`; also shapes that do not fit.
    """
    arms = []
    for name, arm in _arms(control, treatment):
        mean = np.asarray(arm.mean, dtype=float)
        covariance = np.asarray(arm.covariance, dtype=float)
        k = len(np.atleast_1d(mean))
        require(
            mean.shape in ((2,), (4,)), f"{name}: shape of mean", mean.shape, "must be [2], [4]"
        )
        require(
            covariance.shape == (k, k),
            f"{name}: shape of covariance",
            covariance.shape,
            f"must be {(k, k)}",
        )
        arms.append(SufficientStatistics(NAMES[:k], arm.n, mean, covariance * (arm.n - 1)))
    if len(arms[0].columns) != len(arms[1].columns):
        raise InputError("covariates must be given for both arms or for none")
    return compare_statistics(arms[0], arms[1], Columns(*arms[0].columns), alpha=alpha)


def mean_of_ratios(numerator: ArrayLike, denominator: ArrayLike) -> Moments:
    """Another question: the mean over units of each unit's own ratio.

    It weighs a user with one session like one with a hundred, and knows nothing of users without
    any. Where a treatment acts on heavy users more than on others, it and the ratio of sums have
    different true effects, perhaps of different sign. Not wrong, if that was the question.

    Raises
    ------
    InputError
        As `compare_ratios`; fewer than two units with a denominator above 0.
    """
    a, b = _pair("", numerator, denominator)
    some = b > 0
    require(int(some.sum()) >= 2, "units with a denominator > 0", int(some.sum()), "must be >= 2")
    return Moments.of(a[some] / b[some])


def _arms(control: Arm, treatment: Arm) -> tuple[tuple[str, Arm], tuple[str, Arm]]:
    return ("control", control), ("treatment", treatment)


def _columns(where: str, arm: RatioArm) -> list[Floats]:
    """The columns of an arm, two or four, checked."""
    found = [*_pair(where, arm.numerator, arm.denominator)]
    if arm.covariate_numerator is None and arm.covariate_denominator is None:
        return found
    if arm.covariate_numerator is None or arm.covariate_denominator is None:
        raise InputError(f"{where}a covariate must have a numerator and a denominator: one is None")
    found += _pair(f"{where}covariate ", arm.covariate_numerator, arm.covariate_denominator)
    require(
        len(found[2]) == len(found[0]),
        f"{where}units of the covariate",
        len(found[2]),
        f"must be {len(found[0])}, in the order of the metric",
    )
    return found


def _pair(where: str, numerator: ArrayLike, denominator: ArrayLike) -> tuple[Floats, Floats]:
    a, b = finite(f"{where}numerator", numerator), finite(f"{where}denominator", denominator)
    require(len(a) == len(b), f"{where}length of denominator", len(b), f"must be {len(a)}")
    require(float(b.min()) >= 0, f"{where}smallest denominator", float(b.min()), "must be >= 0")
    require(float(b.sum()) > 0, f"{where}sum of the denominator", 0.0, "must be > 0")
    return a, b
