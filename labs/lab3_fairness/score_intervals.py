"""Intervals of rates that hold in small groups: Wilson, Newcombe, and all pairs at once.

A bootstrap shows what the sample has seen: 5 of 5 resamples to 5 of 5 for ever. Score intervals
invert a test of each possible rate instead, and are never without width.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return _score_limits(hits / trials, trials, z)


def wilson_mean(total: ArrayLike, squares: ArrayLike, n: ArrayLike, *, z: float = Z95) -> Limits:
    """Wilson's interval of a mean of values in 0 to 1, with a design effect.

    A mean m of n values with variance s² is as sure as a rate of m among

        n_eff = n m (1 - m) / s²

    rows. Values of 0 and 1 have s² = m (1 - m) and ``n_eff = n``: then it is :func:`wilson`.
    Values in between vary less. Where all are alike and neither 0 nor 1, the interval has no
    width: that a rule gives everybody 0.3 is all that such a sample shows. With few rows, nearly
    all of one such value, it is therefore too narrow.

    Parameters
    ----------
    total, squares, n : arrays of one shape
        Sum of the values, sum of their squares, and their number. With values of 0 and 1 both
        sums are the number of ones.
    z
        Normal quantile; 1.96 for 95 %.

    Returns
    -------
    low, high : arrays of the same shape
        NaN where n is 0.

    References
    ----------
    Kish: Survey Sampling, 1965, section 8.2 (design effect, effective sample size). Korn and
    Graubard, Survey Methodology 24, 1998, use it in an interval of a proportion.
    """
    sums, second, rows = np.broadcast_arrays(*(np.asarray(a, float) for a in (total, squares, n)))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / rows
        # Both variances times n², so that values of 0 and 1 give a ratio of exactly 1.
        most, seen = sums * rows - sums**2, second * rows - sums**2
        seen = np.where(seen <= 1e-9 * most, 0.0, seen)
        effective = np.where(most > 0, rows * (most / seen), rows)
        return _score_limits(mean, effective, z)


def _score_limits(share: Floats, trials: Floats, z: float) -> Limits:
    """Wilson's limits of a share of any number of trials above 0; NaN without any."""
    centre = share + z**2 / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # At 0 and 1 the limit is 0 and 1 exactly; rounding must not move it inside.
    low = np.where(share == 0, 0.0, (centre - half) / scale)
    high = np.where(share == 1, 1.0, (centre + half) / scale)
    nobody = np.isnan(share)
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
        NaN where fewer than two groups have a value, or one that has a value has no limits: it
        could be anywhere, and the largest difference with it.
    """
    low, high = difference_interval(*_pairs(values, limits))
    unknown = _unknown(values, limits)
    reach = np.where(np.isnan(high), -np.inf, high).max(axis=(-2, -1))
    start = np.where(np.isnan(low), -np.inf, low).max(axis=(-2, -1))
    return np.where(unknown, np.nan, np.maximum(start, 0)), np.where(unknown, np.nan, reach)


def largest_gap_interval(
    rates: Sequence[tuple[Floats, Floats, Floats]], *, level: float = 0.95
) -> Limits:
    """The interval of the largest difference between groups in any of several rates.

    For k rates each gap gets :func:`largest_difference_interval` at level ``1 - (1 - level) / k``
    (Bonferroni). If all of them hold, the largest true gap lies between the largest lower and the
    largest upper limit. Demographic parity has one rate, equalized odds two.

    Parameters
    ----------
    rates
        For each rate the arguments of :func:`wilson_mean`: total, squares and n of every group,
        arrays of shape [..., g].
    level
        Of the interval.

    Returns
    -------
    low, high : arrays of shape [...]
        NaN where a rate has a value in fewer than two groups.

    Raises
    ------
    InputError
        Without a rate.
    """
    require(len(rates) > 0, "rates", len(rates), "must be >= 1", "a gap is of a rate")
    lows, highs = [], []
    for total, squares, n in rates:
        known = int(np.max(np.sum(np.asarray(n) > 0, axis=-1), initial=2))
        z = all_pairs_z(known, 1 - (1 - level) / len(rates))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.asarray(total, float) / n
        low, high = largest_difference_interval(values, wilson_mean(total, squares, n, z=z))
        lows.append(low)
        highs.append(high)
    return np.max(lows, axis=0), np.max(highs, axis=0)


def smallest_ratio_interval(values: Floats, limits: Limits) -> Limits:
    """The interval of the smallest ratio between the groups' true values, min / max.

    Parameters and result as for :func:`largest_difference_interval`; high is at most 1.
    """
    low, high = ratio_interval(*_pairs(values, limits))
    unknown = _unknown(values, limits)
    start = np.where(np.isnan(low), np.inf, low).min(axis=(-2, -1))
    reach = np.where(np.isnan(high), np.inf, high).min(axis=(-2, -1))
    start, reach = np.minimum(start, 1), np.minimum(reach, 1)
    return np.where(unknown, np.nan, start), np.where(unknown, np.nan, reach)


def _unknown(values: Floats, limits: Limits) -> NDArray[np.bool_]:
    """Whether [..., g] values are fewer than two, or some have no limits."""
    known = ~np.isnan(values)
    bare = known & (np.isnan(limits[0]) | np.isnan(limits[1]))
    return np.asarray((known.sum(axis=-1) < 2) | bare.any(axis=-1))


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
