"""Meta-learners against EconML, and what a ranking by uplift is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval.causal_estimate import Study
from labs.lab6_online_eval.doubly_robust import LeastSquaresModel, stratified_folds
from labs.lab6_online_eval.uplift import (
    dr_learner,
    s_learner,
    simulate_campaign,
    t_learner,
    x_learner,
)
from labs.lab6_online_eval.uplift_metrics import qini_curve, qini_interval, true_qini, uplift_at


@pytest.mark.usefixtures("econml")
def test_the_learners_are_econmls() -> None:
    """With linear models S, T and X agree with EconML's meta-learners to 1e-9."""
    from econml.metalearners import SLearner, TLearner, XLearner
    from sklearn.linear_model import LinearRegression, LogisticRegression

    data = simulate_campaign(np.random.default_rng(0), 800, confounded=True).study
    x, t, y = data.covariates, data.treated.astype(int), data.outcome
    new = x[:50] + 0.1
    logistic = LogisticRegression(C=10.0)
    pairs = (
        (s_learner(data, LinearRegression), SLearner(overall_model=LinearRegression())),
        (t_learner(data, LinearRegression), TLearner(models=LinearRegression())),
        (
            x_learner(data, LinearRegression, lambda: LogisticRegression(C=10.0)),
            XLearner(models=LinearRegression(), propensity_model=logistic),
        ),
    )
    for ours, theirs in pairs:
        theirs.fit(y, t, X=x)
        assert np.abs(ours(new) - theirs.effect(new)).max() < 1e-9, theirs


@pytest.mark.usefixtures("econml")
def test_the_dr_learner_is_econmls() -> None:
    """Same folds, same models: the linear DR-learner agrees with EconML's to 1e-8."""
    from econml.dr import LinearDRLearner
    from sklearn.linear_model import LogisticRegression

    class ByArm:
        def fit(self, x: np.ndarray, y: np.ndarray) -> ByArm:
            arm = x[:, -1] == 1
            self.models = [LeastSquaresModel().fit(x[rows, :-1], y[rows]) for rows in (~arm, arm)]
            return self

        def get_params(self, deep: bool = True) -> dict[str, object]:
            return {}

        def predict(self, x: np.ndarray) -> np.ndarray:
            arm = x[:, -1] == 1
            return np.where(arm, *(model.predict(x[:, :-1]) for model in self.models[::-1]))

    data = simulate_campaign(np.random.default_rng(1), 900, confounded=True).study
    folds = stratified_folds(data.treated, 3, seed=5)
    theirs = LinearDRLearner(
        model_propensity=LogisticRegression(C=10.0),
        model_regression=ByArm(),
        cv=[(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(3)],
        min_propensity=1e-9,
    ).fit(data.outcome, data.treated.astype(int), X=data.covariates)
    ours = dr_learner(
        data,
        propensity_model=lambda: LogisticRegression(C=10.0),
        folds=3,
        seed=5,
    )
    assert np.abs(ours(data.covariates) - theirs.effect(data.covariates)).max() < 1e-8


def test_a_linear_s_learner_says_the_same_of_everybody() -> None:
    """One column for the treatment is one effect; two models have one for each covariate."""
    campaign = simulate_campaign(np.random.default_rng(2), 2000)
    x = campaign.study.covariates
    assert np.ptp(s_learner(campaign.study)(x)) < 1e-9
    assert np.corrcoef(t_learner(campaign.study)(x), campaign.uplift)[0, 1] > 0.5


def test_confounding_misleads_nobody_who_models_both() -> None:
    """Where the treated were the better anyway, the mean of the DR-learner is the true mean."""
    campaign = simulate_campaign(np.random.default_rng(3), 8000, confounded=True)
    found = dr_learner(campaign.study)(campaign.study.covariates).mean()
    assert found == pytest.approx(campaign.uplift.mean(), abs=0.15)


def test_the_qini_curve_by_hand() -> None:
    """Four units, ranked: treated 3, control 1, treated 0, control 2. gain = 0, 2/2, 1/2, 0/2."""
    found = qini_curve(
        np.array([3.0, 1.0, 0.0, 2.0]),
        np.array([True, False, True, False]),
        np.array([4.0, 3.0, 2.0, 1.0]),
    )
    assert found.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.gain.tolist() == [0, 0, 1, 0.5, 0]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 50))
def test_only_the_order_counts_and_rows_do_not(seed: int, scale: float) -> None:
    """Any rising function of the predictions and any order of rows give the same curve."""
    rng = np.random.default_rng(seed)
    y, t, u = rng.normal(0, 1, 60), np.arange(60) % 2 == 0, rng.integers(0, 8, 60).astype(float)
    first = qini_curve(y, t, u)
    rows = rng.permutation(60)
    second = qini_curve(y[rows], t[rows], np.exp(u[rows] / 4) * scale)
    assert second.coefficient == pytest.approx(first.coefficient, abs=1e-12)
    assert first.gain[-1] == pytest.approx(y[t].mean() - y[~t].mean())


def test_a_ranking_by_outcome_is_not_one_by_uplift() -> None:
    """The best customers are not the persuadable ones: their ranking gains nothing."""
    campaign = simulate_campaign(np.random.default_rng(4), 20_000)
    by_outcome = true_qini(campaign.uplift, campaign.study.covariates[:, 0]).coefficient
    by_uplift = true_qini(campaign.uplift, campaign.uplift).coefficient
    assert abs(by_outcome) < 0.02 < 0.1 < by_uplift
    y, t = campaign.study.outcome, campaign.study.treated
    low, high = qini_interval(y, t, campaign.uplift, n_boot=100)
    assert low < by_uplift < high
    assert uplift_at(y, t, campaign.uplift, 0.2).covers(1.2)


@pytest.mark.parametrize(
    ("uplift", "message"),
    [([1.0, np.nan, 0, 0], "missing values in uplift = 1"), ([1.0], "shape of uplift")],
)
def test_unusable_predictions_are_refused(uplift: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qini_curve(np.arange(4.0), np.array([True, True, False, False]), np.array(uplift))


def test_no_overlap_is_refused_by_the_dr_learner() -> None:
    campaign = simulate_campaign(np.random.default_rng(5), 400)
    x = campaign.study.covariates
    decided = Study(campaign.study.outcome, x[:, 0] > 0, x)
    with pytest.raises(ValueError, match="overlap"):
        dr_learner(decided)
