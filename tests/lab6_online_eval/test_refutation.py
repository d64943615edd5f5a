"""Refutation tests: what each finds, and what it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import refutation
from labs.lab6_online_eval.causal_estimate import Estimand, Estimate, Study
from labs.lab6_online_eval.weighting import ipw


def study_of(seed: int, *, hidden: float = 0.0) -> Study:
    """Effect 2; ``hidden`` is how strongly an unmeasured cause drives treatment and outcome."""
    rng = np.random.default_rng(seed)
    x, u = rng.normal(0, 1, (500, 2)), rng.normal(0, 1, 500)
    treated = rng.random(500) < 1 / (1 + np.exp(-0.6 * x[:, 0] - hidden * u))
    outcome = x[:, 0] + hidden * u + 2 * treated + rng.normal(0, 1, 500)
    return Study(outcome, treated, x)


def weighted(study: Study) -> Estimate:
    return ipw(study, Estimand.ATE)


def test_a_sound_analysis_passes() -> None:
    data = study_of(0)
    for test in (
        refutation.placebo_treatment,
        refutation.random_common_cause,
        refutation.data_subset,
    ):
        found = test(data, weighted, repetitions=20)
        assert found.passed, found


def test_a_hidden_cause_passes_all_three() -> None:
    """The estimate is off by more than 1, and none of the three can know."""
    data = study_of(1, hidden=1.5)
    assert weighted(data).effect > 3
    for test in (
        refutation.placebo_treatment,
        refutation.random_common_cause,
        refutation.data_subset,
    ):
        assert test(data, weighted, repetitions=20).passed


def test_a_placebo_outcome_finds_what_the_covariates_do_not_carry() -> None:
    """An earlier outcome with the same hidden cause shows an effect before there was one."""
    rng = np.random.default_rng(2)
    u, x = rng.normal(0, 1, 1000), rng.normal(0, 1, (1000, 2))
    treated = rng.random(1000) < 1 / (1 + np.exp(-1.5 * u))
    data = Study(u + rng.normal(0, 1, 1000), treated, x)
    before = u + rng.normal(0, 1, 1000)
    assert not refutation.placebo_outcome(data, weighted, before, x, ("a", "b")).passed
    innocent = rng.normal(0, 1, 1000)
    assert refutation.placebo_outcome(data, weighted, innocent, x, ("a", "b")).passed


def test_an_estimator_that_always_finds_something_fails_the_placebo_treatment() -> None:
    def biased(study: Study) -> Estimate:
        found = weighted(study)
        return Estimate.of(
            found.effect + 1, found.se, estimand=found.estimand, n_treated=1, n_control=1
        )

    assert not refutation.placebo_treatment(study_of(3), biased, repetitions=20).passed


def test_an_estimate_that_hangs_on_one_unit_fails_the_subset() -> None:
    data = study_of(4)
    outcome = data.outcome.copy()
    outcome[np.flatnonzero(data.treated)[0]] = 1e4
    wild = Study(outcome, data.treated, data.covariates)
    found = refutation.data_subset(wild, weighted, share=0.5, repetitions=40, seed=1)
    assert found.high - found.low > 20


def test_the_e_value_is_the_published_one() -> None:
    """VanderWeele and Ding (2017): a risk ratio of 3.9 has the E-value 7.26 (limit 1.8: 3.0)."""
    assert refutation.e_value_of_ratio(3.9) == pytest.approx(7.26, abs=0.005)
    assert refutation.e_value_of_ratio(1.8) == pytest.approx(3.0, abs=0.005)
    assert refutation.e_value_of_ratio(1 / 3.9) == pytest.approx(7.26, abs=0.005)


def test_an_interval_around_zero_needs_no_confounder() -> None:
    spanning = Estimate.of(1.0, 1.0, estimand=Estimand.ATT, n_treated=5, n_control=5)
    clear = Estimate.of(3.0, 1.0, estimand=Estimand.ATT, n_treated=5, n_control=5)
    assert refutation.e_value_of_interval(spanning, 2.0) == 1.0
    assert 1 < refutation.e_value_of_interval(clear, 2.0) < refutation.e_value(3.0, 2.0)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_a_cause_as_strong_as_the_robustness_value_removes_the_effect(seed: int) -> None:
    """Build it: its partial R2 with treatment and outcome is RV, and the coefficient is 0.

    By the omitted-variable formula: bias = se sqrt(dof) sqrt(R2_y R2_d / (1 - R2_d)).
    """
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 1, 200)
    y = 0.5 * d + rng.normal(0, 1, 200)
    design = np.column_stack([np.ones(200), d])
    beta, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    se = np.sqrt(residual[0] / 198 * np.linalg.inv(design.T @ design)[1, 1])
    value = refutation.robustness_value(float(beta[1] / se), 198)
    bias = se * np.sqrt(198) * np.sqrt(value**2 / (1 - value))
    assert bias == pytest.approx(abs(beta[1]), rel=1e-9)


def test_the_tipping_point_removes_the_effect() -> None:
    """A binary cause worth 4,000 needs to be 45 points more common among the treated."""
    point = refutation.tipping_point(1800.0, 4000.0)
    assert point == pytest.approx(0.45)
    assert 1800 - point * 4000 == pytest.approx(0)


def test_too_few_repetitions_are_refused() -> None:
    with pytest.raises(ValueError, match="repetitions = 3 must be at least 10"):
        refutation.placebo_treatment(study_of(5), weighted, repetitions=3)
