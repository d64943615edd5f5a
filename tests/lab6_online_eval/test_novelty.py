"""Effects that fade or grow: by days since exposure, with an honest long-run level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval.novelty import (
    CHANGES,
    DailyEffects,
    daily_effects,
    fit_profile,
    long_run_effect,
    study_novelty,
    trend_test,
)
from labs.lab6_online_eval.world import Sessions, World, simulate


@pytest.fixture(scope="module")
def world() -> World:
    """Sixty people and thirty films; the treatment's list is the better half."""
    rng = np.random.default_rng(0)
    appeal = rng.uniform(0.05, 0.15, (60, 30))
    appeal[:, 15:] *= 2.0
    return World(appeal, np.zeros(30), rng.uniform(0.4, 0.8, 60), np.zeros((60, 30), dtype=bool))


LISTS = (np.tile(np.arange(10), (60, 1)), np.tile(np.arange(15, 25), (60, 1)))


def test_daily_effects_are_differences_of_ratios_with_the_delta_methods_variance(
    world: World,
) -> None:
    """One day by hand: the ratio, and the variance of its linearisation over all units."""
    arm = np.arange(400) % 2
    sessions = simulate(world, LISTS, arm, np.arange(400) % 60, days=4, seed=1)
    found = daily_effects(sessions, arm, n_days=4)
    ratios, variances = [], []
    for number in (0, 1):
        units = np.flatnonzero(arm == number)
        day = np.floor(sessions.day) == 2
        clicks = np.array([sessions.clicks[day & (sessions.unit == u)].sum() for u in units])
        visits = np.array([(day & (sessions.unit == u)).sum() for u in units])
        ratio = clicks.sum() / visits.sum()
        linear = (clicks - ratio * visits) / visits.mean()
        ratios.append(ratio)
        variances.append(linear.var() / len(units))
    assert found.effect[2] == pytest.approx(ratios[1] - ratios[0], rel=1e-9)
    assert found.se[2] ** 2 == pytest.approx(sum(variances), rel=1e-9)


def test_the_covariance_between_days_is_real(world: World) -> None:
    """People differ, so a unit that clicks much today clicks much tomorrow.

    Over many simulated experiments the sum of the days varies as the whole covariance says, which
    is more than the days' own variances add up to.
    """
    strong = replace(world, appeal=world.appeal * np.linspace(0.3, 3, 60)[:, None])
    arm, sums, promised, diagonal = np.arange(300) % 2, [], [], []
    rng = np.random.default_rng(2)
    for seed in range(150):
        people = rng.integers(0, 60, 300)
        daily = daily_effects(
            simulate(strong, LISTS[:1] * 2, arm, people, days=6, seed=seed), arm, n_days=6
        )
        sums.append(daily.effect.sum())
        promised.append(daily.covariance.sum())
        diagonal.append(np.trace(daily.covariance))
    assert np.std(sums) == pytest.approx(np.sqrt(np.mean(promised)), rel=0.15)
    assert np.mean(promised) > 1.3 * np.mean(diagonal)


def test_the_fit_finds_an_exact_curve() -> None:
    """Daily effects that lie on a curve of the family give its level, change and speed."""
    t = np.arange(20) + 0.5
    days = 0.5 * 20 ** (20 / 39)  # one that is on the grid
    effect = 0.3 - 0.2 * np.exp(-t / days)
    fit = long_run_effect(DailyEffects(effect, 1e-4 * np.eye(20)))
    assert (fit.level, fit.change, fit.days) == pytest.approx((0.3, -0.2, days))
    assert fit.chi2 == pytest.approx(0, abs=1e-9)
    assert fit.ci95[0] < 0.3 < fit.ci95[1]
    assert fit.curve(t) == pytest.approx(effect)
    assert fit.p < 1e-6


def test_profile_intervals_hold_the_level_whether_or_not_there_is_a_change() -> None:
    """Coverage of 2,000 simulated experiments without any change, where theory has a gap."""
    rng = np.random.default_rng(3)
    covariance = 0.01**2 * (0.7 * np.eye(21) + 0.3)
    noise = rng.standard_normal((2000, 21)) @ np.linalg.cholesky(covariance).T
    fit = fit_profile(0.05 + noise, covariance)
    assert np.mean((fit.low <= 0.05) & (fit.high >= 0.05)) > 0.93


def test_the_trend_is_a_weighted_regression() -> None:
    """Against the closed form of statsmodels' GLS."""
    import statsmodels.api as sm

    rng = np.random.default_rng(4)
    root = rng.standard_normal((10, 14))
    daily = DailyEffects(rng.standard_normal(10), root @ root.T)
    fit = sm.GLS(daily.effect, sm.add_constant(np.arange(10) + 0.5), sigma=daily.covariance).fit(
        cov_type="fixed scale"
    )
    found = trend_test(daily)
    assert found.slope == pytest.approx(fit.params[1], rel=1e-9)
    assert found.ci95 == pytest.approx(tuple(fit.conf_int()[1]), rel=1e-6)
    assert found.p == pytest.approx(fit.pvalues[1], rel=1e-6)


def test_a_fading_effect_is_found_and_the_first_week_misleads(world: World) -> None:
    """Novelty and learning: the long-run interval holds the truth, the first week's does not.

    By the calendar the trend is weaker, since new units arrive with an effect that is fresh.
    """
    studies = {s.name: s for s in study_novelty(world, LISTS, n_units=12_000, seed=0)}
    for name, study in studies.items():
        low, high = study.fit.ci95
        assert low < study.truth < high, name
        assert (study.trend.p < 0.001) == (name != "constant"), name
    novelty, learning = studies["novelty"], studies["learning"]
    assert novelty.first_week_ci95[0] > novelty.truth
    assert learning.first_week_ci95[1] < learning.truth
    assert novelty.trend.slope < novelty.calendar_trend.slope < 0
    assert set(studies) == set(CHANGES)


def test_data_that_carry_no_curve_are_refused(world: World) -> None:
    with pytest.raises(InputError, match="days = 4 must be at least 6"):
        long_run_effect(DailyEffects(np.zeros(4), np.eye(4)))
    with pytest.raises(InputError, match="must be finite"):
        trend_test(DailyEffects(np.full(7, np.nan), np.eye(7)))
    with pytest.raises(InputError, match="smallest eigenvalue"):
        long_run_effect(DailyEffects(np.zeros(7), np.zeros((7, 7))))
    with pytest.raises(InputError, match="shape of covariance"):
        long_run_effect(DailyEffects(np.zeros(7), np.eye(6)))
    arm = np.arange(30) % 2
    few: Sessions = simulate(world, LISTS, arm, np.arange(30), days=3, seed=0)
    with pytest.raises(InputError, match="must be at least 20"):
        daily_effects(few, arm, n_days=3)
    with pytest.raises(InputError, match="emptiest day"):
        daily_effects(few, np.zeros(30, dtype=np.int64), n_days=3)


def test_the_interval_is_honest_only_about_an_exponential() -> None:
    """3,000 experiments of 21 days. Faded exponentially or not at all the interval covers; faded
    as 1 / (1 + t / 3), whose tail is long, the level is read too high and it covers far less."""
    t, rng = np.arange(21) + 0.5, np.random.default_rng(3)
    covariance = 1e-4 * (0.8 * np.eye(21) + 0.2)
    noise = rng.standard_normal((3000, 21)) @ np.linalg.cholesky(covariance).T

    def covered(fading: np.ndarray) -> float:
        fit = fit_profile(0.02 + 0.06 * fading + noise, covariance)
        return float(((fit.low <= 0.02) & (fit.high >= 0.02)).mean())

    assert covered(np.exp(-t / 3)) > 0.94
    assert covered(np.zeros(21)) > 0.94
    assert covered(1 / (1 + t / 3)) < 0.85
