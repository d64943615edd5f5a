"""The explainers side by side on COMPAS: enumeration, closed form, shap, sampling, LIME, captum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import shap
from numpy.typing import NDArray

from common.errors import require
from labs.lab3_fairness.attribution import Attribution, ColumnCodes, Matrix, Predict
from labs.lab3_fairness.explanation_checks import (
    Explain,
    ExplanationCheck,
    check_explainers,
    seed_spread,
)
from labs.lab3_fairness.lime import captum_lime, lime, masked, samples_needed, settings_table
from labs.lab3_fairness.scoring import boosting, logistic_regression
from labs.lab3_fairness.shapley import exact_shapley, logistic_shapley, permutation_shapley
from labs.lab3_fairness.tabular import Task

SPREAD_BOUND = 0.01  # one point of probability


@dataclass(frozen=True)
class Comparison:
    """What each explainer says of the same rows.

    ``closed_form_error`` is the largest difference of enumeration and the closed form on logistic
    regression (log-odds), ``shap_error`` that of enumeration and ``shap.KernelExplainer`` on
    boosting (probability). ``lime_seeds`` are LIME's coefficients [seeds, d] of the first row and
    ``exact.values[0]`` what they estimate; ``lime_samples`` the neighbours a row until no
    coefficient's spread exceeds a point of probability.
    """

    exact: Attribution
    closed_form_error: float
    shap_error: float
    checks: tuple[ExplanationCheck, ...]
    lime_seeds: NDArray[np.float64]
    settings: pd.DataFrame
    lime_samples: int

    def check(self, method: str) -> ExplanationCheck:
        """The tests of one explainer."""
        return next(check for check in self.checks if check.method == method)


def library_shapley(f: Predict, rows: Matrix, background: Matrix) -> Matrix:
    """``shap.KernelExplainer`` with every coalition and without its lasso, [n, d].

    It is exact then. By default it draws coalitions and keeps ten columns (``l1_reg``).
    """
    explainer = shap.KernelExplainer(f, background)
    every = 2 ** rows.shape[1]
    return np.asarray(explainer.shap_values(rows, nsamples=every, l1_reg=False, silent=True))


def compare_explainers(
    task: Task,
    *,
    n_rows: int = 6,
    n_background: int = 50,
    n_seeds: int = 6,
    seed: int = 0,
) -> Comparison:
    """Explain the same rows with everything this lab has, and test each explanation.

    Parameters
    ----------
    task
        Of 2 to 14 columns, such as :func:`labs.lab3_fairness.tabular.compas_task`.
    n_rows
        Rows explained, not trained on.
    n_background
        Background rows, from the training half.
    n_seeds
        Runs of each explainer.
    seed
        Of the split and the models.
    """
    half = len(task) // 2
    require(2 <= n_rows <= half, "n_rows", n_rows, f"must be from 2 to {half}")
    order = np.random.default_rng(seed).permutation(len(task))
    train, test = task.rows(order[:half]), task.rows(order[half : half + n_rows])
    codes = ColumnCodes.of(task.features)
    rows, background = codes.encode(test.features), codes.encode(train.features)[:n_background]

    logistic = logistic_regression(seed).fit(train.features, train.labels)
    closed = logistic_shapley(logistic, test.features, codes.decode(background)).values
    enumerated = exact_shapley(codes.log_odds(logistic), rows, background)

    f = codes.probability(boosting(seed).fit(train.features, train.labels))
    values = exact_shapley(f, rows, background)
    exact = Attribution(codes.columns, values, float(f(background).mean()), f(rows), "enumeration")
    reference = _middle_row(background)
    explainers: dict[str, Explain] = {
        "permutation, 5 pairs": partial(_permutation, f, rows, background),
        "LIME, 500": partial(_lime, f, rows, background, 500),
        "LIME, 5000": partial(_lime, f, rows, background, 5000),
        "captum LIME, 500, one baseline": partial(_captum, f, rows, reference),
    }
    first = seed_spread(partial(_lime, f, rows[:1], background, 500), range(20))
    return Comparison(
        exact=exact,
        closed_form_error=float(np.abs(closed - enumerated).max()),
        shap_error=float(np.abs(library_shapley(f, rows, background) - values).max()),
        checks=check_explainers(explainers, exact, n_seeds=n_seeds),
        lime_seeds=first.values[:, 0],
        settings=settings_table(f, rows, masked(background), n_seeds=n_seeds),
        lime_samples=samples_needed(
            partial(_lime, f, rows[:2], background), bound=SPREAD_BOUND, n_seeds=n_seeds
        ),
    )


def _permutation(f: Predict, rows: Matrix, background: Matrix, seed: int) -> Matrix:
    return permutation_shapley(f, rows, background, n_permutations=5, seed=seed).values


def _lime(f: Predict, rows: Matrix, background: Matrix, n_samples: int, seed: int) -> Matrix:
    return lime(f, rows, masked(background), n_samples=n_samples, seed=seed)


def _captum(f: Predict, rows: Matrix, reference: Any, seed: int) -> Matrix:
    return captum_lime(f, rows, reference, n_samples=500, seed=seed)


def _middle_row(background: Matrix) -> NDArray[np.float64]:
    """The lower median of each column: a value that occurs, so that a code stays a code."""
    return np.sort(background, axis=0)[(len(background) - 1) // 2]
