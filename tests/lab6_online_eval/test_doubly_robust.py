"""Exercise 6.24: augmented inverse propensity weighting."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import doubly_robust
from labs.lab6_online_eval.causal_estimate import Study

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def simulated(seed: int, n: int = 2000) -> Data:
    """outcome, treated, and the *true* e, m0, m1. The mean effect is 1.5."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, n)
    e = 1 / (1 + np.exp(-x))
    treated = rng.random(n) < e
    m0, m1 = 2 * x, 2 * x + 1.5 + 0.5 * x
    return np.where(treated, m1, m0) + rng.normal(0, 1, n), treated, e, m0, m1


@pytest.mark.exercise("6.24")
def test_the_estimate_and_its_error_by_hand() -> None:
    """Four units, worked out: psi = 3, -1, 5, 3, so the effect is 2.5 and the error 1.258.

    Unit 0: m1 - m0 = 1 and treated, with residual 1 and e = 1/2, so psi = 1 + 1 / (1/2) = 3.
    """
    outcome = np.array([3.0, 2.0, 6.0, 1.0])
    treated = np.array([True, False, True, False])
    propensity = np.array([0.5, 0.5, 0.25, 0.75])
    m0 = np.array([1.0, 1.0, 4.0, 1.5])
    m1 = np.array([2.0, 2.0, 5.0, 2.5])
    effect, se = doubly_robust.aipw_estimate(outcome, treated, propensity, m0, m1)
    psi = np.array([3.0, -1.0, 5.0, 3.0])
    expected = psi.std(ddof=1) / 2
    assert effect == pytest.approx(2.5), f"expected 2.5, got {effect}"
    assert se == pytest.approx(expected), f"expected the error {expected:.4f}, got {se}"


@pytest.mark.exercise("6.24")
def test_a_wrong_regression_is_repaired_by_the_right_propensity() -> None:
    """The regression says 0 for everybody, and the estimate is still 1.5.

    Without the correction by residuals the answer would be the regression's, which is 0.
    """
    outcome, treated, e, _, _ = simulated(0, 40_000)
    zero = np.zeros(len(outcome))
    effect, se = doubly_robust.aipw_estimate(outcome, treated, e, zero, zero)
    assert effect == pytest.approx(1.5, abs=0.2), f"expected 1.5, got {effect:.3f} +- {se:.3f}"


@pytest.mark.exercise("6.24")
def test_a_wrong_propensity_is_repaired_by_the_right_regression() -> None:
    """The propensity says 1/2 for everybody, and the estimate is still 1.5.

    Weighted outcomes in the place of weighted residuals would carry the whole confounding.
    """
    outcome, treated, e, m0, m1 = simulated(1, 40_000)
    half = np.full_like(e, 0.5)
    effect, se = doubly_robust.aipw_estimate(outcome, treated, half, m0, m1)
    assert effect == pytest.approx(1.5, abs=0.1), f"expected 1.5, got {effect:.3f} +- {se:.3f}"


@pytest.mark.exercise("6.24")
def test_the_error_is_the_spread_of_the_estimate_over_studies() -> None:
    """400 studies: the mean claimed error equals the estimates' own spread."""
    found = np.array([doubly_robust.aipw_estimate(*simulated(seed, 300)) for seed in range(400)])
    spread, claimed = float(found[:, 0].std(ddof=1)), float(found[:, 1].mean())
    assert claimed == pytest.approx(spread, rel=0.15), f"spread {spread:.4f}, claimed {claimed:.4f}"


def study_of(seed: int, n: int = 800) -> Study:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 3))
    treated = rng.random(n) < 1 / (1 + np.exp(-0.7 * x[:, 0]))
    return Study(2 * x[:, 0] + x[:, 1] + 1.5 * treated + rng.normal(0, 1, n), treated, x)


class ByArm:
    """EconML fits one regression on covariates and treatment; this one fits one an arm in it."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> ByArm:
        arm = x[:, -1] == 1
        self.models = [
            doubly_robust.LeastSquaresModel().fit(x[rows, :-1], y[rows]) for rows in (~arm, arm)
        ]
        return self

    def get_params(self, deep: bool = True) -> dict[str, object]:
        return {}

    def predict(self, x: np.ndarray) -> np.ndarray:
        arm = x[:, -1] == 1
        return np.where(arm, *(model.predict(x[:, :-1]) for model in self.models[::-1]))


@pytest.mark.usefixtures("econml")
def test_it_is_econmls_linear_dr_learner() -> None:
    """On the same folds with the same models: the mean effect to 1e-9, and its error.

    EconML's error of the constant divides by n, ours by n - 1.
    """
    from econml.dr import LinearDRLearner
    from sklearn.linear_model import LogisticRegression

    data = study_of(0)
    folds = doubly_robust.stratified_folds(data.treated, 3, seed=1)
    splits = [(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(3)]
    learner = LinearDRLearner(
        model_propensity=LogisticRegression(C=10.0),
        model_regression=ByArm(),
        cv=splits,
        min_propensity=1e-9,
    )
    learner.fit(data.outcome, data.treated.astype(int), X=None, W=data.covariates)
    nuisances = doubly_robust.cross_fit(
        data, fold_of=folds, propensity_model=lambda: LogisticRegression(C=10.0)
    )
    ours = doubly_robust.aipw(data, nuisances)
    theirs = learner.intercept__inference(T=1)
    assert ours.effect == pytest.approx(float(theirs.point_estimate), abs=1e-9)
    assert ours.se == pytest.approx(float(theirs.stderr), rel=1e-3)


def test_models_see_other_folds_only() -> None:
    """A model that remembers its own rows must not recognise a unit that it predicts."""
    data = study_of(1, 200)
    seen: list[set[float]] = []

    class Remembers(doubly_robust.LeastSquaresModel):
        def fit(self, x: np.ndarray, y: np.ndarray) -> Remembers:
            self.rows = set(x[:, 0].tolist())
            super().fit(x, y)
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            seen.append(self.rows & set(x[:, 0].tolist()))
            return super().predict(x)

    doubly_robust.cross_fit(data, outcome_model=Remembers, folds=4)
    assert len(seen) == 8
    assert not set().union(*seen)


def test_the_effect_on_the_treated_is_found_where_effects_differ() -> None:
    """The effect grows with what brings people into the treatment: the ATT is above the ATE."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (20_000, 1))
    treated = rng.random(20_000) < 1 / (1 + np.exp(-x[:, 0]))
    effect = 1.5 + x[:, 0]
    outcome = 2 * x[:, 0] + effect * treated + rng.normal(0, 1, 20_000)
    data = Study(outcome, treated, x)
    nuisances = doubly_robust.cross_fit(data)
    assert doubly_robust.aipw(data, nuisances).effect == pytest.approx(1.5, abs=0.08)
    on_treated = doubly_robust.aipw_treated(data, nuisances)
    assert on_treated.effect == pytest.approx(effect[treated].mean(), abs=0.1)


def test_no_overlap_is_refused() -> None:
    data = study_of(3)
    nuisances = doubly_robust.cross_fit(data)
    far = doubly_robust.Nuisances(
        np.where(data.treated, 0.9999, 1e-4), nuisances.control_outcome, nuisances.treated_outcome
    )
    for estimator in (doubly_robust.aipw, doubly_robust.aipw_treated):
        with pytest.raises(ValueError, match="without overlap"):
            estimator(data, far)
