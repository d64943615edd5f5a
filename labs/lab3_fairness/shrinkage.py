"""Rates of many small groups, each drawn towards what all of them have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import betaln, expit, gammaln
from scipy.stats import beta

from common.errors import InputError, require

Floats = NDArray[np.float64]

ALIKE = 1e6  # a prior worth more rows than this holds all groups at one rate


@dataclass(frozen=True)
class Shrunk:
    """Rates under the prior ``Beta(mean * weight, (1 - mean) * weight)`` of all groups.

    Attributes
    ----------
    mean : float
        What the groups have in common.
    weight : float
        The rows that the prior is worth: a group of n rows keeps ``n / (n + weight)`` of its
        distance to the mean. Large where the groups hardly differ.
    values, low, high : float64 arrays of shape [g]
        Posterior mean and 95 % interval of each group. The intervals take the prior for known,
        so with few groups they are somewhat too narrow.
    """

    mean: float
    weight: float
    values: Floats
    low: Floats
    high: Floats


def beta_binomial_shrinkage(successes: ArrayLike, n: ArrayLike) -> Shrunk:
    """Empirical Bayes: the prior is fitted to the groups, and each group updates it.

    The successes of group i are Binomial(n_i, p_i), and p_i is Beta with mean m and weight w.
    Both maximise the likelihood of all groups with p_i integrated out (beta-binomial); then

        p̂_i = (x_i + m w) / (n_i + w)

    Parameters
    ----------
    successes, n : arrays of shape [g]
        Counts; a group of n = 0 gets the mean.

    Returns
    -------
    Shrunk

    Raises
    ------
    InputError
        For counts that are none, or fewer than three groups with rows: between two there is no
        spread to learn from.

    References
    ----------
    Efron and Morris: Data Analysis Using Stein's Estimator and its Generalizations, JASA 70,
    1975. Casella: An Introduction to Empirical Bayes Data Analysis, The American Statistician
    39, 1985.
    """
    hits, trials = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    if hits.shape != trials.shape or hits.ndim != 1:
        raise InputError(f"successes {hits.shape} and n {trials.shape} must both be [g]")
    bad = np.flatnonzero(~((hits >= 0) & (hits <= trials)))
    if bad.size:
        at = bad[0]
        raise InputError(f"successes[{at}] = {hits[at]:g} must be between 0 and n = {trials[at]:g}")
    known = trials > 0
    require(int(known.sum()) >= 3, "groups with rows", int(known.sum()), "must be >= 3")
    x, size = hits[known], trials[known]

    def unlikely(mean: float, weight: float) -> float:
        a, b = mean * weight, (1 - mean) * weight
        return -float(np.sum(betaln(x + a, size - x + b) - betaln(a, b)))

    def best_mean(weight: float) -> float:
        found = minimize_scalar(
            lambda logit: unlikely(float(expit(logit)), weight), bounds=(-12, 12), method="bounded"
        )
        return float(expit(found.x))

    profile = minimize_scalar(
        lambda log: unlikely(best_mean(float(np.exp(log))), float(np.exp(log))),
        bounds=(np.log(0.1), np.log(ALIKE)),
        method="bounded",
    )
    weight = float(np.exp(profile.x))
    mean = best_mean(weight)
    a, b = hits + mean * weight, trials - hits + (1 - mean) * weight
    low, high = (np.asarray(beta.ppf(level, a, b)) for level in (0.025, 0.975))
    return Shrunk(mean, weight, a / (a + b), low, high)


@dataclass(frozen=True)
class HeldOut:
    """Root mean squared error of raw and of shrunk rates to those of rows held out."""

    n_groups: int
    keep: int
    raw: float
    shrunk: float


def held_out_error(
    successes: ArrayLike, n: ArrayLike, *, keep: int = 20, repeats: int = 100, seed: int = 0
) -> HeldOut:
    """How far rates of ``keep`` rows a group lie from the rates of the group's other rows.

    Parameters
    ----------
    successes, n : int arrays of shape [g]
        Only groups with at least ``5 * keep`` rows take part, so that the rest is nearly the
        truth.
    keep
        Rows of each group that are seen.
    repeats
        Random choices of those rows.
    seed
        Of the choices.

    Raises
    ------
    InputError
        For fewer than three groups of that size.
    """
    hits, trials = np.asarray(successes, dtype=np.int64), np.asarray(n, dtype=np.int64)
    large = trials >= 5 * keep
    many = int(large.sum())
    require(many >= 3, "groups with enough rows", many, "must be >= 3", f"keep < {keep} rows")
    hits, trials = hits[large], trials[large]
    rng = np.random.default_rng(seed)
    seen = rng.hypergeometric(hits, trials - hits, keep, size=(repeats, many))
    rest = (hits - seen) / (trials - keep)
    shrunk = np.stack([beta_binomial_shrinkage(row, np.full(many, keep)).values for row in seen])
    return HeldOut(
        many,
        keep,
        float(np.sqrt(np.mean((seen / keep - rest) ** 2))),
        float(np.sqrt(np.mean((shrunk - rest) ** 2))),
    )


def james_stein(values: ArrayLike, variance: float) -> Floats:
    """The positive-part James-Stein estimator around the mean of equally precise values.

        θ̂_i = ȳ + max(0, 1 - (g - 3) σ² / Σ(y_j - ȳ)²) (y_i - ȳ)

    Parameters
    ----------
    values : array of shape [g], g >= 4
        Normal with one known variance, such as rates of groups of one size on the scale
        ``sqrt(n) arcsin(2 p - 1)``, where the variance is 1.
    variance
        Of each value about its own mean.

    References
    ----------
    Efron and Morris, JASA 70, 1975, section 2.
    """
    y = np.asarray(values, dtype=float)
    require(y.ndim == 1 and len(y) >= 4, "values", y.shape, "must be [g] with g >= 4")
    require(variance > 0, "variance", variance, "must be above 0")
    off = y - y.mean()
    total = float(np.sum(off**2))
    keep = max(0.0, 1 - (len(y) - 3) * variance / total) if total > 0 else 0.0
    result: Floats = y.mean() + keep * off
    return result


def log_likelihood(successes: ArrayLike, n: ArrayLike, mean: float, weight: float) -> float:
    """The beta-binomial log-likelihood that :func:`beta_binomial_shrinkage` maximises."""
    x, size = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    a, b = mean * weight, (1 - mean) * weight
    ways = gammaln(size + 1) - gammaln(x + 1) - gammaln(size - x + 1)
    return float(np.sum(ways + betaln(x + a, size - x + b) - betaln(a, b)))
