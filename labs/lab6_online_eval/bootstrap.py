"""The bootstrap of two arms: intervals for what has no formula, by drawing the units again.

Each arm is drawn from itself, with replacement, as often as it has units. The spread of the
statistic over such draws is its spread over experiments, nearly. Units are drawn, never their
events.

For a log that is too large to hold or lies on many machines, drawing with replacement is replaced
by weights: a unit comes ``Poisson(1)`` times in each replicate, and its weight is a function of its
id, so that every machine that meets the unit gives it the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, poisson

from common.errors import require
from labs.lab6_online_eval.estimates import finite

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]
"""``statistic(control, treatment, axis=-1)`` on samples [..., n]; one number a row."""

CELLS = 4_000_000
POISSON_CDF = poisson.cdf(np.arange(12), 1.0)


def difference_of_means(control: Floats, treatment: Floats, axis: int = -1) -> Floats:
    """``m_t - m_c``."""
    return np.asarray(treatment.mean(axis=axis) - control.mean(axis=axis))


def relative_difference(control: Floats, treatment: Floats, axis: int = -1) -> Floats:
    """``m_t / m_c - 1``."""
    return np.asarray(treatment.mean(axis=axis) / control.mean(axis=axis) - 1)


@dataclass(frozen=True)
class BootstrapResult:
    """A statistic with the spread of its replicates.

    Attributes
    ----------
    estimate
        Of the arms as they are.
    ci95
        At level ``1 - alpha``: 95 % unless another alpha was asked for.
    se
        Standard deviation of the replicates.
    replicates
        Float [n_boot].
    """

    estimate: float
    ci95: tuple[float, float]
    se: float
    replicates: Floats

    @property
    def p(self) -> float:
        """Two-sided p of no effect: the level whose percentile interval just touches 0."""
        return float(percentile_p(self.replicates))


def percentile_p(replicates: Floats) -> Floats:
    """``2 min(share of replicates <= 0, share >= 0)`` along the last axis; each share counts one
    more above and below the line, so that none is 0."""
    n = replicates.shape[-1] + 1
    below = ((replicates <= 0).sum(axis=-1) + 1) / n
    above = ((replicates >= 0).sum(axis=-1) + 1) / n
    return np.asarray(np.minimum(1.0, 2 * np.minimum(below, above)))


def percentile_bootstrap(
    control: ArrayLike,
    treatment: ArrayLike,
    statistic: Statistic = difference_of_means,
    *,
    n_boot: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> BootstrapResult:
    """The quantiles of the replicates as the ends of an interval.

    Simple, and right in large samples. In small ones it is too narrow (by the factor
    ``sqrt((n - 1) / n)``, and as z is to t), and it is off to the side where the statistic is
    biased or its spread moves with its value.

    Parameters
    ----------
    control, treatment
        One value a unit, float [n].
    statistic
        Of samples [..., n_control] and [..., n_treatment].

    Raises
    ------
    InputError
        Fewer than two units, values that are not finite, ``n_boot`` < 100, or replicates that are
        not finite or all the same.

    Notes
    -----
    Efron (1979), Annals of Statistics 7.
    """
    arms = _arms(control, treatment, n_boot, alpha)
    replicates = _replicates(arms, statistic, n_boot, seed)
    low, high = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    return _result(arms, statistic, (float(low), float(high)), replicates)


def bca_bootstrap(
    control: ArrayLike,
    treatment: ArrayLike,
    statistic: Statistic = difference_of_means,
    *,
    n_boot: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> BootstrapResult:
    """The percentile interval, corrected for bias and for a spread that moves with the value.

        z0 = Phi^-1(share of replicates below the estimate)
        a  = 1/6 sum_j sum_i U_ji^3 / n_j^3 / (sum_j sum_i U_ji^2 / n_j^2)^(3/2)
        level(z) = Phi(z0 + (z0 + z) / (1 - a (z0 + z)))

    where ``U_ji = (n_j - 1) (mean - statistic without unit i of arm j)``, the jackknife. The ends
    are the replicates' quantiles at ``level(z_{alpha/2})`` and ``level(z_{1-alpha/2})``.

    Parameters, errors
        As `percentile_bootstrap`.

    Notes
    -----
    Efron (1987), Better Bootstrap Confidence Intervals, JASA 82. The acceleration of two samples is
    scipy's.
    """
    arms = _arms(control, treatment, n_boot, alpha)
    replicates = _replicates(arms, statistic, n_boot, seed)
    estimate = float(statistic(*arms))
    below = float(((replicates < estimate).mean() + (replicates <= estimate).mean()) / 2)
    z0 = float(norm.ppf(below))
    acceleration = _acceleration(arms, statistic)
    z = np.array([norm.ppf(alpha / 2), norm.isf(alpha / 2)])
    levels = norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(replicates, levels)
    return _result(arms, statistic, (float(low), float(high)), replicates)


def bootstrap_means(values: ArrayLike, *, n_boot: int = 1000, seed: int = 0) -> Floats:
    """The mean of many metrics of the same n units in every replicate, float [k, n_boot].

    To draw n units again is to count how often each comes: one set of counts serves all metrics,
    and every replicate is a row of one matrix product. Metrics keep their correlation.

    Parameters
    ----------
    values
        Float [k, n]: k metrics, one value a unit.

    Raises
    ------
    InputError
        Another shape, fewer than two units, values that are not finite, ``n_boot`` < 100.
    """
    metrics = np.asarray(values, dtype=float)
    require(metrics.ndim == 2, "shape of values", metrics.shape, "must be [k, n]")
    n = metrics.shape[1]
    require(n >= 2, "units", n, "must be at least 2")
    bad = int(np.count_nonzero(~np.isfinite(metrics)))
    require(bad == 0, "values that are not finite", bad, "must be 0")
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 1000")
    drawn = np.random.default_rng(seed).integers(0, n, (n_boot, n))
    cells = (drawn + n * np.arange(n_boot)[:, None]).ravel()
    counts = np.bincount(cells, minlength=n * n_boot).reshape(n_boot, n)
    return np.asarray(metrics @ counts.T / n)


@dataclass(frozen=True)
class PoissonSums:
    """An arm's sums of numerator and denominator in every replicate, float [n_boot].

    ``total`` are the sums without weights, [2]. Sums of parts of a log add up.
    """

    numerator: Floats
    denominator: Floats
    total: tuple[float, float]

    def __add__(self, other: PoissonSums) -> PoissonSums:
        return PoissonSums(
            self.numerator + other.numerator,
            self.denominator + other.denominator,
            (self.total[0] + other.total[0], self.total[1] + other.total[1]),
        )


def poisson_weights(unit: ArrayLike, n_boot: int, seed: int = 0) -> NDArray[np.uint8]:
    """How often each unit comes in each replicate: ``Poisson(1)``, uint8 [n, n_boot].

    A function of unit, replicate and seed alone: no state, no order, the same on every machine.

    Parameters
    ----------
    unit
        Int [n], at least 0; hash text first (see `assignment`).

    Notes
    -----
    Hanley & MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies;
    Chamandy, Muralidharan, Najmi & Naidu (2012), Estimating Uncertainty for Massive Data Streams.
    The hash is splitmix64 (Steele, Lea & Flood 2014).
    """
    key = _splitmix(np.asarray(unit).astype(np.uint64) ^ _splitmix(np.array([seed], np.uint64)))
    replicate = _splitmix(np.arange(1, n_boot + 1, dtype=np.uint64))
    uniform = (_splitmix(key[:, None] ^ replicate[None]) >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(POISSON_CDF, uniform).astype(np.uint8)


def poisson_sums(
    unit: ArrayLike,
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    n_boot: int = 400,
    seed: int = 0,
) -> PoissonSums:
    """One part of an arm's event log, in any order: the weighted sums of its rows.

    Parameters
    ----------
    unit
        The unit of each row, int [n].
    numerator, denominator
        Float [n]: 1 and 0 where the row counts for one of the two; all ones below for a mean of
        rows.

    Raises
    ------
    InputError
        Values that are not finite, lengths that differ, units that are no integers >= 0.
    """
    a = finite("numerator", numerator, least=1)
    b = finite("denominator", denominator, least=1)
    units = np.asarray(unit)
    require(len(a) == len(b), "length of denominator", len(b), f"must be {len(a)}")
    require(units.shape == a.shape, "shape of unit", units.shape, f"must be {a.shape}")
    require(units.dtype.kind in "iu", "type of unit", str(units.dtype), "must be an integer")
    require(int(units.min()) >= 0, "smallest unit", int(units.min()), "must be at least 0")
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 400")
    names, code = np.unique(units, return_inverse=True)
    sums = np.stack([np.bincount(code, values, len(names)) for values in (a, b)])
    weighted = np.zeros((2, n_boot))
    rows = max(1, CELLS // n_boot)
    for start in range(0, len(names), rows):
        part = slice(start, start + rows)
        weighted += sums[:, part] @ poisson_weights(names[part], n_boot, seed).astype(float)
    return PoissonSums(weighted[0], weighted[1], (float(a.sum()), float(b.sum())))


def poisson_bootstrap(
    control: PoissonSums, treatment: PoissonSums, *, alpha: float = 0.05
) -> BootstrapResult:
    """The difference of the arms' ratios, ``sum of numerator / sum of denominator``.

    Raises
    ------
    InputError
        A denominator that is 0 in an arm or in a replicate, or replicates that are all the same.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    for name, arm in (("control", control), ("treatment", treatment)):
        least = min(float(arm.denominator.min()), arm.total[1])
        require(least > 0, f"smallest denominator of {name} over replicates", least, "must be > 0")
    replicates = treatment.numerator / treatment.denominator
    replicates = replicates - control.numerator / control.denominator
    _require_spread(replicates)
    estimate = treatment.total[0] / treatment.total[1] - control.total[0] / control.total[1]
    low, high = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    interval = float(low), float(high)
    return BootstrapResult(estimate, interval, float(replicates.std(ddof=1)), replicates)


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of 64-bit integers; arithmetic modulo 2^64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def _arms(
    control: ArrayLike, treatment: ArrayLike, n_boot: int, alpha: float
) -> tuple[Floats, Floats]:
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 2000")
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    return finite("control", control), finite("treatment", treatment)


def _replicates(arms: Sequence[Floats], statistic: Statistic, n_boot: int, seed: int) -> Floats:
    """The statistic of ``n_boot`` draws: all draws of the control first, then the treatment's."""
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // sum(len(arm) for arm in arms))
    found = []
    for start in range(0, n_boot, rows):
        size = min(rows, n_boot - start)
        drawn = [arm[rng.integers(0, len(arm), (size, len(arm)))] for arm in arms]
        found.append(statistic(*drawn, axis=-1))
    replicates = np.concatenate(found)
    _require_spread(replicates)
    return replicates


def _require_spread(replicates: Floats) -> None:
    bad = int(np.count_nonzero(~np.isfinite(replicates)))
    require(bad == 0, "replicates that are not finite", bad, "must be 0", "is a mean near 0?")
    spread = float(np.ptp(replicates))
    require(spread > 0, "spread of the replicates", spread, "must be > 0", "a constant needs none")


def _acceleration(arms: Sequence[Floats], statistic: Statistic) -> float:
    third = second = 0.0
    for place, arm in enumerate(arms):
        n = len(arm)
        without = np.array([_of_arms(statistic, arms, place, np.delete(arm, i)) for i in range(n)])
        influence = (n - 1) * (without.mean() - without)
        third += float((influence**3).sum()) / n**3
        second += float((influence**2).sum()) / n**2
    return third / 6 / second**1.5


def _of_arms(statistic: Statistic, arms: Sequence[Floats], place: int, arm: Floats) -> float:
    return float(statistic(*(arm if i == place else other for i, other in enumerate(arms))))


def _result(
    arms: Sequence[Floats], statistic: Statistic, interval: tuple[float, float], replicates: Floats
) -> BootstrapResult:
    estimate = float(statistic(*arms))
    return BootstrapResult(estimate, interval, float(replicates.std(ddof=1)), replicates)
