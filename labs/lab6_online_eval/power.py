"""How many units, how small an effect: the power of a two-sample test before it runs.

One identity holds everything. The estimate is normal around the true effect with the standard error

    se = sqrt(v_c / n_c + v_t / n_t),

and it is found when it exceeds ``z_{1-alpha/2} se``; so an effect is found with probability
``power`` when it is ``(z_{1-alpha/2} + z_power) se``. Solve that for n, or for the effect. The
exact forms below use Student's t, noncentral, which matters below about 50 units an arm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import nct, norm
from scipy.stats import t as student_t

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.estimates import finite

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """One unit's metric before the experiment: its mean and its variance between units."""

    mean: float
    variance: float

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.mean)), "mean", self.mean, "must be finite")
        require(
            bool(np.isfinite(self.variance)) and self.variance > 0,
            "variance",
            self.variance,
            "must be finite and > 0",
            "a constant metric cannot be tested",
        )

    @classmethod
    def of(cls, values: ArrayLike) -> Baseline:
        """Of a mean: one value a unit, float [n]."""
        metric = finite("values", values)
        return cls(float(metric.mean()), float(metric.var(ddof=1)))

    @classmethod
    def of_proportion(cls, rate: float) -> Baseline:
        """Of a share of units: ``rate (1 - rate)``."""
        require(0 < rate < 1, "rate", rate, "must be between 0 and 1")
        return cls(rate, rate * (1 - rate))

    @classmethod
    def of_ratio(cls, numerator: ArrayLike, denominator: ArrayLike) -> Baseline:
        """Of a ratio of sums R (clicks a session), by the delta method: the unit's metric is

        R + (x_i - R y_i) / mean(y).
        """
        x, y = finite("numerator", numerator), finite("denominator", denominator)
        require(len(x) == len(y), "length of denominator", len(y), f"must be {len(x)}")
        require(float(y.sum()) > 0, "sum of the denominator", float(y.sum()), "must be > 0")
        ratio = float(x.sum() / y.sum())
        return cls(ratio, float(((x - ratio * y) / y.mean()).var(ddof=1)))

    def adjusted(self, variance_reduction: float) -> Baseline:
        """After CUPED, which leaves ``1 - variance_reduction`` of the variance."""
        require(
            0 <= variance_reduction < 1,
            "variance_reduction",
            variance_reduction,
            "must be in [0, 1)",
        )
        return Baseline(self.mean, self.variance * (1 - variance_reduction))


@exercise(
    "6.16",
    points=5,
    title="How many units a relative effect needs",
    hint="Write down the standard error of a difference of two means for n units in all, of which "
    "a share is treated. How many of it must the effect measure, so that a two-sided test finds it "
    "with the wanted probability? The lift is relative.",
)
def units_needed(
    lift: float,
    mean: float,
    variance: float,
    *,
    treated_share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Units in all, both arms together, to find a relative change of a mean: the normal formula.

        n = (z_{1-alpha/2} + z_power)^2  variance (1 / s + 1 / (1 - s)) / (lift * mean)^2

    rounded up, with s the treated share. At half and half, 5 % and 80 % this is
    ``31.4 variance / effect^2``: about the rule of thumb "16 variances over effect squared in
    each arm".

    Parameters
    ----------
    lift
        The smallest relative change worth finding, 0.02 for 2 %; either sign, not 0.
    mean, variance
        Of the metric, one value a unit.
    treated_share
        Share of the units in the treatment, between 0 and 1.
    alpha, power
        Two-sided error rate, and the probability of finding the lift when it is there.

    Raises
    ------
    InputError
        A lift or a mean of 0, a variance that is not positive, shares outside (0, 1).

    Notes
    -----
    van Belle (2008), Statistical Rules of Thumb, chapter 2. The chance to find the effect with the
    wrong sign is left out; at 80 % it is below 1e-5.
    """
    _check(alpha, power, treated_share)
    require(variance > 0 and np.isfinite(variance), "variance", variance, "must be > 0, finite")
    effect = abs(lift * mean)
    require(effect > 0 and np.isfinite(effect), "lift * mean", effect, "must not be 0, and finite")
    # BEGIN SOLUTION
    quantiles = norm.isf(alpha / 2) + norm.ppf(power)
    arms = 1 / treated_share + 1 / (1 - treated_share)
    return ceil(quantiles**2 * variance * arms / effect**2)
    # END SOLUTION


def detectable_effect(
    n: ArrayLike,
    variance: ArrayLike,
    *,
    treated_share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Floats:
    """The minimum detectable effect (absolute) of n units in all: `units_needed` solved for it.

        mde = (z_{1-alpha/2} + z_power) sqrt(variance / n (1 / s + 1 / (1 - s)))

    ``n`` and ``variance`` broadcast.
    """
    _check(alpha, power, treated_share)
    arms = 1 / treated_share + 1 / (1 - treated_share)
    quantiles = norm.isf(alpha / 2) + norm.ppf(power)
    return np.asarray(quantiles * np.sqrt(np.asarray(variance) / np.asarray(n) * arms))


def power_normal(
    effect: ArrayLike,
    n: ArrayLike,
    variance: ArrayLike,
    *,
    treated_share: float = 0.5,
    alpha: float = 0.05,
) -> Floats:
    """Power of the two-sided z-test with n units in all, both tails; arguments broadcast."""
    _check(alpha, 0.8, treated_share)
    arms = 1 / treated_share + 1 / (1 - treated_share)
    shift = np.asarray(effect) / np.sqrt(np.asarray(variance) / np.asarray(n) * arms)
    critical = norm.isf(alpha / 2)
    return np.asarray(norm.sf(critical - shift) + norm.cdf(-critical - shift))


@dataclass(frozen=True)
class TwoArms:
    """Sizes (they may be fractions while solving) and variances of the arms."""

    n_control: float
    n_treatment: float
    variance_control: float
    variance_treatment: float

    def __post_init__(self) -> None:
        least = min(self.n_control, self.n_treatment)
        require(least >= 2, "units in the smaller arm", least, "must be at least 2")
        for name in ("variance_control", "variance_treatment"):
            value = getattr(self, name)
            require(value > 0 and np.isfinite(value), name, value, "must be > 0 and finite")

    @classmethod
    def of(cls, n: float, variance: float, treated_share: float = 0.5) -> TwoArms:
        """n units in all, one variance."""
        return cls((1 - treated_share) * n, treated_share * n, variance, variance)

    @property
    def se(self) -> float:
        """Standard error of the difference of means."""
        return sqrt(sum(self._parts))

    @property
    def dof(self) -> float:
        """Welch-Satterthwaite."""
        control, treatment = self._parts
        return (control + treatment) ** 2 / (
            control**2 / (self.n_control - 1) + treatment**2 / (self.n_treatment - 1)
        )

    @property
    def _parts(self) -> tuple[float, float]:
        return (
            self.variance_control / self.n_control,
            self.variance_treatment / self.n_treatment,
        )


def power_t(effect: float, arms: TwoArms, *, alpha: float = 0.05) -> float:
    """Power of Welch's two-sided test: the noncentral t with shift ``effect / se``, both tails."""
    _check(alpha, 0.8, 0.5)
    shift, dof = effect / arms.se, arms.dof
    critical = student_t.isf(alpha / 2, dof)
    return _tail(critical, dof, shift) + _tail(critical, dof, -shift)


def units_needed_t(
    effect: float,
    variance: float,
    *,
    treated_share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Units in all for an absolute effect by Welch's test: the smallest n whose power suffices."""
    start = units_needed(
        effect, 1.0, variance, treated_share=treated_share, alpha=alpha, power=power
    )
    least = 2 / min(treated_share, 1 - treated_share) + 1e-9

    def excess(n: float) -> float:
        return power_t(effect, TwoArms.of(n, variance, treated_share), alpha=alpha) - power

    return _smallest(excess, least, max(2.0 * start, 4 * least))


def detectable_effect_t(arms: TwoArms, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The absolute effect that Welch's two-sided test finds with probability ``power``."""
    _check(alpha, power, 0.5)
    highest = arms.se * (student_t.isf(alpha / 2, arms.dof) + 10 + student_t.isf(1e-3, arms.dof))
    return float(brentq(lambda x: power_t(x, arms, alpha=alpha) - power, 0.0, highest, xtol=1e-12))


def non_inferiority_power(
    effect: float, margin: float, arms: TwoArms, *, alpha: float = 0.05
) -> float:
    """Probability that a guardrail passes: the one-sided test of "worse by ``margin`` or more".

    The guardrail passes when ``(estimate + margin) / se > t_{1-alpha}``; so

        power = P(T_dof(shift) > t_{1-alpha}),    shift = (effect + margin) / se.

    Parameters
    ----------
    effect
        The true effect (absolute; the metric such that higher is better), 0 for "no harm".
    margin
        The loss that would still be accepted, absolute and > 0.
    """
    _check(alpha, 0.8, 0.5)
    require(margin > 0, "margin", margin, "must be > 0", "the absolute loss still accepted")
    return _tail(student_t.isf(alpha, arms.dof), arms.dof, (effect + margin) / arms.se)


def units_for_non_inferiority(
    margin: float,
    variance: float,
    *,
    effect: float = 0.0,
    treated_share: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Units in all for a guardrail to pass with probability ``power`` at the true ``effect``."""
    _check(alpha, power, treated_share)
    require(effect + margin > 0, "effect + margin", effect + margin, "must be > 0")
    least = 2 / min(treated_share, 1 - treated_share) + 1e-9
    start = units_needed(effect + margin, 1.0, variance, treated_share=treated_share, power=power)

    def excess(n: float) -> float:
        arms = TwoArms.of(n, variance, treated_share)
        return non_inferiority_power(effect, margin, arms, alpha=alpha) - power

    return _smallest(excess, least, max(4.0 * start, 4 * least))


def post_hoc_power(p: float, *, alpha: float = 0.05) -> float:
    """The power "at the observed effect": a function of the p-value, and of nothing else.

    Kept to show that it says nothing new: p = .05 gives 50 % whatever the experiment was. Hoenig &
    Heisey (2001), The Abuse of Power, The American Statistician 55.
    """
    require(0 < p <= 1, "p", p, "must be in (0, 1]")
    shift, critical = norm.isf(p / 2), norm.isf(alpha / 2)
    return float(norm.sf(critical - shift) + norm.cdf(-critical - shift))


def _tail(critical: float, dof: float, shift: float) -> float:
    """``P(T > critical)`` of the noncentral t; 0 where scipy's series gives up far out."""
    value = float(nct.sf(critical, dof, shift))
    if np.isnan(value):
        value = float(norm.sf(critical - shift))
    return min(1.0, max(0.0, value))


def _smallest(excess: Callable[[float], float], least: float, start: float) -> int:
    """The smallest whole n from ``least`` with ``excess(n) >= 0``; excess rises with n."""
    if excess(least) >= 0:
        return ceil(least - 1e-6)
    most = start
    while excess(most) < 0:
        most *= 2
    return ceil(float(brentq(excess, least, most, xtol=1e-7)) - 1e-6)


def _check(alpha: float, power: float, treated_share: float) -> None:
    require(0 < alpha < 1, "alpha", alpha, "must be in (0, 1)", "try 0.05")
    require(0 < power < 1, "power", power, "must be in (0, 1)", "try 0.8")
    require(0 < treated_share < 1, "treated_share", treated_share, "must be in (0, 1)", "try 0.5")
