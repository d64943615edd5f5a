"""Two proportions, such as the share of users who came back: the test, and intervals that hold.

Near 0 and 1 the normal interval of a proportion goes wrong: it is symmetric, and its width comes
from the estimate itself, so that no success in fifty gives the interval from 0 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from common.errors import require

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Lower and upper ends, float of the shape of the counts."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class ProportionComparison:
    """Treatment against control on a share of units.

    Attributes
    ----------
    effect, ci95
        The difference of shares, with Newcombe's interval.
    wald_ci95
        The normal interval of the difference, for comparison.
    p
        Two-sided, of the pooled z-test.
    relative_risk, relative_risk_ci95
        The ratio of shares, with Katz's interval; None when an arm has no success.

    Intervals are at level ``1 - alpha``: 95 % unless another alpha was asked for.
    """

    effect: float
    ci95: tuple[float, float]
    wald_ci95: tuple[float, float]
    p: float
    relative_risk: float | None
    relative_risk_ci95: tuple[float, float] | None
    n_control: int
    n_treatment: int


def compare_proportions(
    control: int, n_control: int, treatment: int, n_treatment: int, *, alpha: float = 0.05
) -> ProportionComparison:
    """Compare two shares of units from their counts of successes.

    Parameters
    ----------
    control, treatment
        Units with a success.
    n_control, n_treatment
        Units in each arm.

    Raises
    ------
    InputError
        An empty arm, counts outside 0 to n, alpha outside (0, 1), or a share of 0 or 1 in both
        arms together, which leaves nothing to test.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    for name, count, n in (("control", control, n_control), ("treatment", treatment, n_treatment)):
        require(n >= 1, f"units in {name}", n, "must be at least 1")
        require(0 <= count <= n, f"successes in {name}", count, f"must be between 0 and {n}")
    together = control + treatment
    require(
        0 < together < n_control + n_treatment,
        "successes in both arms",
        together,
        f"must be between 1 and {n_control + n_treatment - 1}",
        "a share of 0 or 1 in both arms needs no test",
    )
    counts = (control, n_control, treatment, n_treatment)
    risk = risk_ci = None
    if control and treatment:
        risk = treatment / n_treatment / (control / n_control)
        risk_ci = _ends(katz(*counts, alpha=alpha))
    return ProportionComparison(
        effect=treatment / n_treatment - control / n_control,
        ci95=_ends(newcombe(*counts, alpha=alpha)),
        wald_ci95=_ends(wald(*counts, alpha=alpha)),
        p=float(pooled_z_p(*counts)),
        relative_risk=risk,
        relative_risk_ci95=risk_ci,
        n_control=n_control,
        n_treatment=n_treatment,
    )


def pooled_z_p(c: ArrayLike, n_c: ArrayLike, t: ArrayLike, n_t: ArrayLike) -> Floats:
    """Two-sided p of the two-proportion z-test, for many tables at once.

        z = (p_t - p_c) / sqrt(p (1 - p) (1/n_t + 1/n_c)),    p = (t + c) / (n_t + n_c)

    One share for both arms, as the hypothesis says. ``z^2`` is Pearson's chi-square of the table.
    """
    control, n_control, treated, n_treated = _floats(c, n_c, t, n_t)
    pooled = (control + treated) / (n_control + n_treated)
    se = np.sqrt(pooled * (1 - pooled) * (1 / n_control + 1 / n_treated))
    difference = np.abs(treated / n_treated - control / n_control)
    z = np.divide(difference, se, out=np.zeros_like(difference), where=se > 0)
    return np.asarray(2 * norm.sf(z))


def wilson(successes: ArrayLike, n: ArrayLike, *, alpha: float = 0.05) -> Interval:
    """Wilson's interval of one share: all p for which a z-test would not reject the count.

        (p + z^2/2n -+ z sqrt(p (1-p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Wilson (1927), JASA 22.
    """
    count, units = _floats(successes, n)
    z = float(norm.isf(alpha / 2))
    share = count / units
    centre = (share + z**2 / (2 * units)) / (1 + z**2 / units)
    half = z * np.sqrt(share * (1 - share) / units + z**2 / (4 * units**2)) / (1 + z**2 / units)
    return Interval(np.maximum(centre - half, 0), np.minimum(centre + half, 1))


def newcombe(
    c: ArrayLike, n_c: ArrayLike, t: ArrayLike, n_t: ArrayLike, *, alpha: float = 0.05
) -> Interval:
    """Newcombe's interval of a difference of shares, built of each arm's Wilson interval (l, u).

        d - sqrt((p_t - l_t)^2 + (u_c - p_c)^2)    to    d + sqrt((u_t - p_t)^2 + (p_c - l_c)^2)

    Where the difference is low, the treatment is low *and* the control is high: the ends add as
    independent errors do, each taken on the side where it matters.

    Newcombe (1998), Statistics in Medicine 17, method 10.
    """
    control, n_control, treated, n_treated = _floats(c, n_c, t, n_t)
    share_c, share_t = control / n_control, treated / n_treated
    low_c, high_c = wilson(control, n_control, alpha=alpha)
    low_t, high_t = wilson(treated, n_treated, alpha=alpha)
    difference = share_t - share_c
    return Interval(
        difference - np.hypot(share_t - low_t, high_c - share_c),
        difference + np.hypot(high_t - share_t, share_c - low_c),
    )


def wald(
    c: ArrayLike, n_c: ArrayLike, t: ArrayLike, n_t: ArrayLike, *, alpha: float = 0.05
) -> Interval:
    """The normal interval of a difference, ``d -+ z sqrt(p_t(1-p_t)/n_t + p_c(1-p_c)/n_c)``."""
    control, n_control, treated, n_treated = _floats(c, n_c, t, n_t)
    share_c, share_t = control / n_control, treated / n_treated
    variance = share_c * (1 - share_c) / n_control + share_t * (1 - share_t) / n_treated
    half = float(norm.isf(alpha / 2)) * np.sqrt(variance)
    return Interval(share_t - share_c - half, share_t - share_c + half)


def katz(
    c: ArrayLike, n_c: ArrayLike, t: ArrayLike, n_t: ArrayLike, *, alpha: float = 0.05
) -> Interval:
    """Katz's interval of the ratio of shares, normal on the logarithm; all counts > 0.

        log(p_t / p_c) -+ z sqrt(1/t - 1/n_t + 1/c - 1/n_c)

    Katz, Baptista, Azen & Pike (1978), Biometrics 34.
    """
    control, n_control, treated, n_treated = _floats(c, n_c, t, n_t)
    least = float(min(control.min(), treated.min()))
    require(least > 0, "smallest count of successes", least, "must be > 0 for a ratio")
    centre = np.log(treated / n_treated) - np.log(control / n_control)
    variance = 1 / treated - 1 / n_treated + 1 / control - 1 / n_control
    half = float(norm.isf(alpha / 2)) * np.sqrt(variance)
    return Interval(np.exp(centre - half), np.exp(centre + half))


def _floats(*values: ArrayLike) -> list[Floats]:
    return [np.asarray(value, dtype=float) for value in values]


def _ends(interval: Interval) -> tuple[float, float]:
    return float(interval.low), float(interval.high)
