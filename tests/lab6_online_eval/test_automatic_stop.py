from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval import automatic_stop, guardrail_study
from labs.lab6_online_eval.world import Service, Sessions, World

HOURS = np.arange(1.0, 7 * 24 + 1)
LISTS = np.tile(np.arange(10), (50, 1))


@pytest.fixture(scope="module")
def world() -> World:
    """Fifty people and ten films: guardrails do not depend on taste."""
    rng = np.random.default_rng(0)
    appeal = rng.uniform(0.01, 0.3, (50, 10))
    return World(appeal, np.zeros(10), rng.uniform(0.2, 1.0, 50), np.zeros((50, 10), dtype=bool))


def run(world: World, service: Service, seed: int, units: int = 1500) -> Sessions:
    from labs.lab6_online_eval.world import simulate

    rng = np.random.default_rng(seed)
    return simulate(
        world,
        (LISTS, LISTS),
        rng.integers(0, 2, units),
        rng.integers(0, 50, units),
        days=7,
        seed=seed,
        services=(Service(), service),
    )


def test_running_sums_are_the_sums_by_user(world: World) -> None:
    """At three looks the fast variance is the delta method over users, computed the plain way."""
    sessions = run(world, Service(hide_rate=0.05), 1, units=200)
    hours = np.array([20.0, 60.0, 168.0])
    report = automatic_stop.watch(sessions, hours)
    hides = next(track for track in report.tracks if track.name == "hides")
    for look, hour in enumerate(hours):
        variances, rates = [], []
        for arm in (0, 1):
            part = sessions.where((sessions.arm == arm) & (sessions.day <= hour / 24))
            a = np.bincount(part.unit, part.hides.astype(float), minlength=200)
            b = np.bincount(part.unit, minlength=200)
            rates.append(a.sum() / b.sum())
            clustered = float(((a - rates[-1] * b) ** 2).sum() / b.sum() ** 2)
            variances.append((clustered, b.sum(), a.sum()))
        common = (variances[0][2] + variances[1][2]) / (variances[0][1] + 1.25 * variances[1][1])
        floors = common / variances[0][1], 1.25 * common / variances[1][1]
        expected = max(variances[1][0], floors[1]) + 1.25**2 * max(variances[0][0], floors[0])
        assert hides.control_rate[look] == pytest.approx(rates[0], rel=1e-9)
        assert hides.excess[look] == pytest.approx(rates[1] - 1.25 * rates[0], rel=1e-9, abs=1e-12)
        assert hides.se[look] ** 2 == pytest.approx(expected, rel=1e-9)


def test_a_fault_is_stopped_within_hours_and_named(world: World) -> None:
    """A slow model must not run through the night, and whoever is woken wants to know why."""
    report = automatic_stop.watch(run(world, Service(latency_ms=120.0), 2), HOURS)
    assert report.guardrail == "slow_sessions"
    assert report.hour is not None
    assert report.hour < 24, f"stopped after {report.hour} hours"


def test_healthy_experiments_are_left_alone(world: World) -> None:
    """Of 60 healthy experiments with 168 looks none may be stopped but by rare chance; the hourly
    test at p < .05 stops more."""
    reports = [automatic_stop.watch(run(world, Service(), seed), HOURS) for seed in range(60)]
    stopped = sum(report.stopped for report in reports)
    naive = sum(guardrail_study.naive_stop(report) for report in reports)
    assert stopped <= 2, f"{stopped} of 60 were stopped"
    assert naive > stopped


@pytest.mark.slow
def test_at_the_margins_false_stops_stay_below_alpha(world: World) -> None:
    """Where a false stop is most probable: 500 experiments that lose exactly what was agreed to.
    Slow: 500 simulated weeks, the size at which 5 % and 9 % differ clearly."""
    service = guardrail_study.at_the_margins()
    stopped = sum(
        automatic_stop.watch(run(world, service, seed), HOURS).stopped for seed in range(500)
    )
    assert stopped / 500 <= 0.05, f"{stopped} of 500 were stopped"


def test_the_service_at_the_margins_is_at_the_margins() -> None:
    """The latency's median is solved so that the share of slow sessions rises by its margin."""
    service = guardrail_study.at_the_margins()
    ratio = guardrail_study.slow_share(service) / guardrail_study.slow_share(Service())
    assert ratio == pytest.approx(1.25, rel=1e-9)


def test_it_is_silent_until_enough_events_were_counted(world: World) -> None:
    """Three errors against none is no evidence, whatever a normal law says."""
    sessions = run(world, Service(), 3, units=300)
    error = np.zeros(sessions.n, dtype=bool)
    error[np.flatnonzero(sessions.arm == 1)[: automatic_stop.LEAST_EVENTS - 1]] = True
    report = automatic_stop.watch(replace(sessions, error=error), HOURS)
    errors = next(track for track in report.tracks if track.name == "errors")
    assert not errors.counted.any()
    assert (errors.p == 1).all()


def test_p_never_rises_and_alpha_is_divided(world: World) -> None:
    """Any guardrail stops, so each gets its share of alpha: the opposite of the ship rule."""
    report = automatic_stop.watch(run(world, Service(), 4), HOURS)
    assert report.alpha_each == pytest.approx(0.05 / 3)
    assert all((np.diff(track.p) <= 0).all() for track in report.tracks)


def test_the_study_counts_what_it_says(world: World) -> None:
    """Two of each: shares, hours and reasons are those of the reports."""
    study = guardrail_study.study_automatic_stop(
        world, (LISTS, LISTS), n_healthy=3, n_margin=2, n_faulty=2, units=300, units_faulty=1500
    )
    assert (study.healthy.n, study.at_margin.n) == (3, 2)
    assert [stops.name for stops in study.faults] == ["slow_sessions", "errors", "hides"]
    slow = study.faults[0]
    assert slow.share == 1.0
    assert slow.right_reason == 1.0
    assert slow.median_hours < 168
    assert study.example.guardrail == "slow_sessions"


def test_what_cannot_be_watched_is_refused(world: World) -> None:
    """One arm without sessions, looks out of order, counts that are not numbers."""
    sessions = run(world, Service(), 5, units=100)
    with pytest.raises(InputError, match="both arms"):
        automatic_stop.watch(sessions.where(sessions.arm == 0), HOURS)
    with pytest.raises(InputError, match="increasing"):
        automatic_stop.watch(sessions, HOURS[::-1])
    broken = automatic_stop.Watched("load", lambda s: np.full(s.n, np.nan), 0.1)
    with pytest.raises(InputError, match="load"):
        automatic_stop.watch(sessions, HOURS, watched=(broken,))


def test_a_log_that_cannot_be_watched_is_refused_and_not_called_healthy(world: World) -> None:
    """A watch that stays silent is read as "no harm", so each fault of its input has to be said:
    a unit in both arms, a third arm, sessions out of order, a day that is not a number."""
    sessions = run(world, Service(), 5, units=200)
    crossed, third, undated = sessions.arm.copy(), sessions.arm.copy(), sessions.day.copy()
    mine = np.flatnonzero(sessions.unit == np.bincount(sessions.unit).argmax())
    crossed[mine[0]] = 1 - crossed[mine[1]]
    third[-1] = 2
    undated[-1] = np.nan
    with pytest.raises(InputError, match="units in both arms = 1"):
        automatic_stop.watch(replace(sessions, arm=crossed), HOURS)
    with pytest.raises(InputError, match="other than 0 and 1"):
        automatic_stop.watch(replace(sessions, arm=third), HOURS)
    for day in (sessions.day[::-1], undated):
        with pytest.raises(InputError, match="time order"):
            automatic_stop.watch(replace(sessions, day=day), HOURS)
    with pytest.raises(InputError, match="alpha"):
        automatic_stop.watch(sessions, HOURS, alpha=1.0)
