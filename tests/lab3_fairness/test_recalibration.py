import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from common.data import load
from common.errors import InputError
from labs.lab3_fairness.calibration import logits
from labs.lab3_fairness.recalibration import (
    METHODS,
    Scored,
    compare_recalibrations,
    isotonic,
    per_group,
    platt,
    temperature_scaling,
)
from labs.lab3_fairness.scoring import cross_fitted, logistic_regression, scores
from labs.lab3_fairness.tabular import compas_task


def too_extreme(n, seed=0, factor=2.0):
    """Labels, and scores whose logits are ``factor`` times what they should be."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-0.5, 1, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    return y, 1 / (1 + np.exp(-factor * odds))


def test_platt_scaling_is_logistic_regression_on_the_logit():
    y, s = too_extreme(800)
    ours = platt(y, s)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits(s)[:, None], y)
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-5)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], rel=1e-4)


def test_temperature_scaling_finds_the_factor_by_which_scores_are_too_extreme():
    y, s = too_extreme(50_000, factor=3.0)
    assert 1 / temperature_scaling(y, s).slope == pytest.approx(3, rel=0.03)


def test_temperature_scaling_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3))
    y = (rng.random(2000) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    model = LogisticRegression(C=np.inf).fit(x[:60], y[:60])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", ensemble=False)
    theirs.fit(x[60:1000], y[60:1000])
    # FrozenEstimator makes every fold the same model, so the temperature sees rows 60 to 999.
    ours = temperature_scaling(y[60:1000], scores(model, x[60:1000]))
    np.testing.assert_allclose(
        ours(scores(model, x[1000:])), theirs.predict_proba(x[1000:])[:, 1], atol=2e-3
    )


def test_isotonic_is_scikit_learns_and_stays_between_0_and_1():
    y, s = too_extreme(500)
    new = np.linspace(0, 1, 101)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(s, y).predict(new)
    np.testing.assert_allclose(isotonic(y, s)(new), theirs)


@pytest.mark.parametrize("name", METHODS)
@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_a_pooled_map_never_reverses_the_order_of_two_people(name, seed):
    y, s = too_extreme(80, seed)
    if len(np.unique(y)) < 2:
        return
    mapped = METHODS[name](y, s)(np.sort(s))
    assert (np.diff(mapped) >= -1e-12).all()


def test_temperature_scaling_changes_no_decision_at_one_half():
    y, s = too_extreme(400)
    mapped = temperature_scaling(y, s)(s)
    assert ((mapped > 0.5) == (s > 0.5)).all()


def test_a_map_a_group_repairs_what_a_pooled_one_averages():
    """Group a is rated 0.15 too high in its logit's place, group b as much too low."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1, 20_000)
    groups = np.repeat(np.array(["a", "b"], dtype=object), 10_000)
    s = 1 / (1 + np.exp(-odds))
    y = (rng.random(20_000) < 1 / (1 + np.exp(-odds - np.where(groups == "a", -0.6, 0.6)))).astype(
        int
    )
    pooled = platt(y, s)(s)
    grouped = per_group(platt, y, s, groups)(s, groups)
    for name in ("a", "b"):
        own = groups == name
        assert abs((pooled - y)[own].mean()) > 0.08
        assert abs((grouped - y)[own].mean()) < 1e-6


def compas_recalibrations():
    task = compas_task(load("compas").table("scores"))
    order = np.random.default_rng(0).permutation(len(task))
    cut = len(task) * 2 // 3
    train, test = task.rows(order[:cut]), task.rows(order[cut:])
    model = logistic_regression().fit(train.features, train.labels)
    return compare_recalibrations(
        Scored(train.labels, cross_fitted(logistic_regression, train), train.groups),
        Scored(test.labels, scores(model, test.features), test.groups),
        n_boot=100,
    ), test


def test_calibrating_each_race_widens_both_gaps_on_compas():
    """Base rates are .52 and .39: scores that mean the same put more of one above one half."""
    found, test = compas_recalibrations()
    by_name = {(result.method, result.scope): result for result in found}
    before, after = by_name["none", "pooled"].outcome, by_name["platt", "per group"].outcome
    assert after.dp_diff > before.dp_diff + 0.05
    assert after.eo_diff > before.eo_diff + 0.05
    assert after.dp_diff_ci95[0] > before.dp_diff
    assert by_name["temperature", "pooled"].outcome.dp_diff == before.dp_diff
    assert by_name["platt", "pooled"].auc == pytest.approx(by_name["none", "pooled"].auc)
    for result in found:
        assert result.auc_ci95[0] < result.auc < result.auc_ci95[1]
        assert result.auc == pytest.approx(roc_auc_score(test.labels, result.scores))


def test_a_group_that_was_not_fitted_is_an_error():
    y, s = too_extreme(400)
    maps = per_group(platt, y, s, np.repeat(["a", "b"], 200))
    with pytest.raises(InputError, match="'c' was not fitted"):
        maps([0.5], ["c"])
    with pytest.raises(InputError, match="must both be"):
        maps([0.5, 0.5], ["a"])


@pytest.mark.parametrize(
    ("sizes", "positive", "message"),
    [((195, 5), 0.5, "must be >= min_rows = 50"), ((100, 100), 0.0, "only the label 0")],
)
def test_a_group_too_small_or_of_one_label_is_an_error(sizes, positive, message):
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], sizes)
    y = np.where(groups == "a", rng.random(200) < 0.5, rng.random(200) < positive).astype(int)
    with pytest.raises(InputError, match=message):
        per_group(platt, y, rng.random(200), groups)


def test_labels_that_the_scores_separate_are_an_error():
    with pytest.raises(InputError, match="separate"):
        platt([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8])
    with pytest.raises(InputError, match="only the label"):
        isotonic([1, 1], [0.1, 0.2])
