"""Confidence sequences: intervals that hold at every look, so that anybody may look at any time.

A 95 % interval covers the truth with probability .95 at *one* time that was fixed beforehand. A
95 % confidence sequence covers it at *all* times at once with probability .95. Then it does not
matter who looked when, or why the experiment was stopped.

The form here is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas
(2024), Time-uniform central limit theory and asymptotic confidence sequences, Annals of
Statistics 52 (https://arxiv.org/abs/2103.06476), as GrowthBook's statistics engine uses it. It is
Robbins's (1970) normal mixture with an estimated variance: it holds from the first look on if that
look has enough units for a normal interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.significance import Moments, compare_moments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SequentialComparison:
    """Treatment against control at one look, valid at every look.

    ``effect``, ``ci`` and ``p`` are absolute; the relative ones are None when the control's mean
    is 0. ``n`` counts the units of both arms.
    """

    effect: float
    ci: tuple[float, float]
    p: float
    relative: float | None
    relative_ci: tuple[float, float] | None
    relative_p: float | None
    n: int


def mixing_rho(tuned_for: float, alpha: float) -> float:
    """The rho that makes the sequence narrowest at about ``tuned_for`` units (both arms).

    ``rho = sqrt( (-2 log(alpha) + log(-2 log(alpha) + 1)) / tuned_for )``

    Any fixed rho is valid. One that is chosen after looking, or that follows n, is not.

    Notes
    -----
    Waudby-Smith et al. (2024), appendix on optimising rho; `tuning_for_looks` chooses
    ``tuned_for``.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    require(
        bool(np.isfinite(tuned_for)) and tuned_for > 0,
        "tuned_for",
        tuned_for,
        "must be > 0",
        "a number of units fixed before the run",
    )
    log = -2 * np.log(alpha)
    return float(np.sqrt((log + np.log(log + 1)) / tuned_for))


@exercise(
    "6.13",
    points=10,
    title="Half-width of an asymptotic confidence sequence",
    hint="`se` is the standard error of the effect, the paper's variance is that of one unit. "
    "What does the interval do when n grows 100-fold: does it shrink tenfold, or a little less?",
)
def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    """Half-width of the two-sided asymptotic confidence sequence at the look with n units.

        half^2 = sigma^2 * 2 (n rho^2 + 1) / (n rho)^2 * log( sqrt(n rho^2 + 1) / alpha )

    with ``sigma^2 = n se^2`` and rho from `mixing_rho` of ``tuned_for``, a constant of the
    experiment.

    Parameters
    ----------
    se
        Standard error of the effect at each look, float [...].
    n
        Units of both arms seen by then, [...].
    tuned_for
        Units at which the sequence is to be narrow; fixed before the run.

    Returns
    -------
    float [...]
        The effect lies within ``estimate +- half`` at all looks together with probability
        ``1 - alpha``.

    Raises
    ------
    InputError
        A standard error that is not > 0, or n < 2.

    Notes
    -----
    Waudby-Smith et al. (2024), Theorem 2.2 (version 7 of the preprint: equation 9).
    """
    error, units = _checked(se, n)
    # BEGIN SOLUTION
    rho2 = mixing_rho(tuned_for, alpha) ** 2
    grown = units * rho2 + 1
    sigma2 = units * error**2
    squared = sigma2 * 2 * grown / (units**2 * rho2) * np.log(np.sqrt(grown) / alpha)
    return np.asarray(np.sqrt(squared))
    # END SOLUTION


def one_sided_half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    """Distance of a one-sided bound: ``effect < estimate + half`` at all looks together.

        half^2 = sigma^2 * 2 (n rho^2 + 1) / (n rho)^2 * log( 1 + sqrt(n rho^2 + 1) / (2 alpha) )

    The mixture is over positive drifts alone. rho is that of a two-sided sequence at 2 alpha.

    Notes
    -----
    Waudby-Smith et al. (2024), appendix on one-sided sequences.
    """
    error, units = _checked(se, n)
    grown = units * mixing_rho(tuned_for, 2 * alpha) ** 2 + 1
    squared = error**2 * 2 * grown / (grown - 1) * np.log1p(np.sqrt(grown) / (2 * alpha))
    return np.asarray(np.sqrt(squared))


def always_valid_p(
    effect: ArrayLike,
    se: ArrayLike,
    n: ArrayLike,
    *,
    tuned_for: float = 1000.0,
    alpha: float = 0.05,
) -> Floats:
    """The p-value that belongs to the sequence: below alpha exactly when 0 is outside it.

        p = min(1, sqrt(n rho^2 + 1) * exp( -z^2 / 2 * n rho^2 / (n rho^2 + 1) )),   z = effect / se

    ``alpha`` sets rho, so this inverts the sequence at that level; at others it stays valid, and
    is a little off the narrowest. 1 / p is an e-value: a bet on "there is an effect" that
    multiplies its stake by that much.
    """
    error, units = _checked(se, n)
    grown = units * mixing_rho(tuned_for, alpha) ** 2 + 1
    z2 = (_finite(effect) / error) ** 2
    log_e = z2 / 2 * (grown - 1) / grown - np.log(grown) / 2
    return np.asarray(np.exp(-np.maximum(log_e, 0.0)))


def one_sided_always_valid_p(
    excess: ArrayLike,
    se: ArrayLike,
    n: ArrayLike,
    *,
    tuned_for: float = 1000.0,
    alpha: float = 0.05,
) -> Floats:
    """p-value of "the true excess is at most 0", below alpha exactly when the bound excludes 0.

    The inverse of `one_sided_half_width`: with ``w = exp(z^2 / 2 * n rho^2 / (n rho^2 + 1))``,
    ``p = sqrt(n rho^2 + 1) / (2 (w - 1))``, at most 1; 1 for an excess <= 0.
    """
    error, units = _checked(se, n)
    grown = units * mixing_rho(tuned_for, 2 * alpha) ** 2 + 1
    z = np.maximum(_finite(excess) / error, 0.0)
    exponent = z**2 / 2 * (grown - 1) / grown
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.minimum(1.0, np.sqrt(grown) / (2 * np.expm1(exponent))))


def compare_always_valid(
    control: Moments, treatment: Moments, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> SequentialComparison:
    """`significance.compare_moments` with intervals and p-values that hold at every look.

    The first look needs about 100 units an arm: the guarantee is asymptotic in that look.

    Raises
    ------
    InputError
        As `compare_moments`: fewer than two units, no variance, values that are not finite.
    """
    for name, arm in (("control", control), ("treatment", treatment)):
        require(arm.n >= 2, f"units of {name}", arm.n, "must be at least 2", "look later")
    fixed = compare_moments(control, treatment, alpha=alpha)
    n = control.n + treatment.n

    def sequence(estimate: float, se: float) -> tuple[tuple[float, float], float]:
        half = float(half_width(se, n, tuned_for=tuned_for, alpha=alpha))
        p = float(always_valid_p(estimate, se, n, tuned_for=tuned_for, alpha=alpha))
        return (estimate - half, estimate + half), p

    ci, p = sequence(fixed.effect, fixed.se)
    relative_ci = relative_p = None
    if fixed.relative is not None and fixed.relative_ci95 is not None:
        widths = [high - low for low, high in (fixed.ci95, fixed.relative_ci95)]
        relative_ci, relative_p = sequence(fixed.relative, fixed.se * widths[1] / widths[0])
    return SequentialComparison(fixed.effect, ci, p, fixed.relative, relative_ci, relative_p, n)


def tuning_for_looks(
    sizes: Sequence[float], *, weights: Sequence[float] | None = None, alpha: float = 0.05
) -> float:
    """The ``tuned_for`` whose expected length over the looks is the least.

    The expectation is over when the decision will be taken: ``weights[k]`` is the probability of
    stopping at the look with ``sizes[k]`` units (equal when left out). The length at n units is
    proportional to the half-width with unit variance, ``se = 1 / sqrt(n)``.

    Parameters
    ----------
    sizes
        Units of both arms at each planned look.
    weights
        One a look, not negative, not all 0.
    """
    units = np.asarray(sizes, dtype=float)
    share = np.ones_like(units) if weights is None else np.asarray(weights, dtype=float)
    require(len(units) >= 1, "looks", len(units), "must be at least 1")
    require(len(share) == len(units), "weights", len(share), f"must be {len(units)}, one a look")
    require(
        bool((share >= 0).all() and share.sum() > 0), "weights", weights, "must not be negative"
    )

    def expected_length(log_tuned: float) -> float:
        half = half_width(
            1 / np.sqrt(units), units, tuned_for=float(np.exp(log_tuned)), alpha=alpha
        )
        # relative to the fixed-horizon length at the same look, so that early looks do not rule
        return float((share * half * np.sqrt(units)).sum() / share.sum())

    low, high = np.log(units.min() / 100), np.log(units.max() * 100)
    found = minimize_scalar(expected_length, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def running_intersection(low: ArrayLike, high: ArrayLike) -> tuple[Floats, Floats]:
    """The interval of all looks so far, looks on the last axis: it never widens.

    An experiment that has excluded 0 at one look has excluded it for good. An empty intersection
    (low > high) means that the sequence has failed, which happens with probability alpha at most.
    """
    return (
        np.maximum.accumulate(np.asarray(low, dtype=float), axis=-1),
        np.minimum.accumulate(np.asarray(high, dtype=float), axis=-1),
    )


def _checked(se: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    error, units = np.asarray(se, dtype=float), np.asarray(n, dtype=float)
    bad = int(np.count_nonzero(~(np.isfinite(error) & (error > 0))))
    require(bad == 0, "standard errors that are not > 0", bad, "must be 0", "look later")
    few = int(np.count_nonzero(~(np.isfinite(units) & (units >= 2))))
    require(few == 0, "looks with fewer than two units", few, "must be 0", "look later")
    return error, units


def _finite(effect: ArrayLike) -> Floats:
    estimate = np.asarray(effect, dtype=float)
    bad = int(np.count_nonzero(~np.isfinite(estimate)))
    require(bad == 0, "effects that are not finite", bad, "must be 0")
    return estimate
