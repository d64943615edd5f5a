"""Propensity, weighting, matching: against the production tools, and refused without overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from labs.lab6_online_eval import matching, observational_study, propensity, weighting
from labs.lab6_online_eval.causal_estimate import Estimand, Study, study
from labs.lab6_online_eval.difference_in_differences import did_with_covariates


def confounded(seed: int, n: int = 600, strength: float = 0.8) -> Study:
    """x_0 drives treatment and outcome; the effect is 2 for everybody."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 3))
    treated = rng.random(n) < 1 / (1 + np.exp(-strength * x[:, 0] + 0.3))
    outcome = 3 * x[:, 0] - x[:, 1] + 2 * treated + rng.normal(0, 1, n)
    return Study(outcome, treated, x)


def separated(n: int = 200) -> Study:
    """Treated and control do not overlap: x_0 decides the treatment."""
    data = confounded(0, n)
    x = data.covariates.copy()
    x[:, 0] = np.abs(x[:, 0]) * np.where(data.treated, 1, -1) + np.where(data.treated, 2, -2)
    return Study(data.outcome, data.treated, x)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), strength=st.floats(0, 1.5))
def test_the_propensity_is_statsmodels_logit(seed: int, strength: float) -> None:
    """Newton's method gives statsmodels' probabilities to 1e-9, whatever the covariates' units."""
    import statsmodels.api as sm

    data = confounded(seed, 300, strength)
    x = data.covariates * np.array([1.0, 1000.0, 0.01])
    fit = sm.Logit(data.treated.astype(float), sm.add_constant(data.covariates)).fit(
        disp=0, tol=1e-13, method="newton"
    )
    ours = propensity.fit_propensity(Study(data.outcome, data.treated, x)).score
    assert np.abs(ours - fit.predict()).max() < 1e-9


def test_the_error_knows_that_the_score_was_estimated() -> None:
    """Over 400 studies the claimed error equals the spread, where the naive one is too large.

    The estimated score balances what happens to be unbalanced, so the estimate varies less than
    with known scores; an error that does not know it wastes the sample.
    """
    rows = []
    for seed in range(400):
        data = confounded(seed, 500)
        fit = propensity.fit_propensity(data)
        known, full = (
            weighting.hajek(data.outcome, data.treated, fit.score, Estimand.ATE, design=design)
            for design in (None, fit.design)
        )
        rows.append((full.effect, full.se, known.se))
    effects, full_se, known_se = np.array(rows).T
    spread = effects.std(ddof=1)
    assert full_se.mean() == pytest.approx(spread, rel=0.12)
    assert known_se.mean() > 1.4 * spread
    assert abs(effects.mean() - 2) < 4 * spread / 20


@pytest.mark.parametrize("estimand", [Estimand.ATE, Estimand.ATT, Estimand.ATO])
def test_weighting_finds_the_effect_for_every_population(estimand: Estimand) -> None:
    """The effect is 2 for everybody, the naive difference is above 4."""
    data = confounded(1, 20_000)
    naive = data.outcome[data.treated].mean() - data.outcome[~data.treated].mean()
    assert naive > 4
    assert weighting.ipw(data, estimand).effect == pytest.approx(2, abs=0.15)


def test_hajek_does_not_depend_on_where_the_outcome_is_zero_and_horvitz_thompson_does() -> None:
    """Adding 100 to every outcome must not change an effect."""
    data = confounded(2)
    score = propensity.fit_propensity(data).score
    moved = data.outcome + 100
    for estimand in (Estimand.ATE, Estimand.ATT):
        first = weighting.hajek(data.outcome, data.treated, score, estimand)
        second = weighting.hajek(moved, data.treated, score, estimand)
        assert second.effect == pytest.approx(first.effect, abs=1e-9)
        raw = weighting.horvitz_thompson(data.outcome, data.treated, score, estimand)
        shifted = weighting.horvitz_thompson(moved, data.treated, score, estimand)
        assert abs(shifted.effect - raw.effect) > 0.01


def test_overlap_weights_balance_exactly() -> None:
    """With a logistic score the weights of the overlap leave no difference in any covariate."""
    data = confounded(3)
    fit = propensity.fit_propensity(data)
    weights = propensity.balancing_weights(fit.score, data.treated, Estimand.ATO)
    before = propensity.standardised_differences(data.covariates, data.treated)
    after = propensity.standardised_differences(data.covariates, data.treated, weights)
    assert abs(before[0]) > 0.5
    assert np.abs(after).max() < 1e-8


def test_entropy_balancing_gives_the_treated_units_means_exactly() -> None:
    """Means agree to 1e-8, the weights are positive, and the effect is found."""
    data = confounded(4, 4000)
    found = weighting.entropy_balancing(data)
    t, x = data.treated, data.covariates
    assert np.abs(found.weights[~t] @ x[~t] - x[t].mean(axis=0)).max() < 1e-8
    assert found.weights.min() > 0
    assert found.estimate.effect == pytest.approx(2, abs=3.5 * found.estimate.se)


def test_entropy_weights_are_those_of_a_general_optimiser() -> None:
    """scipy's solution of the primal problem is the same to 1e-5."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (12, 2))
    target = np.array([0.2, -0.1])
    ours = weighting.entropy_weights(x, target)
    constraints = [
        {"type": "eq", "fun": lambda w: w @ x - target},
        {"type": "eq", "fun": lambda w: w.sum() - 1},
    ]
    found = minimize(
        lambda w: float((w * np.log(np.maximum(w, 1e-12))).sum()),
        np.full(12, 1 / 12),
        bounds=[(1e-9, 1)] * 12,
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.abs(found.x - ours).max() < 1e-5


def test_trimming_keeps_the_middle() -> None:
    assert propensity.trim(np.array([0.05, 0.1, 0.5, 0.95])).tolist() == [False, True, True, False]


def test_each_treated_unit_gets_the_nearest_control() -> None:
    """By brute force, with and without replacement; a caliper leaves out whom nobody is near."""
    data = confounded(6, 120)
    place = data.covariates[:, 0]
    t = data.treated
    found = matching.match_with_replacement(data.outcome, t, place)
    gaps = np.abs(place[t][:, None] - place[~t][None, :])
    nearest = np.flatnonzero(~t)[gaps.argmin(axis=1)]
    assert found.control.tolist() == nearest.tolist()
    assert found.estimate.effect == pytest.approx((data.outcome[t] - data.outcome[nearest]).mean())
    once = matching.match_without_replacement(data.outcome, t, place, caliper=0.05)
    assert len(set(once.control.tolist())) == len(once.control)
    assert np.abs(place[once.treated] - place[once.control]).max() <= 0.05
    assert once.unmatched == t.sum() - len(once.treated) > 0


def test_a_control_that_serves_often_counts_in_the_error() -> None:
    """One control for everybody: the error is at least that control's own, whatever the n."""
    rng = np.random.default_rng(7)
    outcome = rng.normal(0, 1, 52)
    treated = np.arange(52) < 50
    place = np.where(treated, 0.0, np.where(np.arange(52) == 50, 0.1, 5.0))
    found = matching.match_with_replacement(outcome, treated, place)
    assert found.reuse == 50
    own = abs(outcome[50] - outcome[51]) / np.sqrt(2)
    assert found.estimate.se > 0.98 * own


def test_matching_errors_hold_over_many_studies() -> None:
    """One covariate: the interval of Abadie and Imbens holds the truth about 95 % of the time."""
    held = 0
    for seed in range(200):
        data = confounded(seed, 300)
        known = data.outcome + data.covariates[:, 1]
        found = matching.match_with_replacement(known, data.treated, data.covariates[:, 0])
        held += found.estimate.covers(2.0)
    assert 0.90 <= held / 200 <= 0.99, held / 200


@pytest.mark.parametrize(
    "estimator", [name for name in observational_study.ESTIMATORS if name != "naive"]
)
def test_every_observational_estimator_refuses_data_without_overlap(estimator: str) -> None:
    """Nobody is there to compare with: an error that says so, and no number."""
    with pytest.raises(ValueError, match="overlap"):
        observational_study.ESTIMATORS[estimator](separated())


def test_differences_with_covariates_refuse_data_without_overlap() -> None:
    """The same for the regression of changes, which would extrapolate."""
    data = separated()
    before = np.zeros(data.n)
    with pytest.raises(ValueError, match="overlap"):
        did_with_covariates(before, data.outcome, data.treated, data.covariates)


def test_weights_that_rest_on_a_few_units_are_refused() -> None:
    """The score never reaches 1, but two controls would carry all treated units."""
    treated = np.arange(300) < 100
    score = np.where(treated, 0.97, 0.001)
    score[[150, 151]] = 0.97
    with pytest.raises(ValueError, match="effective sample size"):
        propensity.require_overlap(score, treated, Estimand.ATT)


def test_the_effect_on_everybody_is_refused_for_job_training() -> None:
    """92 % of the CPS had no chance of being in the programme; for its own people there is one."""
    data = observational_study.nsw_with_cps(load("nsw"))
    with pytest.raises(ValueError, match=r"share of the ATE population without overlap = 0\.917"):
        weighting.ipw(data, Estimand.ATE)
    assert weighting.ipw(data, Estimand.ATT).n_treated == 185


@pytest.mark.parametrize(
    ("outcome", "treated", "covariates", "message"),
    [
        ([1, 2, 3, np.inf], [0, 1, 0, 1], np.ones((4, 1)), "missing values in outcome = 1"),
        ([1, 2, 3, 4], [0, 1, 0, 2], np.ones((4, 1)), "values of treated"),
        ([1, 2, 3, 4], [0, 0, 0, 1], np.ones((4, 1)), "treated units = 1 must be at least 2"),
        ([1, 2, 3, 4], [0, 1, 0, 1], np.ones((3, 1)), "shape of covariates"),
        ([1, 2, 3, 4], [0, 1, 0, 1], np.full((4, 1), np.nan), "missing values in covariates"),
    ],
)
def test_unusable_studies_are_refused(
    outcome: list[float], treated: list[int], covariates: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        study(outcome, treated, covariates)


def test_a_constant_covariate_is_named() -> None:
    data = confounded(8, 100)
    x = np.column_stack([data.covariates[:, 0], np.ones(100)])
    with pytest.raises(ValueError, match="'country'"):
        propensity.fit_propensity(Study(data.outcome, data.treated, x, ("age", "country")))
