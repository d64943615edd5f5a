"""Does the effect last? It is estimated by days since exposure, and its long-run level fitted.

A new list is clicked out of curiosity, or takes getting used to. In both cases the effect of the
first week is not the effect that the launch will have. Two clocks must not be confused: the
calendar, and the days since a unit's own exposure. If units enter on different days, an effect that
fades by exposure hardly fades by the calendar, because new units keep bringing fresh curiosity.

Hohnhold, O'Brien & Tang (2015), Focusing on the Long-term: It's Good for Users and Business, KDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from common.errors import require
from labs.lab6_online_eval.world import Change, Ints, Sessions, World, simulate

Floats = NDArray[np.float64]
Z95 = float(norm.isf(0.025))
LEAST_UNITS = 20


@dataclass(frozen=True)
class DailyEffects:
    """The effect on clicks a session, by day.

    Attributes
    ----------
    effect
        Float [n_days]: treatment minus control on day 0, 1, ... since exposure, or of the
        calendar.
    covariance
        Float [n_days, n_days] of the effects: days share units, so they are not independent.
    """

    effect: Floats
    covariance: Floats

    @property
    def n_days(self) -> int:
        return len(self.effect)

    @property
    def se(self) -> Floats:
        """Standard error of each day's effect, float [n_days]."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def daily_effects(
    sessions: Sessions, arm: Ints, exposed: Floats | None = None, *, n_days: int
) -> DailyEffects:
    """Difference of clicks a session between arms 1 and 0, day by day.

    Each day's ratio in an arm, ``R = sum(clicks) / sum(sessions)``, is linearised over all of the
    arm's units, so that one unit's days keep their covariance:

        z_ut = (clicks_ut - R_t sessions_ut) / mean_u(sessions_ut),   cov(R) = sum_u z_u z_u^T / n^2

    Parameters
    ----------
    sessions
        Sessions from the exposure on; others, and days from ``n_days`` on, are left out.
    arm
        Int [n_units], 0 or 1: also units without any session.
    exposed
        Float [n_units]: day of each unit's exposure; days are counted from there. Without it they
        are calendar days.

    Raises
    ------
    InputError
        Fewer than 20 units with sessions in an arm on some day: their ratio has no normal law.
    """
    require(n_days >= 2, "n_days", n_days, "must be at least 2")
    since = sessions.day - (0.0 if exposed is None else exposed[sessions.unit])
    keep = (since >= 0) & (since < n_days)
    unit, day = sessions.unit[keep], since[keep].astype(np.int64)
    cell = unit * n_days + day
    size = len(arm) * n_days
    visits = np.bincount(cell, minlength=size).reshape(-1, n_days)
    clicks = np.bincount(cell, sessions.clicks[keep], minlength=size).reshape(-1, n_days)
    ratios, covariances = [], []
    for number in (0, 1):
        mine = arm == number
        present = (visits[mine] > 0).sum(axis=0)
        require(
            bool(present.size) and int(present.min()) >= LEAST_UNITS,
            f"units of arm {number} with sessions on the emptiest day",
            int(present.min()),
            f"must be at least {LEAST_UNITS}",
            "look at fewer days",
        )
        total = visits[mine].sum(axis=0)
        ratio = clicks[mine].sum(axis=0) / total
        linear = (clicks[mine] - ratio * visits[mine]) / total
        ratios.append(ratio)
        covariances.append(linear.T @ linear)
    return DailyEffects(ratios[1] - ratios[0], covariances[0] + covariances[1])


@dataclass(frozen=True)
class LongRun:
    """The fit ``effect(t) = level + change * exp(-t / days)``.

    Attributes
    ----------
    level, ci95, p
        The long-run effect, its 95 % profile interval, and the test that it is 0.
    change, days
        What fades (above 0: novelty; below 0: learning), and how fast.
    chi2, dof
        Misfit: weighted squares of the residuals, and the days less three parameters.
    """

    level: float
    ci95: tuple[float, float]
    p: float
    change: float
    days: float
    chi2: float
    dof: int

    def curve(self, t: Floats) -> Floats:
        """The fitted effect, same shape as ``t`` (days)."""
        return np.asarray(self.level + self.change * np.exp(-t / self.days))


def fading_grid(n_days: int) -> Floats:
    """Time constants that are tried: from half a day to half the days that were seen.

    A slower change than that cannot be told from a level within the experiment, and the interval
    does not cover it: run longer, or hold back.
    """
    return np.geomspace(0.5, n_days / 2, 40)


@dataclass(frozen=True)
class ProfileFit:
    """`fit_profile` of m experiments: float [m] each."""

    level: Floats
    low: Floats
    high: Floats
    p: Floats
    change: Floats
    days: Floats
    chi2: Floats


def fit_profile(effects: Floats, covariance: Floats) -> ProfileFit:
    """Fit the exponential to many experiments of one covariance, by generalized least squares.

    For a fixed time constant d the model is linear, with estimate L_d and variance v_d of the level
    and misfit m_d. Given the level, the best misfit is ``m_d + (L - L_d)^2 / v_d``, so the profile
    interval is the union over d of

        |L - L_d| <= sqrt(v_d (3.84 + min m - m_d)),

    which holds whether or not there is a change; a delta-method interval does not exist without.

    Parameters
    ----------
    effects
        Float [m, n_days], day t at its middle, t + .5.
    covariance
        Float [n_days, n_days].
    """
    n_days = effects.shape[1]
    t = np.arange(n_days) + 0.5
    factor = np.linalg.inv(np.linalg.cholesky(covariance))
    white = effects @ factor.T
    grid = fading_grid(n_days)
    levels, variances, misfits, changes = [], [], [], []
    for days in grid:
        design = factor @ np.column_stack([np.ones(n_days), np.exp(-t / days)])
        inverse = np.linalg.inv(design.T @ design)
        solution = white @ design @ inverse
        levels.append(solution[:, 0])
        changes.append(solution[:, 1])
        variances.append(inverse[0, 0])
        misfits.append(((white - solution @ design.T) ** 2).sum(axis=1))
    level, change, misfit = np.array(levels), np.array(changes), np.array(misfits)
    variance = np.array(variances)[:, None]
    best = misfit.argmin(axis=0)
    row = np.arange(len(effects))
    least = misfit[best, row]
    room = float(chi2.isf(0.05, 1)) + least - misfit
    half = np.sqrt(variance * np.maximum(room, 0.0))
    inside = room > 0
    at_zero = (misfit + level**2 / variance).min(axis=0) - least
    return ProfileFit(
        level=level[best, row],
        low=np.where(inside, level - half, np.inf).min(axis=0),
        high=np.where(inside, level + half, -np.inf).max(axis=0),
        p=np.asarray(chi2.sf(at_zero, 1)),
        change=change[best, row],
        days=grid[best],
        chi2=least,
    )


def long_run_effect(daily: DailyEffects) -> LongRun:
    """The long-run level of an effect that fades or grows exponentially.

    Raises
    ------
    InputError
        Fewer than 6 days, or a covariance that is not positive definite.
    """
    _check(daily)
    fit = fit_profile(daily.effect[None, :], daily.covariance)
    return LongRun(
        level=float(fit.level[0]),
        ci95=(float(fit.low[0]), float(fit.high[0])),
        p=float(fit.p[0]),
        change=float(fit.change[0]),
        days=float(fit.days[0]),
        chi2=float(fit.chi2[0]),
        dof=daily.n_days - 3,
    )


@dataclass(frozen=True)
class Trend:
    """Weighted straight line through the daily effects: change a day, interval, two-sided p."""

    slope: float
    ci95: tuple[float, float]
    p: float


def trend_test(daily: DailyEffects) -> Trend:
    """Does the effect change with the days? The slope by generalized least squares.

    The test comes first: without a trend the plain mean over all days is the better estimate, and
    with one it is an estimate of nothing that lasts.
    """
    _check(daily)
    t = np.arange(daily.n_days) + 0.5
    design = np.column_stack([np.ones(daily.n_days), t - t.mean()])
    weighted = np.linalg.solve(daily.covariance, design)
    inverse = np.linalg.inv(design.T @ weighted)
    slope = float((inverse @ (weighted.T @ daily.effect))[1])
    se = sqrt(float(inverse[1, 1]))
    return Trend(slope, (slope - Z95 * se, slope + Z95 * se), float(2 * norm.sf(abs(slope) / se)))


def _check(daily: DailyEffects) -> None:
    n = daily.n_days
    require(n >= 6, "days", n, "must be at least 6", "a curve of three parameters needs more")
    shape = daily.covariance.shape
    require(shape == (n, n), "shape of covariance", shape, f"must be {(n, n)}")
    finite = bool(np.isfinite(daily.effect).all() and np.isfinite(daily.covariance).all())
    require(finite, "daily effects", "NaN or infinity", "must be finite")
    least = float(np.linalg.eigvalsh(daily.covariance)[0])
    require(least > 0, "smallest eigenvalue of the covariance", least, "must be > 0")


def simulate_cohorts(
    world: World,
    lists: tuple[Ints, ...],
    arm: Ints,
    people: Ints,
    exposed: Ints,
    *,
    days: int,
    seed: int,
    change: Change,
) -> Sessions:
    """`world.simulate` with units that enter on different days: int ``exposed`` [n_units].

    The change of the effect runs from each unit's own exposure; days are those of the calendar.
    """
    parts = []
    for entry in np.unique(exposed):
        mine = np.flatnonzero(exposed == entry)
        part = simulate(
            world,
            lists,
            arm[mine],
            people[mine],
            days=float(days - entry),
            seed=seed + int(entry),
            change=change,
        )
        parts.append(replace(part, unit=mine[part.unit], day=part.day + float(entry)))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Sessions.__annotations__
    }
    joined = Sessions(**columns)
    order = np.argsort(joined.day, kind="stable")
    return joined.where(order)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NoveltyStudy:
    """One simulated change of an effect, read in four ways.

    Attributes
    ----------
    name
        Which change.
    truth
        True long-run effect on clicks a session.
    since_exposure, calendar
        Daily effects by both clocks.
    fit, trend, calendar_trend
        The long-run fit and the trend by days since exposure; the trend by the calendar.
    first_week
        Inverse-variance mean of the first seven days since exposure, and its 95 % interval: what a
        one-week experiment would have reported.
    """

    name: str
    truth: float
    since_exposure: DailyEffects
    calendar: DailyEffects
    fit: LongRun
    trend: Trend
    calendar_trend: Trend
    first_week: float
    first_week_ci95: tuple[float, float]


CHANGES = {
    "novelty": Change(novelty=1.5, days=4.0),
    "learning": Change(learning=1.5, days=4.0),
    "constant": Change(),
}
"""Multipliers of the effect: from 2.5 to 1, from 1 to 2.5, and 1 throughout."""


def study_novelty(
    world: World,
    lists: tuple[Ints, Ints],
    *,
    n_units: int = 30_000,
    days: int = 28,
    changes: Sequence[str] = tuple(CHANGES),
    seed: int = 0,
) -> tuple[NoveltyStudy, ...]:
    """Simulate `CHANGES` of the effect of ``lists[1]`` over ``lists[0]``, and read each.

    Units enter evenly over the first half of the days. Since exposure, the effect is followed for
    as many days as every unit is seen, so that no day of the curve lacks a cohort.
    """
    require(days >= 12, "days", days, "must be at least 12", "try 28")
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n_units)
    arm = rng.integers(0, 2, n_units)
    exposed = rng.integers(0, days // 2, n_units)
    visits = world.visits
    gain = world.expected_clicks(lists[1]) - world.expected_clicks(lists[0])
    mean_gain = float((visits * gain).sum() / visits.sum())
    followed = days - int(exposed.max())
    studies = []
    for number, name in enumerate(changes):
        sessions = simulate_cohorts(
            world,
            lists,
            arm,
            people,
            exposed,
            days=days,
            seed=seed + 1000 * (number + 1),
            change=CHANGES[name],
        )
        own = daily_effects(sessions, arm, exposed.astype(float), n_days=followed)
        calendar = daily_effects(sessions, arm, n_days=days)
        week = DailyEffects(own.effect[:7], own.covariance[:7, :7])
        weights = np.linalg.solve(week.covariance, np.ones(week.n_days))
        mean = float(weights @ week.effect / weights.sum())
        half = Z95 / sqrt(float(weights.sum()))
        studies.append(
            NoveltyStudy(
                name=name,
                truth=mean_gain * (1 + CHANGES[name].learning),
                since_exposure=own,
                calendar=calendar,
                fit=long_run_effect(own),
                trend=trend_test(own),
                calendar_trend=trend_test(calendar),
                first_week=mean,
                first_week_ci95=(mean - half, mean + half),
            )
        )
    return tuple(studies)
