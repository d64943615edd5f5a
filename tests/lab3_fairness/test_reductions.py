import numpy as np
import pandas as pd
import pytest
from fairlearn.reductions import ErrorRate
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import reductions
from labs.lab3_fairness.decisions import outcome
from labs.lab3_fairness.mitigation import subsample
from labs.lab3_fairness.tabular import Task, adult_task


@pytest.fixture(scope="module")
def adult():
    data = load("adult")
    return adult_task(data.table("train")), adult_task(data.table("test"))


@pytest.fixture(scope="module")
def small(adult):
    return subsample(adult[0], 2000), subsample(adult[1], 2000)


def random_task(seed, n=300, groups="abc"):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    names = rng.choice(list(groups), n).astype(object)
    x = rng.normal(size=n) + labels + (names == "a")
    return Task(pd.DataFrame({"x": x, "z": rng.normal(size=n)}), labels, names)


def fairlearn_moment(task, constraint):
    moment = reductions.CONSTRAINTS[constraint](difference_bound=0.01)
    moment.load_data(task.features, task.labels, sensitive_features=task.groups)
    return moment


@pytest.mark.parametrize("constraint", ["dp", "eo"])
@pytest.mark.parametrize("groups", ["ab", "abc"])
def test_violations_and_costs_are_those_of_fairlearn(constraint, groups):
    """The whole reduction is in these two formulas: what is violated, and what a row then costs."""
    task = random_task(0, groups=groups)
    codes = pd.factorize(task.groups, sort=True)[0]
    moments = reductions.rate_moments(task.labels, codes, len(groups), constraint)
    theirs = fairlearn_moment(task, constraint)
    rng = np.random.default_rng(1)
    decisions = rng.integers(0, 2, len(task))
    gamma = theirs.gamma(lambda x: decisions)
    np.testing.assert_allclose(moments @ decisions, gamma["+"].to_numpy(), atol=1e-12)
    np.testing.assert_allclose(-moments @ decisions, gamma["-"].to_numpy(), atol=1e-12)
    multipliers = rng.random((2, len(moments)))
    error = ErrorRate()
    error.load_data(task.features, task.labels, sensitive_features=task.groups)
    expected = error.signed_weights() + theirs.signed_weights(
        pd.Series(multipliers.ravel(), index=theirs.index)
    )
    got = reductions.costs(task.labels, moments, multipliers)
    np.testing.assert_allclose(got, expected.to_numpy(), atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(["dp", "eo"]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_lagrangian_is_a_weighted_error(seed, constraint):
    """error + lambda * violation = constant - mean(cost * decision), whatever the decisions."""
    task = random_task(seed, n=60, groups="ab")
    codes = pd.factorize(task.groups, sort=True)[0]
    moments = reductions.rate_moments(task.labels, codes, 2, constraint)
    rng = np.random.default_rng(seed)
    multipliers, decisions = rng.random((2, len(moments))), rng.integers(0, 2, 60)
    lagrangian = np.mean(decisions != task.labels) + (multipliers[0] - multipliers[1]) @ (
        moments @ decisions
    )
    weighted = task.labels.mean() - np.mean(
        reductions.costs(task.labels, moments, multipliers) * decisions
    )
    assert lagrangian == pytest.approx(weighted)


def test_the_mixture_is_the_best_that_keeps_the_bound():
    """Model 0 errs .10 with a gap of .3, model 1 .20 with none: a third of model 0 keeps .1."""
    weights = reductions.best_mixture(
        np.array([0.1, 0.2]), np.array([[0.3, -0.3], [0.0, 0.0]]), bound=0.1, largest=100.0
    )
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3], atol=1e-9)


def test_a_bound_that_no_mixture_keeps_is_missed_by_as_little_as_possible():
    weights = reductions.best_mixture(
        np.array([0.1, 0.2]), np.array([[0.3], [0.2]]), bound=0.1, largest=100.0
    )
    np.testing.assert_allclose(weights, [0, 1], atol=1e-9)


@pytest.mark.parametrize("constraint", ["dp", "eo"])
def test_the_loop_by_hand_keeps_the_bound_in_training(small, constraint):
    """Each group's expected rate lies within the bound of everybody's, by a mixture of few."""
    train, test = small
    learner = reductions.linear(train, test, 0)
    found = reductions.lagrangian_reweighting(train, learner, constraint=constraint, iterations=40)
    violation = np.abs(found.weights @ found.violations).max()
    assert violation <= 0.01 + 1e-9, f"at most 0.01, got {violation}"
    constraints = found.violations.shape[1]
    assert 1 <= (found.weights > 0).sum() <= constraints + 1
    chance = found.positive(learner.test_features)
    assert ((chance > 0) & (chance < 1)).any(), "nobody's decision is a coin"


def test_a_price_beats_no_price_and_the_first_model_pays_none(small):
    """All multipliers start equal, so "too high" and "too low" cancel: the first model is the
    plain one. The later ones trade error for the gap."""
    train, test = small
    learner = reductions.linear(train, test, 0)
    found = reductions.lagrangian_reweighting(train, learner, constraint="dp", iterations=6)
    plain = learner.fit(train.labels, np.ones(len(train)))
    np.testing.assert_array_equal(
        found.models[0].predict(learner.features), plain.predict(learner.features)
    )
    assert np.abs(found.violations[0]).max() == np.abs(found.violations).max()
    assert found.errors[0] == found.errors.min()


def test_by_hand_and_fairlearn_reach_the_same_point_on_adult(adult):
    """Accuracy .833, DP .015, from .8515 and .1675; the gap in equalized odds grows to .26."""
    train, test = adult
    ours = reductions.METHODS["lagrangian_dp"](train, test, seed=0).outcome(test, n_boot=1)
    theirs = reductions.METHODS["exponentiated_gradient_dp"](train, test, seed=0)
    theirs = theirs.outcome(test, n_boot=1)
    assert ours.accuracy == pytest.approx(theirs.accuracy, abs=0.003)
    assert ours.dp_diff == pytest.approx(theirs.dp_diff, abs=0.01)
    assert (theirs.accuracy, theirs.dp_diff) == pytest.approx((0.8332, 0.0140), abs=0.01)
    assert min(ours.eo_diff, theirs.eo_diff) > 3 * 0.0722


@pytest.fixture(scope="module")
def randomised(small):
    learner = reductions.linear(*small, 0)
    model = reductions.fit_exponentiated_gradient(small[0], learner, constraint="eo")
    return model, learner


def test_the_probability_is_that_of_the_decision(randomised, small):
    """The share of yes over many coins is ``_pmf_predict``; there is no ``predict_proba``."""
    model, learner = randomised
    chance = reductions.decision_probability(model, learner.test_features)
    coins = np.mean(
        [model.predict(learner.test_features, random_state=seed) for seed in range(400)], axis=0
    )
    assert not hasattr(model, "predict_proba")
    assert np.abs(coins - chance).max() < 5 * 0.5 / np.sqrt(400)
    assert ((chance > 0.02) & (chance < 0.98)).any()


def test_a_threshold_on_that_probability_is_another_rule(randomised, small):
    """At one half the mixture becomes its majority, and the promise was made for the mixture."""
    model, learner = randomised
    test = small[1]
    chance = reductions.decision_probability(model, learner.test_features)
    rule = outcome(test.labels, chance, test.groups, n_boot=1)
    cut = outcome(test.labels, (chance >= 0.5) * 1.0, test.groups, n_boot=1)
    assert rule.flips > 0 == cut.flips
    assert abs(rule.eo_diff - cut.eo_diff) > 0.005 or abs(rule.dp_diff - cut.dp_diff) > 0.005


def test_grid_search_and_trees_run_under_their_names(small):
    train, test = (subsample(task, 500) for task in small)
    for name in ("grid_search_dp", "lagrangian_dp_boosting"):
        done = reductions.METHODS[name](train, test, seed=0)
        assert (done.name, done.family, done.needs_group) == (name, "in", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraint": "odds"}, "dp"),
        ({"constraint": "dp", "bound": 0.0}, "bound"),
        ({"constraint": "dp", "iterations": 0}, "iterations"),
    ],
)
def test_bad_options_name_the_limit(small, options, message):
    learner = reductions.linear(*small, 0)
    with pytest.raises(InputError, match=message):
        reductions.lagrangian_reweighting(small[0], learner, **options)
