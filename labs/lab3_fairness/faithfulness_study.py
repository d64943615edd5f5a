"""Which explanation of an income model is faithful? Several methods, the same rows, one judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError, require
from common.statistics import bootstrap_ci
from labs.lab3_fairness.attribution import ColumnCodes, Matrix, Predict, Vector
from labs.lab3_fairness.faithfulness import (
    Curves,
    RandomOrders,
    best_orders,
    curves,
    infidelity,
    largest_first,
    random_orders,
    random_sets,
)
from labs.lab3_fairness.lime import lime, masked
from labs.lab3_fairness.scoring import boosting, logistic_regression
from labs.lab3_fairness.shapley import logistic_shapley, permutation_shapley, source_columns
from labs.lab3_fairness.tabular import Task

Interval = tuple[float, float]
RANK_ONLY = frozenset({"coefficients", "one ranking for all"})


@dataclass(frozen=True)
class FaithfulnessScore:
    """One method's means over rows, with 95 % bootstrap intervals over rows.

    ``deletion`` (more is better) and ``insertion`` (less is better) are areas in log-odds;
    ``infidelity`` is in squared log-odds, NaN for a method that only ranks. ``deletion_constant``
    is the deletion area when one constant row replaces the background. ``rows`` are the deletion
    areas behind the mean, [n].
    """

    method: str
    deletion: float
    deletion_ci95: Interval
    insertion: float
    insertion_ci95: Interval
    infidelity: float
    infidelity_ci95: Interval
    deletion_constant: float
    rows: Vector
    curves: Curves


@dataclass(frozen=True)
class FaithfulnessStudy:
    """Scores of all methods for one model, the null, and the best any order could do.

    ``best_deletion``, ``best_insertion`` and ``shapley_on_best`` (its deletion and insertion area)
    are means over the first rows only, those that were enumerated.
    """

    model: str
    scores: tuple[FaithfulnessScore, ...]
    null: RandomOrders
    best_deletion: float
    best_insertion: float
    shapley_on_best: tuple[float, float]
    n: int

    def score(self, method: str) -> FaithfulnessScore:
        """The scores of one method."""
        found = [score for score in self.scores if score.method == method]
        if not found:
            known = [score.method for score in self.scores]
            raise InputError(f"method {method!r} must be one of {known}")
        return found[0]

    def difference(self, first: str, second: str) -> tuple[float, Interval]:
        """Mean paired difference of deletion areas with its interval; rows are the same."""
        paired = self.score(first).rows - self.score(second).rows
        return float(paired.mean()), bootstrap_ci(paired)

    def table(self) -> pd.DataFrame:
        """One row a method."""
        hidden = ("rows", "curves")
        kept = [{k: v for k, v in vars(s).items() if k not in hidden} for s in self.scores]
        return pd.DataFrame(kept)


def score_methods(
    f: Predict,
    rows: Matrix,
    background: Matrix,
    methods: Mapping[str, Matrix],
    *,
    constant: Vector,
    rank_only: frozenset[str] = frozenset(),
    n_sets: int = 64,
    seed: int = 0,
) -> tuple[FaithfulnessScore, ...]:
    """Deletion, insertion and infidelity of several attributions of the same rows.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows, background : arrays of shape [n, d] and [m, d]
    methods
        Name to attributions [n, d].
    constant : array of shape [d]
        A row to replace with in ``deletion_constant``.
    rank_only
        Methods whose numbers are no shares of the output, so that infidelity is not asked of them.
    n_sets
        Random sets of columns for infidelity, the same for all methods.
    seed
        Of the sets, and of ties.
    """
    require(len(methods) >= 1, "methods", len(methods), "must be >= 1")
    replaced = random_sets(n_sets, (rows.shape[0], rows.shape[1]), seed)
    scores = []
    for name, values in methods.items():
        order = largest_first(values, seed)
        found = curves(f, rows, background, order)
        deleted, inserted = found.deletion_area, found.insertion_area
        broken, broken_ci = float("nan"), (float("nan"), float("nan"))
        if name not in rank_only:
            each = infidelity(f, rows, values, replaced, background)
            broken, broken_ci = float(each.mean()), bootstrap_ci(each)
        elsewhere = curves(f, rows, constant[None], order).deletion_area
        scores.append(
            FaithfulnessScore(
                method=name,
                deletion=float(deleted.mean()),
                deletion_ci95=bootstrap_ci(deleted),
                insertion=float(inserted.mean()),
                insertion_ci95=bootstrap_ci(inserted),
                infidelity=broken,
                infidelity_ci95=broken_ci,
                deletion_constant=float(elsewhere.mean()),
                rows=deleted,
                curves=found,
            )
        )
    return tuple(scores)


def study_faithfulness(
    train: Task,
    test: Task,
    *,
    n_rows: int = 80,
    n_background: int = 20,
    n_best: int = 5,
    n_orders: int = 20,
    n_sets: int = 32,
    seed: int = 0,
) -> tuple[FaithfulnessStudy, FaithfulnessStudy]:
    """Score the explanations of logistic regression and of boosting on the same test rows.

    Parameters
    ----------
    train, test
        Of Adult; at most 14 columns.
    n_rows, n_background
        Test rows explained, training rows that replace cells.
    n_best
        Rows whose best order is enumerated.
    n_orders, n_sets
        Random orders of the null; random sets of columns a row for infidelity.
    seed
        Of the rows, the models and everything random.

    Returns
    -------
    FaithfulnessStudy for logistic regression, then for boosting
    """
    require(20 <= n_rows <= len(test), "n_rows", n_rows, f"must be 20 to {len(test)}", "try 80")
    require(1 <= n_best <= n_rows, "n_best", n_best, f"must be from 1 to n_rows = {n_rows}")
    rng = np.random.default_rng(seed)
    codes = ColumnCodes.of(train.features, test.features)
    shown = test.features.iloc[rng.choice(len(test), n_rows, replace=False)]
    lent = train.features.iloc[rng.choice(len(train), n_background, replace=False)]
    rows, background = codes.encode(shown), codes.encode(lent)
    constant = typical_row(train.features, codes)

    linear = logistic_regression(seed).fit(train.features, train.labels)
    trees = boosting(seed).fit(train.features, train.labels)
    f, g = codes.log_odds(linear), codes.log_odds(trees)
    exact = logistic_shapley(linear, shown, lent).values
    sampled = permutation_shapley(g, rows, background, n_permutations=5, seed=seed).values
    steps = codes.decode(constant[None])
    common = {"n_best": n_best, "n_orders": n_orders, "n_sets": n_sets, "seed": seed}

    gradient, slopes = gradient_times_input(linear, shown)
    for_linear = {
        "Shapley": exact,
        "LIME": lime(f, rows, masked(background), seed=seed),
        "gradient x input": gradient,
        "Shapley, constant row": logistic_shapley(linear, shown, steps).values,
        "Shapley of boosting": sampled,
        "coefficients": slopes,
        "one ranking for all": _ranking_of_the_others(exact),
        "shuffled": rng.permuted(exact, axis=1),
    }
    for_trees = {
        "Shapley": sampled,
        "LIME": lime(g, rows, masked(background), seed=seed),
        "Shapley, constant row": permutation_shapley(
            g, rows, constant[None], n_permutations=5, seed=seed
        ).values,
        "Shapley of logistic": exact,
        "coefficients": slopes,
        "one ranking for all": _ranking_of_the_others(sampled),
        "shuffled": rng.permuted(sampled, axis=1),
    }
    return (
        _study("logistic regression", f, rows, background, for_linear, constant, **common),
        _study("boosting", g, rows, background, for_trees, constant, **common),
    )


def _study(
    model: str,
    f: Predict,
    rows: Matrix,
    background: Matrix,
    methods: Mapping[str, Matrix],
    constant: Vector,
    *,
    n_best: int,
    n_orders: int,
    n_sets: int,
    seed: int,
) -> FaithfulnessStudy:
    best = best_orders(f, rows[:n_best], background)
    scores = score_methods(
        f,
        rows,
        background,
        methods,
        constant=constant,
        rank_only=RANK_ONLY,
        n_sets=n_sets,
        seed=seed,
    )
    first = scores[0].curves
    return FaithfulnessStudy(
        model=model,
        scores=scores,
        null=random_orders(f, rows, background, n_orders=n_orders, seed=seed),
        best_deletion=float(best.deletion.mean()),
        best_insertion=float(best.insertion.mean()),
        shapley_on_best=(
            float(first.deletion_area[:n_best].mean()),
            float(first.insertion_area[:n_best].mean()),
        ),
        n=len(rows),
    )


def typical_row(features: pd.DataFrame, codes: ColumnCodes) -> Vector:
    """The median of each number and the most frequent of each text, coded, [d]."""
    row = {
        name: features[name].mode()[0] if name in codes.categories else features[name].median()
        for name in codes.columns
    }
    return np.asarray(codes.encode(pd.DataFrame([row]))[0])


def gradient_times_input(model: Any, features: pd.DataFrame) -> tuple[Matrix, Matrix]:
    """Gradient times input, and gradients alone, of a fitted ``scoring.logistic_regression``.

    On one-hot categories and standardised numbers, summed over a category's columns for the
    first; the largest |coefficient| of a column for the second, the same for every row.

    Returns
    -------
    two float64 arrays of shape [n, d]
    """
    transformer, weights = model[0], model[-1].coef_[0]
    x = transformer.transform(features)
    inputs = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    product, slope = np.zeros(features.shape), np.zeros(features.shape)
    for place, name in enumerate(source_columns(transformer)):
        column = features.columns.get_loc(name)
        product[:, column] += weights[place] * inputs[:, place]
        slope[:, column] = np.maximum(slope[:, column], abs(weights[place]))
    return product, slope


def _ranking_of_the_others(values: Matrix) -> Matrix:
    """Mean |credit| of each column over all rows but this one, [n, d]: knows nothing of the row."""
    size = np.abs(values)
    return np.asarray((size.sum(axis=0) - size) / (len(size) - 1))
