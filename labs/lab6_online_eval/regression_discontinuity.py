"""Regression discontinuity: a rule with a threshold is an experiment at the threshold.

Users with a score of at least the cutoff get the new ranker. Just above and just below they are
alike, unless somebody can choose their side. The jump of the outcome is the effect there, and
nothing is said of anybody elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np
from numpy.typing import ArrayLike

from common.errors import require
from labs.lab6_online_eval.causal_estimate import Bools, Estimand, Estimate, Floats, check_finite
from labs.lab6_online_eval.least_squares import LinearFit, least_squares

LEAST_A_SIDE = 20
EDGE_CONSTANT = 3.4375
"""C_K of the triangular kernel at a boundary: Imbens & Kalyanaraman (2012)."""


@dataclass(frozen=True)
class Discontinuity:
    """The jump at the cutoff.

    ``local_linear``: its point estimate, with an interval that ignores the bias of the bandwidth;
    ``robust``: bias-corrected, with an error that counts the correction: the one to report;
    ``bandwidth``: in units of the score; ``n_used``: units within it.
    """

    local_linear: Estimate
    robust: Estimate
    bandwidth: float
    n_used: int


@dataclass(frozen=True)
class DensityTest:
    """McCrary's test. ``log_ratio``: log of the density just above over that just below the cutoff,
    0 where nobody chooses their side; its ``se`` and two-sided ``p``."""

    log_ratio: float
    se: float
    p: float


def regression_discontinuity(
    outcome: ArrayLike, score: ArrayLike, cutoff: float, *, bandwidth: float | None = None
) -> Discontinuity:
    """Local linear regression with a triangular kernel on either side of the cutoff.

        min sum_i K((s_i - c) / h) [Y_i - a - d D_i - b (s_i - c) - g D_i (s_i - c)]^2
        K(u) = max(0, 1 - |u|),    D_i = [s_i >= c],    effect = d

    The robust estimate adds squares at the same bandwidth. That is exactly the bias correction of
    Calonico, Cattaneo & Titiunik (2014), Econometrica 82, with equal bandwidths:
    the curvature is estimated, subtracted, and its noise counted. Errors are HC3, since the jump
    hangs on the few units nearest to the cutoff (with a few hundred HC2 is about 2 % too small).

    Parameters
    ----------
    outcome, score
        Float [n] each.
    bandwidth
        In units of the score; None: `optimal_bandwidth`.

    Raises
    ------
    InputError
        Fewer than 20 units within the bandwidth on a side, missing values.
    """
    y, s = _checked(outcome, score, cutoff)
    h = optimal_bandwidth(y, s, cutoff) if bandwidth is None else bandwidth
    require(h > 0, "bandwidth", h, "must be > 0")
    distance = (s - cutoff) / h
    near = np.abs(distance) < 1
    above = distance >= 0
    sides = int((near & above).sum()), int((near & ~above).sum())
    require(
        min(sides) >= LEAST_A_SIDE,
        "units within the bandwidth (above, below)",
        sides,
        f"must be at least {LEAST_A_SIDE} on each side",
        "take a wider bandwidth, or admit that the cutoff has no data",
    )
    u, d, value = distance[near], above[near], y[near]
    estimates = []
    for degree in (1, 2):
        fit = _local_polynomial(value, u, d, degree)
        estimates.append(
            Estimate.of(
                float(fit.coefficients[1]),
                float(fit.se[1]),
                estimand=Estimand.LATE,
                n_treated=sides[0],
                n_control=sides[1],
                dof=fit.dof,
            )
        )
    return Discontinuity(estimates[0], estimates[1], float(h), sum(sides))


def optimal_bandwidth(outcome: Floats, score: Floats, cutoff: float) -> float:
    """The bandwidth with the least mean squared error, plugged in.

        h = C_K [ (s2_below + s2_above) / f / ((m2_above - m2_below)^2 + r) ]^(1/5) n^(-1/5)

    s2: variance of the outcome near the cutoff on either side; f: density of the score there; m2:
    second derivatives of the outcome, from local quadratics; r: a term that keeps h finite where
    they are equal.

    Notes
    -----
    Imbens & Kalyanaraman (2012), Optimal Bandwidth Choice for the Regression Discontinuity
    Estimator, Review of Economic Studies 79.
    """
    y, s = _checked(outcome, score, cutoff)
    x, n = s - cutoff, len(s)
    above = x >= 0
    spread = float(x.std(ddof=1))
    pilot = 1.84 * spread * n ** (-1 / 5)
    variances, counts = [], []
    for side in (~above, above):
        near = side & (np.abs(x) <= pilot)
        counts.append(int(near.sum()))
        require(
            counts[-1] >= 2, "units near the cutoff on a side", counts[-1], "must be at least 2"
        )
        variances.append(float(y[near].var(ddof=1)))
    density = sum(counts) / (2 * n * pilot)
    middle = (x >= np.median(x[~above])) & (x <= np.median(x[above]))
    cubic = np.column_stack([np.ones(n), above, x, x**2, x**3])[middle]
    third = 6 * float(least_squares(cubic, y[middle]).coefficients[4])
    seconds, regular = [], 0.0
    for side, variance in zip((~above, above), variances):
        size = int(side.sum())
        wide = (variance / (density * max(third**2, 1e-12 * variance / spread**6))) ** (1 / 7)
        wide = min(3.56 * wide * size ** (-1 / 7), float(np.abs(x[side]).max()))
        near = side & (np.abs(x) <= wide)
        count = int(near.sum())
        require(count >= 4, "units for the curvature on a side", count, "must be at least 4")
        quadratic = np.column_stack([np.ones(count), x[near], x[near] ** 2])
        seconds.append(2 * float(least_squares(quadratic, y[near]).coefficients[2]))
        regular += 2160 * variance / (count * wide**4)
    curvature = (seconds[1] - seconds[0]) ** 2 + regular
    require(sum(variances) > 0, "variance of the outcome near the cutoff", 0.0, "must be > 0")
    return float(EDGE_CONSTANT * (sum(variances) / (density * curvature * n)) ** (1 / 5))


def density_test(score: ArrayLike, cutoff: float) -> DensityTest:
    """Does the number of units jump at the cutoff? Then somebody chooses their side.

    A histogram with the bins ``2 s n^(-1/2)`` wide, smoothed on either side by local linear
    regression with a triangular kernel; the log of the two densities at the cutoff is compared:

        se = sqrt( 24/5 / (n h) (1/f_above + 1/f_below) )

    Notes
    -----
    McCrary (2008), Manipulation of the running variable, Journal of Econometrics 142.
    The bandwidth is half of his rule of thumb for each side (the rule is optimal for the
    estimate, and leaves bias in the test).
    """
    s = np.asarray(score, dtype=float)
    _checked(np.zeros_like(s), s, cutoff)
    x, n = s - cutoff, len(s)
    width = 2 * float(x.std(ddof=1)) / sqrt(n)
    number = np.floor(x / width).astype(np.int64)
    first = int(number.min())
    height = np.asarray(np.bincount(number - first) / (n * width), dtype=np.float64)
    middle = np.asarray((np.arange(len(height)) + first + 0.5) * width, dtype=np.float64)
    densities, widths = [], []
    for side in (middle < 0, middle > 0):
        h = 0.5 * _density_bandwidth(middle[side], height[side])
        h = max(h, 4 * width)
        weight = np.maximum(0, 1 - np.abs(middle[side]) / h)
        used = weight > 0
        design = np.column_stack([np.ones(int(used.sum())), middle[side][used]])
        fit = least_squares(design, height[side][used], weights=weight[used])
        densities.append(float(fit.coefficients[0]))
        widths.append(h)
    require(
        min(densities) > 0,
        "density at the cutoff (below, above)",
        [round(value, 6) for value in densities],
        "must be > 0",
        "there is nobody on one side of the cutoff",
    )
    ratio = log(densities[1] / densities[0])
    se = sqrt(24 / 5 / n * sum(1 / (f * h) for f, h in zip(densities, widths)))
    estimate = Estimate.of(ratio, se, estimand=Estimand.LATE, n_treated=n, n_control=n)
    return DensityTest(ratio, se, estimate.p)


def placebo_cutoffs(
    outcome: ArrayLike, score: ArrayLike, cutoff: float, places: Sequence[float]
) -> list[tuple[float, Estimate]]:
    """The robust jump at cutoffs where nothing happens; each uses its own side of the real one.

    Returns
    -------
    list of (place, estimate)
        About one interval in twenty may miss 0; many say that the outcome is too crooked for the
        bandwidth.
    """
    y, s = _checked(outcome, score, cutoff)
    found = []
    for place in places:
        require(place != cutoff, "placebo cutoff", place, "must differ from the real one")
        side = s >= cutoff if place > cutoff else s < cutoff
        found.append((place, regression_discontinuity(y[side], s[side], place).robust))
    return found


@dataclass(frozen=True)
class Launch:
    """A simulated launch rule. ``score`` float [n] (activity of a user), ``outcome`` float [n]
    (clicks a session), ``effect``: the jump at the cutoff."""

    score: Floats
    outcome: Floats
    cutoff: float
    effect: float

    @property
    def treated(self) -> Bools:
        return np.asarray(self.score >= self.cutoff)


def simulate_launch_rule(
    rng: np.random.Generator, n: int, *, effect: float = 0.3, manipulated: float = 0.0
) -> Launch:
    """Users with an activity score of 0.5 or more get the new ranker. Simulated.

    Clicks rise with the score along a curve, so comparing all above with all below is wrong by far
    more than the effect. The effect itself grows with the score: the jump at the cutoff is
    ``effect``, and larger elsewhere.

    Parameters
    ----------
    manipulated
        Share of the users just below the cutoff (within 0.05) who get themselves over it; they are
        the keen ones.
    """
    require(n >= 100, "n", n, "must be at least 100")
    require(0 <= manipulated <= 1, "manipulated", manipulated, "must be a share")
    cutoff = 0.5
    score = rng.beta(2, 2.5, n)
    noise = rng.normal(0, 0.5, n)
    if manipulated:
        keen = (score >= cutoff - 0.05) & (score < cutoff) & (noise > 0)
        over = keen & (rng.random(n) < manipulated)
        score = np.where(over, cutoff + 0.05 * rng.random(n), score)
    x = score - cutoff
    curve = 1.0 + 1.2 * x + 1.5 * x**2 + 1.0 * np.sin(4 * x)
    outcome = curve + np.where(x >= 0, effect + 0.8 * x, 0.0) + noise
    return Launch(score, outcome, cutoff, effect)


def _local_polynomial(y: Floats, u: Floats, above: Bools, degree: int) -> LinearFit:
    """Fit by powers of u on either side with the triangular kernel; the jump is coefficient 1."""
    powers = [u**power for power in range(1, degree + 1)]
    columns = [np.ones(len(u)), above.astype(float), *powers, *(above * each for each in powers)]
    return least_squares(np.column_stack(columns), y, weights=1 - np.abs(u), hc3=True)


def _density_bandwidth(middle: Floats, height: Floats) -> float:
    """McCrary's rule of thumb on one side: a global polynomial of degree 4 for the curvature."""
    require(len(middle) >= 10, "bins on a side of the cutoff", len(middle), "must be at least 10")
    scale = float(np.abs(middle).max())
    design = np.vander(middle / scale, 5, increasing=True)
    fit = least_squares(design, height)
    second = np.vander(middle / scale, 3, increasing=True) @ (
        fit.coefficients[2:] * np.array([2.0, 6.0, 12.0])
    )
    second = second / scale**2
    variance = float(fit.residuals @ fit.residuals) / fit.dof
    bottom = float(second @ second)
    if bottom <= 0:
        return scale
    return min(3.348 * (variance * scale / bottom) ** (1 / 5), scale)


def _checked(outcome: ArrayLike, score: ArrayLike, cutoff: float) -> tuple[Floats, Floats]:
    y, s = np.asarray(outcome, dtype=float), np.asarray(score, dtype=float)
    require(y.ndim == 1 and s.shape == y.shape, "shape of score", s.shape, f"must be {y.shape}")
    check_finite("outcome", y)
    check_finite("score", s)
    require(-inf < cutoff < inf, "cutoff", cutoff, "must be finite")
    sides = int((s >= cutoff).sum()), int((s < cutoff).sum())
    require(
        min(sides) >= LEAST_A_SIDE,
        "units (above, below) the cutoff",
        sides,
        f"must be at least {LEAST_A_SIDE} on each side",
    )
    return y, s
