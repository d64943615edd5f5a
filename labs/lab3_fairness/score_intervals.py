"""Intervals of rates that hold in small groups: Wilson, Newcombe, and all pairs at once.

A bootstrap shows what the sample has seen: 5 of 5 resamples to 5 of 5 for ever. Score intervals
invert a test of each possible rate instead, and are never without width.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, studentized_range

from common.errors import InputError, require
from common.statistics import Z95

Floats = NDArray[np.float64]
Limits = tuple[Floats, Floats]


def wilson(successes: ArrayLike, n: ArrayLike, *, z: float = Z95) -> Limits:
    """The Wilson interval of a rate.

        (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)

    Parameters
    ----------
    successes, n : arrays of one shape
        Counts, ``0 <= successes <= n``.
    z
        Normal quantile; 1.96 for 95 %.

    Returns
    -------
    low, high : arrays of the same shape
        NaN where n is 0.

    References
    ----------
    Wilson, JASA 22, 1927. Brown, Cai and DasGupta: Interval Estimation for a Binomial
    Proportion, Statistical Science 16, 2001, recommend it for n up to 40 and beyond.
    """
    hits, trials = _counts(successes, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = hits / trials
        centre = share + z**2 / (2 * trials)
        half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        scale = 1 + z**2 / trials
        # At 0 and n the limit is 0 and 1 exactly; rounding must not move it inside.
        low = np.where(hits == 0, 0.0, (centre - half) / scale)
        high = np.where(hits == trials, 1.0, (centre + half) / scale)
    nobody = trials == 0
    return np.where(nobody, np.nan, low), np.where(nobody, np.nan, high)


def difference_interval(
    first: ArrayLike, limits_1: Limits, second: ArrayLike, limits_2: Limits
) -> Limits:
    """The interval of ``first - second`` from the intervals of both (MOVER).

        low  = d - sqrt((p1 - l1)² + (u2 - p2)²)
        high = d + sqrt((u1 - p1)² + (p2 - l2)²)

    With Wilson limits it is Newcombe's hybrid score interval.

    References
    ----------
    Newcombe: Interval Estimation for the Difference Between Independent Proportions, Statistics
    in Medicine 17, 1998, method 10. Zou and Donner, Statistics in Medicine 27, 2008 (MOVER).
    """
    p1, p2 = np.asarray(first, float), np.asarray(second, float)
    (l1, u1), (l2, u2) = limits_1, limits_2
    d = p1 - p2
    return d - np.hypot(p1 - l1, u2 - p2), d + np.hypot(u1 - p1, p2 - l2)


def ratio_interval(
    first: ArrayLike, limits_1: Limits, second: ArrayLike, limits_2: Limits
) -> Limits:
    """The interval of ``first / second`` from the intervals of both, all >= 0 (MOVER-R).

    The ratios r at which the interval of ``first - r second`` touches 0. Infinite above where
    the interval of ``second`` reaches 0.

    References
    ----------
    Donner and Zou: Closed-form confidence intervals for functions of the normal mean and
    standard deviation, Statistical Methods in Medical Research 21, 2012, equation 9.
    """
    p1, p2 = np.asarray(first, float), np.asarray(second, float)
    (l1, u1), (l2, u2) = limits_1, limits_2
    product = p1 * p2
    # Both roots in the form that does not divide by a difference near 0.
    below = l1 * (2 * p1 - l1)
    root = np.sqrt(np.maximum(product**2 - below * u2 * (2 * p2 - u2), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(below > 0, below / (product + root), 0.0)
        above, base = u1 * (2 * p1 - u1), l2 * (2 * p2 - l2)
        root = np.sqrt(np.maximum(product**2 - above * base, 0))
        high = np.where(base > 0, (product + root) / base, np.inf)
    unknown = np.isnan(p1) | np.isnan(p2)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


@cache
def all_pairs_z(n_groups: int, level: float = 0.95) -> float:
    """The normal quantile at which all pairs of groups hold at once: q(level; g, inf) / sqrt 2.

    The studentized range in place of the normal quantile; 1.96 for two groups, 3.03 for eight.
    Conservative where groups differ in size.

    Raises
    ------
    InputError
        For fewer than two groups.

    References
    ----------
    Tukey 1953 and Kramer 1956; Hayter: A Proof of the Conjecture that the Tukey-Kramer Multiple
    Comparisons Procedure is Conservative, Annals of Statistics 12, 1984.
    """
    require(n_groups >= 2, "n_groups", n_groups, "must be >= 2", "a gap needs two groups")
    if n_groups == 2:
        return float(norm.ppf((1 + level) / 2))
    return float(studentized_range.ppf(level, n_groups, np.inf)) / sqrt(2)


def largest_difference_interval(values: Floats, limits: Limits) -> Limits:
    """The interval of the largest difference between the groups' true values, max - min.

    If the intervals of all pairs hold at once, the largest true difference lies between the
    largest lower and the largest upper limit. Low is 0 where no pair can be told apart.

    Parameters
    ----------
    values : array of shape [..., g]
        NaN for a group without a value; it stays out.
    limits : two arrays of shape [..., g]
        Of each value, at the quantile :func:`all_pairs_z`.

    Returns
    -------
    low, high : arrays of shape [...]
        NaN where fewer than two groups have a value.
    """
    low, high = difference_interval(*_pairs(values, limits))
    few = np.sum(~np.isnan(values), axis=-1) < 2
    reach = np.where(np.isnan(high), -np.inf, high).max(axis=(-2, -1))
    start = np.where(np.isnan(low), -np.inf, low).max(axis=(-2, -1))
    return np.where(few, np.nan, np.maximum(start, 0)), np.where(few, np.nan, reach)


def smallest_ratio_interval(values: Floats, limits: Limits) -> Limits:
    """The interval of the smallest ratio between the groups' true values, min / max.

    Parameters and result as for :func:`largest_difference_interval`; high is at most 1.
    """
    low, high = ratio_interval(*_pairs(values, limits))
    few = np.sum(~np.isnan(values), axis=-1) < 2
    start = np.where(np.isnan(low), np.inf, low).min(axis=(-2, -1))
    reach = np.where(np.isnan(high), np.inf, high).min(axis=(-2, -1))
    return np.where(few, np.nan, np.minimum(start, 1)), np.where(few, np.nan, np.minimum(reach, 1))


def _pairs(values: Floats, limits: Limits) -> tuple[Floats, Limits, Floats, Limits]:
    """Every group beside every other one: [..., g, g], without a group beside itself."""
    low, high = limits
    itself = np.eye(values.shape[-1], dtype=bool)
    first = np.where(itself, np.nan, values[..., :, np.newaxis])
    return (
        first,
        (low[..., :, np.newaxis], high[..., :, np.newaxis]),
        values[..., np.newaxis, :],
        (low[..., np.newaxis, :], high[..., np.newaxis, :]),
    )


def _counts(successes: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Successes and trials as float arrays of one shape; InputError where they are no counts."""
    hits, trials = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if not (np.isfinite(hits).all() and np.isfinite(trials).all()):
        raise InputError("successes and n must be finite counts; leave undefined groups out")
    bad = np.flatnonzero((hits < 0) | (hits > trials))
    if bad.size:
        first = bad[0]
        raise InputError(
            f"successes = {hits.flat[first]:g} of n = {trials.flat[first]:g}: "
            "must be between 0 and n"
        )
    return hits, trials
