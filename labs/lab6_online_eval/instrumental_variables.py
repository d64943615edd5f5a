"""Instrumental variables: what a coin decided, among those who did what it said.

Some of the encouraged do not follow, and some follow without. Who did is a choice, and comparing by
choices compares people. The coin is still fair: what it did to the outcome, divided by what it did
to the take-up, is the effect on those whom it moved (the compliers).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    as_binary,
    check_finite,
    check_units,
    difference_in_means,
)
from labs.lab6_online_eval.least_squares import LinearFit, least_squares

WEAK = 10.0


@exercise(
    "6.25",
    points=5,
    title="The effect on compliers from an encouragement",
    hint="Compare by the coin and never by the choice. The residual is taken with the "
    "treatment that was received, not with the one that was predicted.",
)
def wald_estimate(outcome: Floats, received: Bools, assigned: Bools) -> tuple[float, float]:
    """The Wald estimate, which is two-stage least squares of one binary instrument, and its error.

        effect = (Y_1 - Y_0) / (D_1 - D_0)      means over the assigned (1) and the others (0)
        u_i    = Y_i - effect * D_i
        se^2   = [ s^2(u; assigned) / n_1 + s^2(u; others) / n_0 ] / (D_1 - D_0)^2

    with s^2 the sample variances (n - 1).

    Parameters
    ----------
    outcome
        Float [n].
    received
        Bool [n]: D, whether the unit took the treatment.
    assigned
        Bool [n]: Z, whether the coin encouraged it to.

    Returns
    -------
    (effect, se)

    Notes
    -----
    Wald (1940); Imbens & Angrist (1994), Econometrica 62: with no defiers, and an encouragement
    that acts through the treatment alone, it is the mean effect on compliers.
    """
    # BEGIN SOLUTION
    take_up = received[assigned].mean() - received[~assigned].mean()
    effect = (outcome[assigned].mean() - outcome[~assigned].mean()) / take_up
    u = outcome - effect * received
    variance = sum(u[arm].var(ddof=1) / np.count_nonzero(arm) for arm in (assigned, ~assigned))
    return float(effect), float(np.sqrt(variance) / abs(take_up))
    # END SOLUTION


@dataclass(frozen=True)
class Encouragement:
    """Everything that an encouragement experiment can say, and two things that it cannot.

    ``itt``: effect of being encouraged; ``take_up``: share whom the coin moved, with its
    ``first_stage_f``; ``cace``: the effect on them; ``anderson_rubin``: an interval for it that
    holds however weak the coin is. ``as_treated`` and ``per_protocol`` compare by choice.
    """

    itt: Estimate
    take_up: Estimate
    first_stage_f: float
    cace: Estimate
    anderson_rubin: Interval
    one_sided: bool
    as_treated: Estimate
    per_protocol: Estimate


@dataclass(frozen=True)
class Interval:
    """A confidence set: [low, high]; or, when ``outside``, everything *but* the open (low, high).

    A weak instrument leaves a set without end, which is the honest answer: the data do not bound
    the effect.
    """

    low: float
    high: float
    outside: bool = False

    @property
    def bounded(self) -> bool:
        return not self.outside and self.low > -inf and self.high < inf

    def covers(self, value: float) -> bool:
        """Whether the set holds ``value``."""
        if self.outside:
            return value <= self.low or value >= self.high
        return self.low <= value <= self.high


def wald(outcome: ArrayLike, received: ArrayLike, assigned: ArrayLike) -> Estimate:
    """`wald_estimate`, checked, with its interval of the normal law.

    Raises
    ------
    InputError
        An empty arm, a take-up that the coin does not move at all, or so weakly (F below 10) that
        the normal law does not hold: `anderson_rubin` still answers there.
    """
    y, d, z = _checked(outcome, received, assigned)
    strength = _take_up_f(d, z)
    require(
        strength >= WEAK,
        "first-stage F",
        round(strength, 2),
        f"must be at least {WEAK:g} for a normal interval",
        "use anderson_rubin, which holds with a weak instrument",
    )
    effect, se = wald_estimate(y, d, z)
    n_assigned = int(z.sum())
    return Estimate.of(
        effect, se, estimand=Estimand.LATE, n_treated=n_assigned, n_control=len(z) - n_assigned
    )


def analyse_encouragement(
    outcome: ArrayLike, received: ArrayLike, assigned: ArrayLike
) -> Encouragement:
    """ITT, take-up, effect on compliers with two intervals, and the two wrong comparisons.

    Parameters
    ----------
    outcome, received, assigned
        [n] each; the last two are 0 and 1.
    """
    y, d, z = _checked(outcome, received, assigned)
    followed = d == z
    return Encouragement(
        itt=difference_in_means(y, z),
        take_up=difference_in_means(d.astype(float), z),
        first_stage_f=_take_up_f(d, z),
        cace=wald(y, d, z),
        anderson_rubin=anderson_rubin(y, d, z),
        one_sided=not bool(d[~z].any()),
        as_treated=difference_in_means(y, d),
        per_protocol=difference_in_means(y[followed], z[followed]),
    )


def anderson_rubin(
    outcome: ArrayLike, received: ArrayLike, assigned: ArrayLike, *, alpha: float = 0.05
) -> Interval:
    """All effects b for which ``Y - b D`` does not differ by the coin: valid for any strength.

    With itt_y, itt_d the effects of the coin on outcome and take-up, and v their covariance
    (Welch's in each arm), b is kept when

        (itt_y - b itt_d)^2 <= z^2 (v_yy - 2 b v_yd + b^2 v_dd)

    which is a quadratic in b: an interval when the take-up is significant at ``alpha``, and
    otherwise the outside of one, or the whole line.

    Notes
    -----
    Anderson & Rubin (1949); Fieller (1954). Andrews, Stock & Sun (2019), Weak Instruments in IV
    Regression, Annual Review of Economics 11.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    y, d, z = _checked(outcome, received, assigned)
    q = float(ndtri(1 - alpha / 2)) ** 2
    columns = np.stack([y, d.astype(float)])
    itt = columns[:, z].mean(axis=1) - columns[:, ~z].mean(axis=1)
    v = np.cov(columns[:, z]) / z.sum() + np.cov(columns[:, ~z]) / (~z).sum()
    a = itt[1] ** 2 - q * v[1, 1]
    b = -2 * (itt[0] * itt[1] - q * v[0, 1])
    c = itt[0] ** 2 - q * v[0, 0]
    inside = b * b - 4 * a * c
    if inside < 0:
        # the parabola does not meet 0; the estimate itself is always kept, so it opens downward
        return Interval(-inf, inf)
    roots = sorted(((-b - sqrt(inside)) / (2 * a), (-b + sqrt(inside)) / (2 * a)))
    return Interval(float(roots[0]), float(roots[1]), outside=bool(a < 0))


@dataclass(frozen=True)
class TwoStage:
    """Two-stage least squares: ``fit`` has the coefficients, the treatment's first.

    ``first_stage_f``: robust F of the instruments; ``estimate``: the treatment's effect.
    """

    fit: LinearFit
    first_stage_f: float
    estimate: Estimate


def two_stage_least_squares(
    outcome: Floats,
    treatment: Floats,
    instruments: Floats,
    exogenous: Floats | None = None,
    *,
    clusters: ArrayLike | None = None,
) -> TwoStage:
    """The treatment replaced by what the instruments predict of it, with the right residuals.

        d_hat = P_Z d          beta = (X_hat' X_hat)^-1 X_hat' y,    X_hat = [d_hat, 1, exogenous]
        u = y - X beta         with the *observed* d: the second stage's own residual is another
        V = (X_hat' X_hat)^-1 (sum u_i^2 / (1 - h_i) x_i x_i') (X_hat' X_hat)^-1

    Parameters
    ----------
    outcome, treatment
        Float [n] each.
    instruments
        Float [n] or [n, m].
    exogenous
        Float [n, k]: covariates of both stages.
    clusters
        [n]: rows with one label may be correlated; the covariance is then CR1.

    Raises
    ------
    InputError
        Instruments with an F below 10, missing values, columns that depend on each other.
    """
    n = len(outcome)
    z = instruments[:, None] if instruments.ndim == 1 else instruments
    rest = np.column_stack([np.ones(n)] + ([] if exogenous is None else [exogenous]))
    first = least_squares(np.column_stack([z, rest]), treatment, clusters=clusters)
    m = z.shape[1]
    gamma, v = first.coefficients[:m], first.covariance[:m, :m]
    strength = float(gamma @ np.linalg.solve(v, gamma) / m)
    require(
        strength >= WEAK,
        "first-stage F",
        round(strength, 2),
        f"must be at least {WEAK:g} for a normal interval",
        "a weak instrument needs anderson_rubin",
    )
    predicted = treatment - first.residuals
    fitted = np.column_stack([predicted, rest])
    beta = least_squares(fitted, outcome).coefficients
    u = outcome - np.column_stack([treatment, rest]) @ beta
    # u is orthogonal to the fitted columns, so this is the same fit with u for its residuals
    fit = least_squares(fitted, fitted @ beta + u, clusters=clusters)
    n_treated = int(np.count_nonzero(treatment))
    return TwoStage(
        fit,
        strength,
        Estimate.of(
            float(beta[0]),
            float(fit.se[0]),
            estimand=Estimand.LATE,
            n_treated=n_treated,
            n_control=n - n_treated,
        ),
    )


def _checked(
    outcome: ArrayLike, received: ArrayLike, assigned: ArrayLike
) -> tuple[Floats, Bools, Bools]:
    y = np.asarray(outcome, dtype=float)
    d, z = as_binary("received", received), as_binary("assigned", assigned)
    check_units(y, z)
    require(d.shape == y.shape, "shape of received", d.shape, f"must be {y.shape}")
    check_finite("outcome", y)
    return y, d, z


def _take_up_f(received: Bools, assigned: Bools) -> float:
    """The first stage's F: the squared t of the coin's effect on the take-up, Welch's error."""
    ones, zeros = received[assigned].astype(float), received[~assigned].astype(float)
    variance = ones.var(ddof=1) / len(ones) + zeros.var(ddof=1) / len(zeros)
    moved = float(ones.mean() - zeros.mean())
    if variance == 0:
        return inf if moved else 0.0
    return float(moved**2 / variance)
