"""Confidence limits for the worst of several groups, whose error rate a gate can promise.

Two things make the usual interval of a max-min gap unfit for a verdict. The plug-in gap is
biased upward, and so are its percentile limits: with eight groups of 50 and no disparity they
exclude 0. And the two verdicts are different claims. "The gap is at most d" says that *every*
pair of groups is within d; "the gap is above d" says that *some* pair is not.

*Every* is an intersection-union test (Berger 1982): it may be claimed when each pair alone shows
it at level alpha, without any correction, since the truly worst pair would have to err.
*Some* is a union-intersection test: any of m comparisons may err, so each has alpha / m
(Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri

from common.errors import require

Floats = NDArray[np.float64]

FEW = 5  # successes or failures below which the limits of two groups are not added as squares
MAX_FACTOR = 10_000.0


def clopper_pearson(successes: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """One-sided exact limits of proportions.

    Parameters
    ----------
    successes, n : arrays of shape [g]
        Counts, 0 <= successes <= n, n > 0. Need not be whole numbers.
    alpha
        Error of *each* limit.

    Returns
    -------
    lower, upper : float64 arrays of shape [g]
        ``P(p < lower) <= alpha`` and ``P(p > upper) <= alpha`` for every p and n. Wilson's
        limits are shorter because they hold on average over p only.

    References
    ----------
    Clopper and Pearson: The Use of Confidence or Fiducial Limits, Biometrika 26, 1934.
    """
    x, rows = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    tiny = np.finfo(float).tiny  # keeps the incomplete beta defined where the answer is 0 or 1
    lower = np.where(x <= 0, 0.0, betaincinv(np.maximum(x, tiny), rows - x + 1, alpha))
    upper = np.where(x >= rows, 1.0, betaincinv(x + 1, np.maximum(rows - x, tiny), 1 - alpha))
    return lower, upper


def pair_differences(successes: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    r"""One-sided limits of p_a - p_b for every ordered pair of groups.

    The distances of each group's own limits are added as squares (MOVER), which for Wilson's
    limits is Newcombe's interval:

    .. math:: U_{ab} = \hat p_a - \hat p_b + \sqrt{(u_a - \hat p_a)^2 + (\hat p_b - l_b)^2}

    Here the limits are Clopper and Pearson's; and where a group has fewer than ``FEW`` successes
    or failures, ``u_a - l_b`` with half the error each, because squares add up for bell curves
    only.

    Parameters
    ----------
    successes, n : arrays of shape [g]
    alpha
        Error of each limit.

    Returns
    -------
    lower, upper : float64 arrays of shape [g, g]
        Of ``p[a] - p[b]``; NaN on the diagonal.

    References
    ----------
    Newcombe: Interval Estimation for the Difference between Independent Proportions, Statistics
    in Medicine 17, 1998, method 10. Zou and Donner: Construction of Confidence Limits about
    Effect Measures, Statistics in Medicine 27, 2008.
    """
    x, rows = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    p = x / rows
    low, high = clopper_pearson(x, rows, alpha)
    half_low, half_high = clopper_pearson(x, rows, alpha / 2)
    gap = p[:, None] - p[None]
    few = _few(x, rows)
    lower = np.where(
        few, half_low[:, None] - half_high[None], gap - np.hypot((p - low)[:, None], high - p)
    )
    upper = np.where(
        few, half_high[:, None] - half_low[None], gap + np.hypot((high - p)[:, None], p - low)
    )
    return _off_diagonal(lower), _off_diagonal(upper)


def pair_ratios(successes: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """One-sided limits of p_a / p_b for every ordered pair of groups.

    The limit is the r at which MOVER's limit of ``p_a - r p_b`` is 0, a quadratic equation;
    ``l_a / u_b`` with half the error each where a group has few successes or failures.

    Parameters and returns as for :func:`pair_differences`; 0 to infinity where nothing is known.

    References
    ----------
    Donner and Zou: Closed-form Confidence Intervals for Functions of the Normal Mean and
    Standard Deviation, Statistical Methods in Medical Research 21, 2012, equations 9 and 10.
    """
    x, rows = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    p = x / rows
    low, high = clopper_pearson(x, rows, alpha)
    half_low, half_high = clopper_pearson(x, rows, alpha / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        product = p[:, None] * p[None]
        numerator = (low * (2 * p - low))[:, None]
        root = np.sqrt(np.maximum(product**2 - (high * (2 * p - high))[None] * numerator, 0))
        lower = np.where(numerator > 0, numerator / (product + root), 0.0)
        divisor = (low * (2 * p - low))[None]
        root = np.sqrt(np.maximum(product**2 - divisor * (high * (2 * p - high))[:, None], 0))
        upper = np.where(divisor > 0, (product + root) / divisor, np.inf)
        few = _few(x, rows)
        lower = np.where(few, half_low[:, None] / half_high[None], lower)
        upper = np.where(
            few, np.where(half_low[None] > 0, half_high[:, None] / half_low[None], np.inf), upper
        )
    return _off_diagonal(lower), _off_diagonal(upper)


def bounds(
    kind: str,
    direction: str,
    successes: ArrayLike,
    n: ArrayLike,
    alpha: float,
    power: float = 0.5,
) -> tuple[float, float]:
    """A lower and an upper limit of a rule's quantity, each wrong with probability <= alpha.

    ============  ==========  =======================  =============  =====================
    kind          direction   quantity                 lower limit    upper limit
    ============  ==========  =======================  =============  =====================
    difference    at_most     max p - min p            some, alpha/m  every, alpha
    ratio         at_least    min p / max p            every, alpha   some, alpha/m
    worst_group   at_least    min p                    every, alpha   some, alpha/m
    worst_group   at_most     max p                    some, alpha/m  every, alpha
    ============  ==========  =======================  =============  =====================

    m is the number of comparisons: ordered pairs, or groups.

    Parameters
    ----------
    successes, n : arrays of shape [g]
        Two groups at least for a difference or a ratio.
    alpha
        1 - confidence.
    power
        Limits as far out as they must be for a sample with these rates to decide with this
        probability: the quantile of the limit is moved by that of the power. 0.5 moves nothing.

    Returns
    -------
    (lower, upper)

    References
    ----------
    Berger: Multiparameter Hypothesis Testing and Acceptance Sampling, Technometrics 24, 1982.
    """
    groups = np.size(n)
    require(groups >= (1 if kind == "worst_group" else 2), "groups", groups, "must be two or more")
    m = groups if kind == "worst_group" else groups * (groups - 1)
    limits = {
        "difference": pair_differences,
        "ratio": pair_ratios,
        "worst_group": clopper_pearson,
    }[kind]

    def level(error: float) -> float:
        return float(ndtr(ndtri(error) - ndtri(power)))

    every, some = limits(successes, n, level(alpha)), limits(successes, n, level(alpha / m))
    if direction == "at_most":
        lower, upper = float(np.nanmax(some[0])), float(np.nanmax(every[1]))
        return (max(lower, 0.0), upper) if kind == "difference" else (lower, upper)
    lower, upper = float(np.nanmin(every[0])), float(np.nanmin(some[1]))
    return (lower, min(upper, 1.0)) if kind == "ratio" else (lower, upper)


def estimate(kind: str, direction: str, successes: ArrayLike, n: ArrayLike) -> float:
    """The plug-in value of a rule's quantity; NaN for a ratio of zeros."""
    p = np.asarray(successes, dtype=float) / np.asarray(n, dtype=float)
    if kind == "difference":
        return float(p.max() - p.min())
    if kind == "ratio":
        return float(p.min() / p.max()) if p.max() > 0 else float("nan")
    return float(p.min() if direction == "at_least" else p.max())


@dataclass(frozen=True)
class RowsNeeded:
    """How many times the rows would decide, and which way if the rates stay as they are.

    ``factor`` is infinite when the estimate lies at the bound.
    """

    factor: float
    would_pass: bool


def rows_needed(
    kind: str,
    direction: str,
    successes: ArrayLike,
    n: ArrayLike,
    bound: float,
    alpha: float,
    power: float = 0.8,
) -> RowsNeeded:
    """About how many times the rows would give a verdict with this power.

    All groups grow alike and keep their rates, which for a small group is a guess. The power is
    that of the worst pair alone: where others are nearly as far apart, ask for more.

    Parameters
    ----------
    successes, n : arrays of shape [g]
    bound
        Of the rule.
    alpha
        1 - confidence.
    power
        Chance that a sample of that size decides.
    """
    x, rows = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    value = estimate(kind, direction, x, rows)
    at_most = direction == "at_most"
    would_pass = bool(value < bound if at_most else value > bound)

    def decided(factor: float) -> bool:
        lower, upper = bounds(kind, direction, x * factor, rows * factor, alpha, power)
        if would_pass:
            return upper <= bound if at_most else lower >= bound
        return lower > bound if at_most else upper < bound

    if not np.isfinite(value) or not decided(MAX_FACTOR):
        return RowsNeeded(float("inf"), would_pass)
    low, high = 0.0, float(np.log(MAX_FACTOR))
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(float(np.exp(middle))) else (middle, high)
    return RowsNeeded(float(np.exp(high)), would_pass)


def _few(x: Floats, rows: Floats) -> NDArray[np.bool_]:
    few = np.minimum(x, rows - x) < FEW
    return np.asarray(few[:, None] | few[None])


def _off_diagonal(matrix: Floats) -> Floats:
    np.fill_diagonal(matrix, np.nan)
    return matrix
