"""Regression discontinuity on a launch rule whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval.regression_discontinuity import (
    density_test,
    optimal_bandwidth,
    placebo_cutoffs,
    regression_discontinuity,
    simulate_launch_rule,
)


def test_local_linear_and_robust_are_weighted_regressions() -> None:
    """statsmodels' WLS with a triangular kernel gives both jumps and errors (HC3) to 1e-9."""
    import statsmodels.api as sm

    launch = simulate_launch_rule(np.random.default_rng(0), 800)
    h = 0.2
    ours = regression_discontinuity(launch.outcome, launch.score, launch.cutoff, bandwidth=h)
    x = launch.score - launch.cutoff
    near = np.abs(x) < h
    x, y, d = x[near], launch.outcome[near], launch.treated[near].astype(float)
    for degree, found in ((1, ours.local_linear), (2, ours.robust)):
        columns = [np.ones_like(x), d]
        columns += [c for p in range(1, degree + 1) for c in (x**p, d * x**p)]
        fit = sm.WLS(y, np.column_stack(columns), weights=1 - np.abs(x) / h).fit(cov_type="HC3")
        assert found.effect == pytest.approx(fit.params[1], rel=1e-8)
        assert found.se == pytest.approx(fit.bse[1], rel=1e-8)


def test_the_robust_interval_holds_the_truth_with_a_chosen_bandwidth() -> None:
    """100 launches: at least 90 % of the robust intervals hold the effect, the naive jump none."""
    held = 0
    for seed in range(100):
        launch = simulate_launch_rule(np.random.default_rng(seed), 2000)
        found = regression_discontinuity(launch.outcome, launch.score, launch.cutoff)
        held += found.robust.covers(launch.effect)
        above = launch.treated
        naive = launch.outcome[above].mean() - launch.outcome[~above].mean()
        assert naive > 3 * launch.effect
    assert held >= 90, held


def test_a_rougher_curve_gets_a_narrower_bandwidth() -> None:
    """Curvature costs bias, so h falls; with fewer units it rises."""
    rng = np.random.default_rng(1)
    x, noise = rng.uniform(-1, 1, 4000), rng.normal(0, 0.3, 4000)
    smooth = optimal_bandwidth(x + 0.2 * x**2 * (x > 0) + noise, x, 0.0)
    rough = optimal_bandwidth(np.sin(9 * x) * (x > 0) + noise, x, 0.0)
    assert rough < smooth / 1.5
    fewer = optimal_bandwidth((x + x**2 * (x > 0) + noise)[:500], x[:500], 0.0)
    more = optimal_bandwidth(x + x**2 * (x > 0) + noise, x, 0.0)
    assert fewer > more


def test_the_density_test_finds_users_who_choose_their_side() -> None:
    """100 honest rules alarm in about 5 %, and 30 manipulated ones in nearly all."""
    honest = [
        density_test(simulate_launch_rule(np.random.default_rng(s), 2000).score, 0.5).p < 0.05
        for s in range(100)
    ]
    moved = [
        density_test(
            simulate_launch_rule(np.random.default_rng(s), 4000, manipulated=0.5).score, 0.5
        ).p
        < 0.05
        for s in range(30)
    ]
    assert np.mean(honest) <= 0.12, np.mean(honest)
    assert np.mean(moved) >= 0.9, np.mean(moved)


def test_placebo_cutoffs_find_nothing() -> None:
    """Where nothing happens, the jump's interval holds 0, and at the real cutoff it does not."""
    launch = simulate_launch_rule(np.random.default_rng(2), 6000)
    places = [0.25, 0.35, 0.65]
    found = placebo_cutoffs(launch.outcome, launch.score, launch.cutoff, places)
    assert [place for place, _ in found] == places
    assert all(estimate.covers(0) for _, estimate in found)
    real = regression_discontinuity(launch.outcome, launch.score, launch.cutoff)
    assert not real.robust.covers(0)


@pytest.mark.parametrize(
    ("cutoff", "bandwidth", "message"),
    [
        (0.999, None, r"units \(above, below\) the cutoff"),
        (0.5, 1e-4, "units within the bandwidth"),
        (0.5, -1.0, "bandwidth = -1.0 must be > 0"),
        (np.inf, None, "cutoff = inf must be finite"),
    ],
)
def test_a_cutoff_without_data_is_refused(
    cutoff: float, bandwidth: float | None, message: str
) -> None:
    launch = simulate_launch_rule(np.random.default_rng(3), 500)
    with pytest.raises(ValueError, match=message):
        regression_discontinuity(launch.outcome, launch.score, cutoff, bandwidth=bandwidth)


def test_missing_scores_are_refused() -> None:
    launch = simulate_launch_rule(np.random.default_rng(4), 200)
    score = launch.score.copy()
    score[0] = np.nan
    with pytest.raises(ValueError, match="missing values in score = 1"):
        regression_discontinuity(launch.outcome, score, 0.5)
