"""Group-sequential tests: a few looks, planned, for hardly more units than one look.

A confidence sequence pays for the right to look whenever anybody likes. Who knows beforehand that
there will be K looks pays less: the joint law of the K test statistics is known (correlated
normals), so the boundaries can be computed under which the probability of *ever* crossing one is
alpha exactly.

Everything is on the information scale: ``t_k`` in (0, 1] is the share of the final information
(1 / se^2) at look k. The score ``S_k = Z_k sqrt(t_k)`` is then a Brownian motion with drift:
independent increments, ``S_k - S_{k-1} ~ N(theta dt, dt)``, whatever the metric.

Jennison & Turnbull (2000), Group Sequential Methods with Applications to Clinical Trials; Armitage,
McPherson & Rowe (1969), JRSS A 132, for the recursion; Lan & DeMets (1983), Biometrika 70.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from common.errors import require

Floats = NDArray[np.float64]
Spending = Callable[[Floats, float], Floats]

NODES = 160
FAR = 10.0
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(NODES)


def obrien_fleming_spending(t: Floats, alpha: float) -> Floats:
    """Error spent by time t (two-sided): nearly nothing early, so the last look loses little.

    ``4 - 4 Phi( z_{1-alpha/4} / sqrt(t) )``: Lan & DeMets (1983), alpha_1, alpha/2 a side.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(4 * ndtr(ndtri(alpha / 4) / np.sqrt(t)))


def pocock_spending(t: Floats, alpha: float) -> Floats:
    """Error spent by time t: about evenly. ``alpha log(1 + (e - 1) t)``, Lan & DeMets (1983)."""
    return np.asarray(alpha * np.log1p((np.e - 1) * t))


@dataclass(frozen=True)
class Boundaries:
    """A two-sided plan of K looks.

    Attributes
    ----------
    times
        Float [K]: share of the final information at each look.
    z
        Float [K]: stop at look k, and call it significant, when ``|Z_k| >= z[k]``.
    spent
        Float [K]: probability under no effect of having stopped at look k or before.
    """

    times: Floats
    z: Floats
    spent: Floats

    @property
    def nominal_p(self) -> Floats:
        """The two-sided p-value that look k must fall below."""
        return np.asarray(2 * ndtr(-self.z))


def information_times(information: Sequence[float] | Floats) -> Floats:
    """Times from the information at each look, such as units or 1 / se^2: divided by the last.

    Raises
    ------
    InputError
        No looks, or information that does not grow from look to look.
    """
    values = np.asarray(information, dtype=float)
    require(values.ndim == 1 and len(values) >= 1, "looks", values.size, "must be at least 1")
    grows = bool(np.isfinite(values).all() and values[0] > 0 and (np.diff(values) > 0).all())
    require(grows, "information", values.tolist(), "must be > 0 and grow from look to look")
    return values / values[-1]


def spending_boundaries(
    information: Sequence[float] | Floats,
    spending: Spending = obrien_fleming_spending,
    *,
    alpha: float = 0.05,
) -> Boundaries:
    """Lan-DeMets boundaries for looks at any information, equally spaced or not.

    Look k spends ``spending(t_k) - spending(t_{k-1})``: its boundary is where the probability of
    crossing there, and at no look before, is that much. Boundaries of past looks do not depend
    on when later ones take place, so the plan bends when a look is missed or the traffic is not
    what was expected.

    Parameters
    ----------
    information
        At each look [K], any unit: users, 1 / se^2, days.
    spending
        Increasing, ``spending(1, alpha) = alpha``.

    Examples
    --------
    >>> spending_boundaries([1, 2, 3, 4, 5]).z.round(3).tolist()
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    _check_alpha(alpha)
    return _spend(information_times(information), spending, alpha)


def _spend(times: Floats, spending: Spending, alpha: float) -> Boundaries:
    targets = np.diff(spending(times, alpha), prepend=0.0)
    bounds = np.empty(len(times))
    walk = Walk.start()
    for look, time in enumerate(times):
        ahead = walk.ahead(time)
        score = _score_above(ahead, targets[look] / 2)
        bounds[look] = score / np.sqrt(time)
        walk = ahead.kept(-score, score)
    return Boundaries(times, bounds, spending(times, alpha))


def pocock(looks: int, *, alpha: float = 0.05) -> Boundaries:
    """The same boundary at each of equally spaced looks (Pocock 1977, Biometrika 64).

    For five looks and alpha .05: 2.413, where one look has 1.960.
    """
    return _scaled(looks, lambda times: np.ones_like(times), alpha)


def obrien_fleming(looks: int, *, alpha: float = 0.05) -> Boundaries:
    """Boundaries ``c / sqrt(t)``, high early and near 1.96 at the end (Biometrics 1979, 35).

    For five equally spaced looks and alpha .05: 4.562, 3.226, 2.634, 2.281, 2.040.
    """
    return _scaled(looks, lambda times: 1 / np.sqrt(times), alpha)


def crossing_probabilities(
    times: Floats, upper: ArrayLike, lower: ArrayLike | None = None, *, drift: float = 0.0
) -> tuple[Floats, Floats]:
    """Probability of stopping at each look above and below: float [K] each.

    Parameters
    ----------
    times
        Float [K], increasing, at most 1.
    upper, lower
        Boundaries of Z, float [K]; ``lower`` is ``-upper`` when left out.
    drift
        E[Z] at t = 1: the true effect over the final standard error.

    Notes
    -----
    The density g_k of the score of those that have not stopped follows the recursion

        g_k(s) = integral of g_{k-1}(u) phi((s - u - theta dt) / sqrt(dt)) / sqrt(dt) du

    over the continuing region (Armitage, McPherson & Rowe 1969), by Gauss-Legendre quadrature.
    """
    top = np.asarray(upper, dtype=float) * np.sqrt(times)
    bottom = -top if lower is None else np.asarray(lower, dtype=float) * np.sqrt(times)
    above, below = np.empty(len(times)), np.empty(len(times))
    walk = Walk.start(drift)
    for look, time in enumerate(times):
        ahead = walk.ahead(float(time))
        above[look], below[look] = ahead.above(top[look]), ahead.below(bottom[look])
        walk = ahead.kept(float(bottom[look]), float(top[look]))
    return above, below


def power(boundaries: Boundaries, drift: float) -> float:
    """Probability of stopping on the side of the effect, ``drift`` = effect / final se."""
    above, _ = crossing_probabilities(boundaries.times, boundaries.z, drift=abs(drift))
    return float(above.sum())


def expected_information(boundaries: Boundaries, drift: float) -> float:
    """Mean share of the final information at which the experiment stops."""
    above, below = crossing_probabilities(boundaries.times, boundaries.z, drift=drift)
    stops = (above + below)[:-1]
    return float((stops * boundaries.times[:-1]).sum() + (1 - stops.sum()))


def drift_for_power(boundaries: Boundaries, target: float) -> float:
    """The drift at which the plan has the power ``target``."""
    require(0.1 <= target < 1, "power", target, "must be in [0.1, 1)", "try 0.8")
    return float(brentq(lambda drift: power(boundaries, drift) - target, 0.0, 20.0, xtol=1e-10))


def inflation(boundaries: Boundaries, *, target: float = 0.8, alpha: float = 0.05) -> float:
    """Final size of the plan over that of one look with the same power: (theta / theta_1)^2.

    Pocock's five looks at alpha .05 and power .9: 1.207; O'Brien-Fleming's 1.026.
    """
    _check_alpha(alpha)
    single = drift_for_power(
        Boundaries(np.ones(1), np.array([-ndtri(alpha / 2)]), np.ones(1)), target
    )
    return (drift_for_power(boundaries, target) / single) ** 2


def futility_bounds(
    boundaries: Boundaries,
    *,
    beta: float = 0.2,
    spending: Spending = obrien_fleming_spending,
) -> tuple[Floats, float]:
    """Lower boundaries for giving up, by spending beta: (z [K], drift that is planned for).

    At look k the experiment is given up when ``Z_k < lower[k]``; over all looks that happens with
    probability ``beta`` when the planned effect is true. The last lower boundary meets the upper
    one, which fixes the drift. The bounds do not bind: the upper boundaries were computed without
    them, so going on in spite of one does not raise the false positives.

    Notes
    -----
    Pampallona, Tsiatis & Kim (2001), Drug Information Journal 35.
    """
    require(0 < beta < 0.5, "beta", beta, "must be in (0, 0.5)", "try 0.2")
    targets = np.diff(spending(boundaries.times, beta), prepend=0.0)
    tops = boundaries.z * np.sqrt(boundaries.times)

    def scores(drift: float) -> Floats:
        walk, found = Walk.start(drift), np.empty(len(tops))
        for look, time in enumerate(boundaries.times):
            ahead = walk.ahead(float(time))
            found[look] = _score_below(ahead, targets[look])
            walk = ahead.kept(float(min(found[look], tops[look] - 1e-6)), float(tops[look]))
        return found

    fixed = float(-ndtri(beta)) + float(boundaries.z[-1])
    drift = float(brentq(lambda theta: scores(theta)[-1] - tops[-1], 0.5 * fixed, 2 * fixed))
    return scores(drift) / np.sqrt(boundaries.times), drift


def stagewise_p(boundaries: Boundaries, look: NDArray[np.int64], z: Floats) -> Floats:
    """p-values of experiments that ended at ``look`` (0-based) with statistic ``z``: float [n].

    Stopping earlier is the stronger evidence, and at the same look the larger absolute z; so p is
    the probability under no effect of stopping before, or at this look with one at least as large.
    It is at most alpha exactly when a boundary was crossed, and uniform under no effect. It is a
    statement about experiments that have *ended*: for one that goes on see `repeated_p`.

    Raises
    ------
    InputError
        An experiment that has neither crossed its boundary nor reached the last look.

    Notes
    -----
    Fairbanks & Madsen (1982); Tsiatis, Rosner & Mehta (1984), Biometrics 40.
    """
    going_on = (look < len(boundaries.z) - 1) & (np.abs(z) < boundaries.z[look])
    unfinished = int(np.count_nonzero(going_on))
    require(unfinished == 0, "experiments that have not ended", unfinished, "must be 0")
    p = np.empty(len(z))
    walk, before = Walk.start(), 0.0
    tops = boundaries.z * np.sqrt(boundaries.times)
    for each, time in enumerate(boundaries.times):
        ahead = walk.ahead(float(time))
        mine = np.flatnonzero(look == each)
        p[mine] = before + 2 * ahead.above(np.abs(z[mine]) * np.sqrt(time))
        before += 2 * float(ahead.above(tops[each]))
        walk = ahead.kept(float(-tops[each]), float(tops[each]))
    return p


def repeated_p(
    information: Sequence[float] | Floats,
    look: int,
    z: float,
    spending: Spending = obrien_fleming_spending,
) -> float:
    """The p-value at a look (0-based) of an experiment that may still go on.

    The smallest alpha at which the plan's boundary *at this look* would have been crossed: below
    alpha exactly when ``|z|`` is beyond the boundary for alpha. Early on it is far above the plain
    p-value: z = 3 at the first of five looks has p .30 by O'Brien-Fleming, not .003. What is below
    1e-12 is given as 1e-12.

    Notes
    -----
    Jennison & Turnbull (2000), section 9.3, repeated p-values.
    """
    times = information_times(information)
    require(0 <= look < len(times), "look", look, f"must be from 0 to {len(times) - 1}")
    require(bool(np.isfinite(z)), "z", z, "must be finite")

    def beyond(log_alpha: float) -> float:
        plan = _spend(times[: look + 1], spending, float(np.exp(log_alpha)))
        return abs(z) - float(plan.z[look])

    low, high = np.log(1e-12), np.log(0.999)
    if beyond(high) < 0:
        return 1.0
    if beyond(low) >= 0:
        return 1e-12
    return float(np.exp(brentq(beyond, low, high, xtol=1e-10)))


@dataclass(frozen=True)
class Walk:
    """Density of the score among experiments that still run: quadrature nodes and masses [m]."""

    score: Floats
    mass: Floats
    time: float
    drift: float

    @classmethod
    def start(cls, drift: float = 0.0) -> Walk:
        return cls(np.zeros(1), np.ones(1), 0.0, drift)

    def ahead(self, time: float) -> Ahead:
        """The law of the score at a later time."""
        step = time - self.time
        return Ahead(
            self.score + self.drift * step, self.mass, float(np.sqrt(step)), time, self.drift
        )


@dataclass(frozen=True)
class Ahead:
    """A mixture of normals: where the score will be at ``time``, before anybody stops."""

    centre: Floats
    mass: Floats
    sd: float
    time: float
    drift: float

    def above(self, score: ArrayLike) -> Floats:
        """Probability of a score above, for each: float [...]."""
        distance = self.centre - np.asarray(score, dtype=float)[..., None]
        return np.asarray(ndtr(distance / self.sd) @ self.mass)

    def below(self, score: ArrayLike) -> Floats:
        distance = np.asarray(score, dtype=float)[..., None] - self.centre
        return np.asarray(ndtr(distance / self.sd) @ self.mass)

    def kept(self, low: float, high: float) -> Walk:
        """Those between the boundaries go on."""
        reach = 8 * self.sd
        low = max(low, float(self.centre.min()) - reach)
        high = min(high, float(self.centre.max()) + reach)
        half = max(high - low, 0.0) / 2
        nodes = (low + high) / 2 + half * _POINTS
        z = (nodes[:, None] - self.centre) / self.sd
        density = np.exp(-(z**2) / 2) @ self.mass / (self.sd * np.sqrt(2 * np.pi))
        return Walk(nodes, density * half * _WEIGHTS, self.time, self.drift)


def _scaled(looks: int, shape: Callable[[Floats], Floats], alpha: float) -> Boundaries:
    """Boundaries ``c * shape(t)`` whose crossing probability under no effect is alpha."""
    _check_alpha(alpha)
    require(looks >= 1, "looks", looks, "must be at least 1")
    times = np.arange(1, looks + 1) / looks

    def excess(c: float) -> float:
        above, below = crossing_probabilities(times, c * shape(times))
        return float((above + below).sum()) - alpha

    c = float(brentq(excess, 0.5, 6.0, xtol=1e-10))
    above, below = crossing_probabilities(times, c * shape(times))
    return Boundaries(times, c * shape(times), (above + below).cumsum())


def _score_above(ahead: Ahead, target: float) -> float:
    """The score above which there is the probability ``target``; `FAR` when it is less there."""
    if target <= float(ahead.above(FAR)):
        return FAR
    return float(brentq(lambda score: float(ahead.above(score)) - target, 0.0, FAR, xtol=1e-12))


def _score_below(ahead: Ahead, target: float) -> float:
    """The score below which there is the probability ``target``, between -`FAR` and `FAR`."""
    if target <= float(ahead.below(-FAR)):
        return -FAR
    if target >= float(ahead.below(FAR)):
        return FAR
    return float(brentq(lambda score: float(ahead.below(score)) - target, -FAR, FAR, xtol=1e-12))


def _check_alpha(alpha: float) -> None:
    require(0 < alpha < 0.5, "alpha", alpha, "must be in (0, 0.5)", "try 0.05")
