"""How long to run: arrivals, growing variance, CUPED's share, and plans that say no."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from labs.lab6_online_eval.duration import History, arrived, history_of, plan, replay, snapshot
from labs.lab6_online_eval.experiment import Arm, Experiment, Kind, Looks, Metric, Role
from labs.lab6_online_eval.world import World, simulate

CLICKS = Metric("clicks a unit", Kind.MEAN, Role.SUCCESS, "click")
A_SESSION = Metric("clicks a session", Kind.RATIO, Role.SUCCESS, "click", "session")


def experiment(*metrics: Metric, **changed) -> Experiment:
    given = Experiment(
        name="ranker",
        hypothesis="fewer known films bring more clicks",
        owner="ranking",
        arms=(Arm("control", 0.5), Arm("discovery", 0.5)),
        metrics=metrics or (CLICKS,),
        start=datetime(2026, 1, 5, tzinfo=UTC),
        days=14,
    )
    return replace(given, **changed)


def small_world(seed: int = 0) -> tuple[World, np.ndarray]:
    """Sixty people, forty films, lists of five: rates and tastes that differ much."""
    rng = np.random.default_rng(seed)
    appeal = np.clip(rng.gamma(1.0, 0.3, (60, 1)) * rng.random((60, 40)), 0.0, 0.9)
    visits = rng.uniform(0.05, 0.8, 60)
    world = World(appeal, np.zeros(40), visits, np.zeros((60, 40), dtype=bool))
    return world, np.tile(np.arange(5), (60, 1))


def history(seed: int = 0) -> History:
    return history_of(*small_world(seed))


@pytest.mark.parametrize("days", [3.0, 21.0])
def test_the_closed_form_is_what_a_simulated_log_shows(days: float) -> None:
    """Share that came, mean, variance, and CUPED's share, from 60,000 simulated units."""
    world, lists = small_world()
    rng = np.random.default_rng(1)
    n = 60_000
    log = simulate(
        world, (lists,), np.zeros(n, dtype=np.int64), rng.integers(0, 60, n),
        days=7 + days, seed=2, start=-7.0,
    )  # fmt: skip
    exact = snapshot(history(), days, before_days=7)
    found = replay(log, n_eligible=n, days=days, before_days=7)
    assert found.share == pytest.approx(exact.share, abs=0.006)
    assert found.mean == pytest.approx(exact.mean, rel=0.02)
    assert found.variance == pytest.approx(exact.variance, rel=0.05)
    assert found.variance_reduction == pytest.approx(exact.variance_reduction, abs=0.02)


def test_the_ratios_variance_is_that_of_the_linearised_unit() -> None:
    """Clicks a session and its CUPED share, by the delta method on simulated units."""
    from labs.lab6_online_eval.power import Baseline

    people = history()
    rng = np.random.default_rng(3)
    who = rng.integers(0, 60, 200_000)
    rate, value = people.rate[who], people.value[who]
    sums = []
    for days in (5.0, 20.0):
        visits = rng.poisson(rate * days)
        clicks = visits * value + np.sqrt(visits * people.spread[who]) * rng.standard_normal(
            len(who)
        )
        sums.append((clicks, visits))
    came = sums[1][1] > 0
    linear = []
    for clicks, visits in sums:
        x, y = clicks[came], visits[came].astype(float)
        linear.append((x - x.sum() / y.sum() * y) / y.mean())
    found = snapshot(people, 20, before_days=5, ratio=True)
    expected = Baseline.of_ratio(sums[1][0][came], sums[1][1][came].astype(float))
    assert found.mean == pytest.approx(expected.mean, rel=0.02)
    assert found.variance == pytest.approx(expected.variance, rel=0.03)
    reduction = float(np.corrcoef(*linear)[0, 1] ** 2)
    assert found.variance_reduction == pytest.approx(reduction, abs=0.02)


def test_distinct_units_grow_ever_slower() -> None:
    """The second week brings fewer new people than the first, the third fewer still."""
    units = [arrived(history(), 10_000, 7 * week) for week in range(1, 6)]
    new = np.diff([0, *units])
    assert (np.diff(new) < 0).all()
    assert units[-1] < 10_000


def test_a_longer_run_does_not_gain_as_the_square_root_of_its_length() -> None:
    """Four times the weeks: the detectable lift does not halve; with CUPED it falls further."""
    curve = plan(experiment(), history(), eligible=20_000, lift=0.05).curve
    plain, cuped = (
        curve[3].lift_plain / curve[0].lift_plain,
        curve[3].lift_cuped / curve[0].lift_cuped,
    )
    assert plain > 0.6
    assert cuped < plain
    gains = [point.variance_reduction for point in curve]
    assert gains == sorted(gains)


def test_the_plan_is_the_first_week_that_suffices() -> None:
    """A week less does not find the lift, and the summary says how long and how many."""
    curve = plan(experiment(), history(), eligible=20_000, lift=0.5).curve
    wanted = (curve[1].lift_cuped + curve[2].lift_cuped) / 2
    found = plan(experiment(), history(), eligible=20_000, lift=wanted)
    assert (found.weeks, found.days, found.enough) == (3, 21, True)
    assert found.units == curve[2].units
    assert found.as_written == pytest.approx(curve[1].lift_cuped)
    assert f"run 3 weeks ({curve[2].units:,} units)" in found.lines()[0]


def test_the_planned_length_has_the_wanted_power() -> None:
    """At exactly the detectable lift the formula's power is 80 %."""
    setting = experiment(replace(CLICKS, cuped=False))
    curve = plan(setting, history(), eligible=5000, lift=0.5).curve
    found = plan(setting, history(), eligible=5000, lift=curve[-1].lift_plain)
    assert found.power_at_most == pytest.approx(0.8, abs=1e-3)


def test_too_few_units_are_said_and_what_would_help() -> None:
    """The options are sorted by what they find, and each is really better than nothing."""
    written = experiment(
        coverage=0.5, arms=(Arm("control", 0.9), Arm("discovery", 0.1)), before_days=0
    )
    found = plan(written, history(), eligible=2000, lift=0.02)
    assert not found.enough
    assert found.days is None
    assert found.power_at_most < 0.2
    names = [option.change for option in found.options]
    for wanted in (
        "admit every eligible unit",
        "arms of equal size",
        "CUPED with 28 days before",
        "count a session instead of a unit",
        "all of these",
    ):
        assert wanted in names
    lifts = [option.lift for option in found.options]
    assert lifts == sorted(lifts)
    assert names[0] == "all of these"
    assert names[-1] == "ask for no more than can be seen"
    assert "out of reach" in found.lines()[0]
    assert len(found.lines()) == 1 + len(names)


def test_looking_often_costs_units() -> None:
    """A sequential design's inflation is asked for, and lengthens the run."""
    looks = experiment(looks=Looks.PLANNED, n_looks=5)
    with pytest.raises(ValueError, match=r"inflation = 1\.0 must be above 1 for looks"):
        plan(looks, history(), eligible=2000, lift=0.1)
    once = plan(experiment(), history(), eligible=2000, lift=0.1)
    often = plan(looks, history(), eligible=2000, lift=0.1, inflation=1.2)
    assert often.as_written == pytest.approx(once.as_written * np.sqrt(1.2))


def test_a_ratio_is_planned_as_one() -> None:
    """How often people come no longer counts as noise."""
    found = plan(experiment(A_SESSION), history(), eligible=5000, lift=0.5)
    assert (
        found.curve[-1].lift_plain
        < plan(experiment(), history(), eligible=5000, lift=0.5).curve[-1].lift_plain
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lift": 0.0}, "lift = 0.0 must not be 0"),
        ({"eligible": 2}, "eligible = 2 must be at least 4"),
        ({"max_weeks": 0}, "max_weeks = 0 must be from 1 to 52"),
        ({"inflation": 0.5}, "inflation = 0.5 must be at least 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict, message: str) -> None:
    given = {"eligible": 1000, "lift": 0.05}
    with pytest.raises(ValueError, match=message):
        plan(experiment(), history(), **(given | options))


def test_a_quantile_is_not_planned_by_this_formula() -> None:
    slow = Metric("p99", Kind.QUANTILE, Role.SUCCESS, "latency", quantile=0.99)
    with pytest.raises(ValueError, match="metric p99 = quantile must be a mean or a ratio"):
        plan(experiment(slow), history(), eligible=1000, lift=0.05)


def test_a_history_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rate = 0.0 must be > 0"):
        History(np.zeros(3), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="value = 'NaN or infinity' must be finite"):
        History(np.ones(3), np.full(3, np.nan), np.ones(3))
