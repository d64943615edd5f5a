"""Job training with the experiment as judge, the quasi-experiments, and the methods on trial."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval import figures_causal
from labs.lab6_online_eval.causal_estimate import Estimand, difference_in_means
from labs.lab6_online_eval.causal_study import CausalStudy, study_causal
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.methods_causal import methods
from labs.lab6_online_eval.observational_study import nhefs_study
from labs.lab6_online_eval.validation import Method
from labs.lab6_online_eval.weighting import ipw
from labs.lab6_online_eval.world import World


@pytest.fixture(scope="module")
def study() -> CausalStudy:
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, 0.5, 60)
    appeal = np.clip(0.2 * activity[:, None] * rng.random((60, 30)), 0, 0.9)
    world = World(appeal, 0.5 * rng.random(30), 0.4 * activity, np.zeros((60, 30), dtype=bool))
    order = np.argsort(world.click, axis=1)
    return study_causal(
        load("nsw"),
        world,
        (order[:, 10:15], order[:, -5:]),
        repetitions=10,
        n_units=8000,
        n_campaign=1000,
        n_boot=100,
    )


def test_the_experiment_is_the_published_one(study: CausalStudy) -> None:
    """1,794.3433 dollars with a standard error of 670.9966, and -8,497.516 without one."""
    experiment = study.observational.experiment
    assert experiment.effect == pytest.approx(1794.3433, abs=0.001)
    assert experiment.se == pytest.approx(670.9966, abs=0.001)
    assert study.observational.estimates["naive"].effect == pytest.approx(-8497.516, abs=0.001)


def test_adjusted_estimators_come_near_the_experiment(study: CausalStudy) -> None:
    """Every estimator with covariates holds the randomised answer; naive and plain DiD do not."""
    found = study.observational
    truth = found.experiment.effect
    wrong = {name for name, each in found.estimates.items() if not each.covers(truth)}
    assert wrong == {"naive", "did"}
    near = ("regression", "ipw", "aipw", "entropy_balancing", "did_with_covariates")
    assert max(abs(found.error(name)) for name in near) < 500


def test_parallel_trends_before_did_not_promise_them_after(study: CausalStudy) -> None:
    """The check of 1974 to 1975 passes, and difference in differences is 1,800 dollars off."""
    assert study.observational.pre_trend.covers(0)
    assert study.observational.error("did") > 1500


def test_weights_balance_what_they_were_made_of(study: CausalStudy) -> None:
    found = study.observational
    assert np.abs(found.before).max() > 2
    assert np.abs(found.after).max() < 0.1
    assert 50 < found.overlap.effective_control < 100


def test_the_effect_on_everybody_is_refused_with_the_reason(study: CausalStudy) -> None:
    assert "ATE population without overlap = 0.9172" in study.observational.refused


def test_only_the_placebo_outcome_refutes(study: CausalStudy) -> None:
    """Without the earnings of 1975 the groups differ in them: these cannot be left out."""
    outcomes = {each.name: each.passed for each in study.observational.refutations}
    assert outcomes == {
        "placebo treatment": True,
        "placebo outcome": False,
        "random common cause": True,
        "data subset": True,
    }
    assert "misses confounding" in str(study.observational.refutations[0])


def test_quitting_smoking_is_the_published_estimate() -> None:
    """Hernan and Robins, What If, chapter 12: 2.5 kg crude, 3.4 kg (2.4 to 4.5) by IPW."""
    data = nhefs_study(load("nsw"))
    assert data.n == 1566
    assert difference_in_means(data.outcome, data.treated).effect == pytest.approx(2.54, abs=0.005)
    found = ipw(data, Estimand.ATE)
    assert found.effect == pytest.approx(3.44, abs=0.005)
    assert found.ci95 == pytest.approx((2.4, 4.5), abs=0.15)


def test_each_design_holds_its_truth_and_each_shortcut_does_not(study: CausalStudy) -> None:
    quasi = study.quasi
    assert quasi.invited.found.cace.covers(quasi.invited.true_cace)
    assert not quasi.invited.found.as_treated.covers(quasi.invited.true_cace)
    assert quasi.voucher.coverage > 0.85
    assert quasi.launch.found.robust.covers(quasi.launch.data.effect)
    assert quasi.launch.naive > 3 * quasi.launch.data.effect
    assert quasi.launch.manipulated.p < 0.05 < quasi.launch.density.p
    assert quasi.rollout.two_way < quasi.rollout.truth / 2
    assert quasi.rollout.group_time.mean == pytest.approx(quasi.rollout.truth, abs=0.3)
    best = max(each.true.coefficient for each in quasi.uplift.learners.values())
    assert quasi.uplift.by_outcome.coefficient < best / 2 < best < quasi.uplift.oracle.coefficient


def test_what_is_recorded_is_finite_and_named_once(study: CausalStudy) -> None:
    rows = study.metrics()
    assert len({name for name, *_ in rows}) == len(rows) > 20
    assert all(np.isfinite(value) for _, value, *_ in rows)


@pytest.mark.slow
def test_every_figure_is_drawn(study: CausalStudy) -> None:
    figures = [*figures_causal.all_figures(study.observational)]
    figures += figures_causal.quasi_figures(study.quasi)
    assert len(figures) == 6
    for _, figure, caption in figures:
        figure.canvas.draw()
        assert caption


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_method_is_honest_or_marked_as_flawed(method: Method) -> None:
    """250 experiments each: false positives near 5 %, coverage near 95 %, or far off both."""
    null = method.simulate(np.random.default_rng(1), 250, 0.0)
    real = method.simulate(np.random.default_rng(2), 250, method.effect)
    false = float((null.p < 0.05).mean())
    held = float(((real.low <= method.effect) & (method.effect <= real.high)).mean())
    if method.flawed:
        assert false > 0.5 > held, (false, held)
    else:
        assert false <= 0.10, false
        assert held >= 0.90, held


def test_least_squares_are_statsmodels_with_weights() -> None:
    """HC2 and clusters against statsmodels to 1e-9; two groups give Welch's error."""
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (80, 3))
    y, w, g = rng.normal(0, 1, 80) + x[:, 0], rng.random(80), rng.integers(0, 20, 80)
    design = with_intercept(x)
    ours = least_squares(design, y, weights=w)
    theirs = sm.WLS(y, design, weights=w).fit(cov_type="HC2")
    assert ours.coefficients == pytest.approx(theirs.params, rel=1e-9)
    assert ours.se == pytest.approx(theirs.bse, rel=1e-9)
    clustered = sm.WLS(y, design, weights=w).fit(cov_type="cluster", cov_kwds={"groups": g})
    assert least_squares(design, y, weights=w, clusters=g).se == pytest.approx(
        clustered.bse, rel=1e-9
    )
    arm = np.arange(80) < 30
    two = least_squares(np.column_stack([np.ones(80), arm]).astype(float), y)
    assert two.se[1] == pytest.approx(difference_in_means(y, arm).se, rel=1e-9)
    with pytest.raises(ValueError, match="column 2 of the design depends"):
        least_squares(np.column_stack([np.ones(80), arm, ~arm]).astype(float), y)
