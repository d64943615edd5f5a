"""Fairness as a constraint: ordinary learners, called again and again with other costs.

A constraint on rates is linear in the decisions, and so is the error. With a multiplier for each
constraint the Lagrangian is therefore a weighted error, which any learner that takes
``sample_weight`` can reduce: *relabel* the rows whose sign has changed, weight each by what a
wrong decision about it costs, fit. What is left is to find the multipliers, and to mix the
models found on the way. The mixture is a randomised predictor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import scipy.sparse
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient, GridSearch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from common.errors import RunError, require
from labs.lab3_fairness.mitigation import (
    Method,
    Mitigated,
    binary_labels,
    check_task,
    design_matrices,
    prepared,
    timed,
)
from labs.lab3_fairness.scoring import boosting
from labs.lab3_fairness.tabular import Task

Constraint = Literal["dp", "eo"]
CONSTRAINTS = {"dp": DemographicParity, "eo": EqualizedOdds}


@dataclass(frozen=True)
class Learner:
    """An unfitted pipeline, and the two matrices it is fitted to and decides about."""

    estimator: Any
    features: Any
    test_features: Any

    @property
    def weight_name(self) -> str:
        """The argument of ``fit`` that hands weights to the last step."""
        return f"{self.estimator.steps[-1][0]}__sample_weight"

    def fit(self, labels: ArrayLike, weights: ArrayLike) -> Any:
        """A new model for these labels and costs; the same answer for everybody if need be."""
        return clone(self.estimator).fit(self.features, labels, **{self.weight_name: weights})


MakeLearner = Callable[[Task, Task, int], Learner]


def linear(train: Task, test: Task, seed: int) -> Learner:
    """Logistic regression. The columns are coded once, and sparse for the solver only:
    fairlearn takes dense matrices."""
    model = LogisticRegression(max_iter=1000, random_state=seed)
    sparse = FunctionTransformer(scipy.sparse.csr_matrix)
    return Learner(make_pipeline(sparse, model), *design_matrices(train, test))


def trees(train: Task, test: Task, seed: int) -> Learner:
    """Gradient boosting on the features as they are."""
    return Learner(boosting(seed), train.features, test.features)


def rate_moments(
    labels: NDArray[np.int64], codes: NDArray[np.intp], n_groups: int, constraint: Constraint
) -> NDArray[np.float64]:
    """The matrix M for which ``M @ decisions`` is each group's rate minus everybody's.

    Parameters
    ----------
    constraint
        ``dp``: one rate, P(Ŷ=1). ``eo``: two, among the rows with label 0 and with label 1.

    Returns
    -------
    float64 array of shape [rates * groups, n]
        A row is 1 / n(rate, group) on the rows of the group that the rate counts, minus
        1 / n(rate) on all rows that it counts.

    References
    ----------
    Agarwal et al., ICML 2018, examples 1 and 2.
    """
    counted = (
        [np.ones(len(labels), dtype=bool)] if constraint == "dp" else [labels == 0, labels == 1]
    )
    rows = []
    for event in counted:
        for code in range(n_groups):
            inside = event & (codes == code)
            rows.append(inside / inside.sum() - event / event.sum())
    return np.array(rows)


def costs(
    labels: NDArray[np.int64], moments: NDArray[np.float64], multipliers: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a positive decision about each row gains, in errors.

    ``c_i = (2 y_i - 1) - n (lambda_plus - lambda_minus) @ M[:, i]``, so that the Lagrangian is a
    constant minus the mean of ``c_i`` over the rows with a positive decision. The best response
    gives those with ``c_i > 0`` the positive decision: a classifier for the labels ``c_i > 0``
    with weights ``|c_i|``.

    Parameters
    ----------
    labels : array of shape [n]
    moments : array of shape [k, n]
    multipliers : array of shape [2, k]
        Of "the group's rate is too high", and of "too low"; none negative.

    References
    ----------
    Agarwal et al., ICML 2018, section 3.2.
    """
    return np.asarray(2 * labels - 1 - len(labels) * (multipliers[0] - multipliers[1]) @ moments)


@dataclass(frozen=True)
class Reduction:
    """The models of the loop, and the chance with which each of them decides.

    Attributes
    ----------
    models : list of T fitted models
    weights : float64 array of shape [T]
        Sum 1; at most one more than there are constraints are positive.
    multipliers : float64 array of shape [T, 2, k]
        Each model is the best response to its multipliers.
    errors : float64 array of shape [T]
        On the training rows.
    violations : float64 array of shape [T, k]
        Each group's rate minus everybody's, on the training rows.
    """

    models: list[Any]
    weights: NDArray[np.float64]
    multipliers: NDArray[np.float64]
    errors: NDArray[np.float64]
    violations: NDArray[np.float64]

    def positive(self, features: Any) -> NDArray[np.float64]:
        """P(Ŷ=1) of each row, [n]: the weights of the models that say yes."""
        used = [(w, m) for w, m in zip(self.weights, self.models) if w > 0]
        return np.clip(sum(weight * model.predict(features) for weight, model in used), 0, 1)


def lagrangian_reweighting(
    train: Task,
    learner: Learner,
    *,
    constraint: Constraint,
    bound: float = 0.01,
    iterations: int = 20,
    largest: float = 20.0,
    rate: float = 2.0,
) -> Reduction:
    """Exponentiated gradient by hand: raise the price of what is violated, fit, repeat.

    Two players: the learner answers the multipliers with the model of the least weighted error;
    the multipliers answer the model, ``theta += rate / largest * (violation - bound)`` and
    ``lambda = largest * exp(theta) / (1 + sum exp(theta))``, so that their sum stays below
    ``largest``. The models form a mixture; :func:`best_mixture` finds its weights.

    Parameters
    ----------
    train
        The rows of ``learner.features``.
    constraint
        ``dp`` or ``eo``.
    bound
        How far the rate of a group may lie from everybody's. Two groups, one above and one
        below, may lie up to twice that apart.
    iterations
        Models fitted, T.
    largest
        B of the paper: no violation is worth more than this many errors.
    rate
        Step of theta, in units of ``1 / largest``.

    References
    ----------
    Agarwal, Beygelzimer, Dudík, Langford, Wallach: A Reductions Approach to Fair
    Classification, ICML 2018, algorithm 1. ``fairlearn.reductions.ExponentiatedGradient`` adds
    a stopping rule by the duality gap, and the same linear program.
    """
    require(constraint in CONSTRAINTS, "constraint", constraint, "must be 'dp' or 'eo'")
    require(0 < bound < 1, "bound", bound, "must be between 0 and 1", "try 0.01")
    require(iterations >= 1, "iterations", iterations, "must be >= 1", "try 20")
    codes, groups = check_task(train)
    labels = binary_labels(train.labels)
    moments = rate_moments(labels, codes, len(groups), constraint)
    theta = np.zeros((2, len(moments)))
    models, multipliers, errors, violations = [], [], [], []
    for _ in range(iterations):
        prices = largest * np.exp(theta) / (1 + np.exp(theta).sum())
        gains = costs(labels, moments, prices)
        model = learner.fit((gains > 0).astype(np.int64), np.abs(gains) / np.abs(gains).mean())
        decisions = model.predict(learner.features)
        violation = moments @ decisions
        theta = theta + rate / largest * (np.stack([violation, -violation]) - bound)
        models.append(model)
        multipliers.append(prices)
        errors.append(np.mean(decisions != labels))
        violations.append(violation)
    weights = best_mixture(np.array(errors), np.array(violations), bound, largest)
    return Reduction(models, weights, np.array(multipliers), np.array(errors), np.array(violations))


def best_mixture(
    errors: NDArray[np.float64], violations: NDArray[np.float64], bound: float, largest: float
) -> NDArray[np.float64]:
    """The mixture of models with the least error whose expected violations keep the bound.

    A linear program: minimise ``errors @ q + largest * slack`` with ``|q @ violations| <= bound
    + slack`` and q a distribution. The slack is what no mixture can avoid.

    Returns
    -------
    float64 array of shape [T]
        A vertex: at most one more positive weight than constraints that are tight.
    """
    both = np.concatenate([violations, -violations], axis=1).T
    program = linprog(
        np.append(errors, largest),
        A_ub=np.hstack([both, -np.ones((len(both), 1))]),
        b_ub=np.full(len(both), bound),
        A_eq=np.append(np.ones(len(errors)), 0.0)[None],
        b_eq=[1.0],
        method="highs-ds",
    )
    if program.x is None:
        raise RunError(f"no mixture of {len(errors)} models was found: {program.message}")
    weights = np.clip(program.x[:-1], 0, None)
    return np.asarray(weights / weights.sum())


def by_hand(
    train: Task,
    test: Task,
    *,
    seed: int,
    constraint: Constraint,
    name: str,
    make: MakeLearner = linear,
    bound: float = 0.01,
    iterations: int = 20,
) -> Mitigated:
    """The mixture that :func:`lagrangian_reweighting` finds."""
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        learner = make(train, test, seed)
        found = lagrangian_reweighting(
            train, learner, constraint=constraint, bound=bound, iterations=iterations
        )
        return found.positive(learner.test_features)

    return timed(name, "in", decide, randomised=True)


def exponentiated_gradient(
    train: Task,
    test: Task,
    *,
    seed: int,
    constraint: Constraint,
    name: str,
    make: MakeLearner = linear,
    bound: float = 0.01,
    iterations: int = 20,
) -> Mitigated:
    """fairlearn's ``ExponentiatedGradient``, and the chance with which it decides.

    ``predict`` tosses a coin for each row and ``predict_proba`` does not exist: the chance of a
    positive decision is ``_pmf_predict``. It says how often the rule says yes about such a
    person, not how likely the person is to earn more than 50K.
    """
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        learner = make(train, test, seed)
        model = fit_exponentiated_gradient(
            train, learner, constraint=constraint, bound=bound, iterations=iterations
        )
        return decision_probability(model, learner.test_features)

    return timed(name, "in", decide, randomised=True)


def fit_exponentiated_gradient(
    train: Task,
    learner: Learner,
    *,
    constraint: Constraint,
    bound: float = 0.01,
    iterations: int = 20,
) -> Any:
    """A fitted ``fairlearn.reductions.ExponentiatedGradient``; ``eps`` bounds the multipliers,
    ``difference_bound`` the violation."""
    require(constraint in CONSTRAINTS, "constraint", constraint, "must be 'dp' or 'eo'")
    model = ExponentiatedGradient(
        learner.estimator,
        CONSTRAINTS[constraint](difference_bound=bound),
        eps=bound,
        max_iter=iterations,
        sample_weight_name=learner.weight_name,
    )
    return model.fit(learner.features, train.labels, sensitive_features=train.groups)


def decision_probability(model: Any, features: Any) -> NDArray[np.float64]:
    """P(Ŷ=1) of a fitted ``ExponentiatedGradient``, [n]; its weights add up to 1 plus rounding."""
    return np.clip(np.asarray(model._pmf_predict(features))[:, 1], 0, 1)


def grid_search(
    train: Task,
    test: Task,
    *,
    seed: int,
    constraint: Constraint,
    name: str,
    make: MakeLearner = linear,
    size: int = 15,
) -> Mitigated:
    """fairlearn's ``GridSearch``: one deterministic model, the best on a grid of multipliers.

    "Best" is the least sum of error and largest violation, in equal parts. The grid has one
    dimension for each independent constraint: 1 for demographic parity between two groups, 2 for
    equalized odds, and too many with more groups.
    """
    require(constraint in CONSTRAINTS, "constraint", constraint, "must be 'dp' or 'eo'")
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        learner = make(train, test, seed)
        model = GridSearch(
            learner.estimator,
            CONSTRAINTS[constraint](),
            grid_size=size,
            sample_weight_name=learner.weight_name,
        )
        model.fit(learner.features, train.labels, sensitive_features=train.groups)
        return model.predict(learner.test_features)

    return timed(name, "in", decide)


METHODS: dict[str, Method] = {
    name: partial(method, name=name, **options)
    for name, method, options in (
        ("lagrangian_dp", by_hand, {"constraint": "dp", "iterations": 10}),
        ("lagrangian_eo", by_hand, {"constraint": "eo"}),
        (
            "lagrangian_dp_boosting",
            by_hand,
            {"constraint": "dp", "make": trees, "iterations": 8},
        ),
        ("exponentiated_gradient_dp", exponentiated_gradient, {"constraint": "dp"}),
        ("exponentiated_gradient_eo", exponentiated_gradient, {"constraint": "eo"}),
        ("grid_search_dp", grid_search, {"constraint": "dp"}),
    )
}
