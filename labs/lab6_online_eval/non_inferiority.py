"""Is it no worse than we said we could bear: one-sided tests against a margin.

"Not significantly worse" is what an experiment with five users says of everything. A guardrail has
to show the opposite: that a loss of the size of the margin is excluded by the data. So the null
hypothesis is harm, and the burden of proof lies with the treatment.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.significance import Moments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NonInferiority:
    """Outcome of the test at level ``alpha``, one-sided. All effects are relative.

    Attributes
    ----------
    bound
        The worst effect that the data still allow, in the metric's own direction: the lower end
        when higher is better, the upper end when lower is better.
    p
        Of the null hypothesis "worse by the margin or more"; small means safe.
    p_harm
        Of the null hypothesis "not worse than the margin"; small means harm beyond the margin.
    non_inferior, harmful
        Whether ``p`` and ``p_harm`` are below alpha; with neither, the data do not decide.
    """

    effect: float
    se: float
    margin: float
    bound: float
    p: float
    p_harm: float
    non_inferior: bool
    harmful: bool


@exercise(
    "6.14",
    points=5,
    title="Decide non-inferiority against a relative margin",
    hint="Write down the null hypothesis first: it says that the treatment *is* worse by the "
    "margin. How far is the estimate from that point, and in which direction is evidence against?",
)
def non_inferiority_test(
    effect: float,
    se: float,
    margin: float,
    *,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    dof: float = inf,
) -> NonInferiority:
    """One-sided test that the treatment is not worse by ``margin`` or more.

    With the gain g = effect when higher is better, and g = -effect when lower is better,

        H0: g <= -margin,    t = (g + margin) / se,    p = P(T_dof > t),

    and the bound is the one-sided ``1 - alpha`` end of the interval on the side of harm:
    ``g - t_{1-alpha} se``, with the sign turned back when lower is better. ``p < alpha`` exactly
    when the bound's gain is above ``-margin``.

    Parameters
    ----------
    effect, se
        Relative effect (treatment / control - 1) and its standard error.
    margin
        The relative loss that would still be accepted, > 0 in either direction: 0.05 for a
        latency is "at most 5 % slower".
    higher_is_better
        False for latency, errors and complaints.
    alpha
        One-sided error rate: how often harm as large as the margin passes.
    dof
        Degrees of freedom of ``se``; infinite gives the normal law.

    Returns
    -------
    NonInferiority

    Raises
    ------
    InputError
        An effect or error that is not a number, ``se`` <= 0, ``margin`` <= 0, alpha not in (0, .5).

    Notes
    -----
    Wellek (2010), Testing Statistical Hypotheses of Equivalence and Noninferiority, section 1.5.
    """
    check_non_inferiority(effect, se, margin, alpha)
    require(dof > 0, "dof", dof, "must be > 0", "look later")
    # BEGIN SOLUTION
    sign = 1.0 if higher_is_better else -1.0
    gain = sign * effect
    statistic = (gain + margin) / se
    p = float(student_t.sf(statistic, dof))
    p_harm = float(student_t.cdf(statistic, dof))
    bound = sign * (gain - float(student_t.isf(alpha, dof)) * se)
    return NonInferiority(effect, se, margin, bound, p, p_harm, p < alpha, p_harm < alpha)
    # END SOLUTION


def non_inferiority_of_means(
    control: Moments,
    treatment: Moments,
    margin: float,
    *,
    higher_is_better: bool = True,
    alpha: float = 0.05,
) -> NonInferiority:
    """The same question of two means, without dividing by an estimated mean.

    ``m_t / m_c > 1 - margin`` is the same as ``m_t - (1 - margin) m_c > 0`` while the control's
    mean is positive. The right-hand form is a difference of two independent means, so Welch's
    test holds as it stands; the ratio needs the delta method, which is rough while the control's
    mean is known badly.

        se^2 = s_t^2 / n_t + (1 -+ margin)^2 s_c^2 / n_c

    Returns
    -------
    NonInferiority
        ``effect``, ``se`` and ``bound`` as shares of the control's mean.

    Raises
    ------
    InputError
        As `non_inferiority_test`; also fewer than two units in an arm, and a control mean that is
        not above 0.

    Notes
    -----
    Fieller (1954), JRSS B 16; for margins: Hauschke et al. (1999), Statistics in Medicine 18.
    """
    require(control.mean > 0, "mean of the control", control.mean, "must be > 0")
    least = min(control.n, treatment.n)
    require(least >= 2, "units in the smaller arm", least, "must be at least 2", "look later")
    require(0 < margin < 1, "margin", margin, "must be in (0, 1)")
    factor = 1 - margin if higher_is_better else 1 + margin
    scaled = factor**2 * control.variance
    parts = np.array([scaled / control.n, treatment.variance / treatment.n])
    sizes = np.array([control.n, treatment.n])
    se = sqrt(parts.sum())
    require(se > 0, "variance of the metric", 0.0, "must be > 0", "a constant needs no test")
    effect = treatment.mean / control.mean - 1
    check_non_inferiority(effect, se, margin, alpha)
    dof = float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum())
    sign = 1.0 if higher_is_better else -1.0
    statistic = sign * (treatment.mean - factor * control.mean) / se
    p, p_harm = float(student_t.sf(statistic, dof)), float(student_t.cdf(statistic, dof))
    bound = effect - sign * float(student_t.isf(alpha, dof)) * se / control.mean
    return NonInferiority(
        effect, se / control.mean, margin, bound, p, p_harm, p < alpha, p_harm < alpha
    )


def non_inferiority_p_values(
    effect: ArrayLike, se: ArrayLike, margin: float, dof: float = inf
) -> Floats:
    """p of `non_inferiority_test` for many metrics of which higher is better: float [n]."""
    statistic = (np.asarray(effect, dtype=float) + margin) / np.asarray(se, dtype=float)
    return np.asarray(student_t.sf(statistic, dof))


def non_inferiority_power(
    margin: float,
    variation: float,
    n_control: float,
    n_treatment: float,
    *,
    effect: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Probability that a guardrail passes, for a relative margin and a normal estimate.

        power = Phi( (effect + margin) / se - z_{1-alpha} )
        se^2  = v^2 ( 1 / n_t + (1 + effect)^2 / n_c )

    ``se`` is the delta method's for the relative effect, as `non_inferiority_test` is given it.

    Parameters
    ----------
    margin
        Relative, of a metric of which higher is better.
    variation
        v, the coefficient of variation: standard deviation over mean of one unit, both arms.
    n_control, n_treatment
        Units.
    effect
        The true relative effect; 0 asks how often a harmless change is recognised as such.
    """
    require(margin > 0, "margin", margin, "must be > 0")
    require(variation > 0, "variation", variation, "must be > 0", "a constant needs no test")
    require(min(n_control, n_treatment) >= 2, "units", n_control, "must be at least 2 an arm")
    se = variation * sqrt(1 / n_treatment + (1 + effect) ** 2 / n_control)
    return float(norm.cdf((effect + margin) / se - norm.isf(alpha)))


def units_per_arm(
    margin: float, variation: float, *, effect: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Units in each of two equal arms for a guardrail to pass with probability ``power``.

        n = v^2 (1 + (1 + effect)^2) (z_{1-alpha} + z_power)^2 / (effect + margin)^2

    Halving the margin takes four times the units: a margin is a price, not a formality.
    """
    require(0 < power < 1, "power", power, "must be in (0, 1)", "try 0.8")
    require(variation > 0, "variation", variation, "must be > 0", "a constant needs no test")
    distance = effect + margin
    require(distance > 0, "effect + margin", distance, "must be > 0", "no size excludes the truth")
    quantiles = float(norm.isf(alpha) + norm.isf(1 - power))
    return ceil(variation**2 * (1 + (1 + effect) ** 2) * (quantiles / distance) ** 2)


def check_non_inferiority(effect: float, se: float, margin: float, alpha: float) -> None:
    """Raise `InputError` unless the test of these can be computed."""
    require(isfinite(effect), "effect", effect, "must be finite", "drop the metric and say why")
    require(isfinite(se) and se > 0, "se", se, "must be finite and > 0", "wait for more units")
    require(
        isfinite(margin) and margin > 0,
        "margin",
        margin,
        "must be > 0",
        "the relative loss that would still be accepted, such as 0.01, in either direction",
    )
    require(0 < alpha < 0.5, "alpha", alpha, "must be in (0, 0.5)", "try 0.05")
