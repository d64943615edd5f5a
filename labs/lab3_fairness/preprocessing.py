"""Mitigation before training: rows weighted, or columns freed of correlation with the group.

Both leave the learner as it is. Reweighing changes how often each combination of group and label
counts; the correlation remover changes what the columns say about the group. Neither sees what
the learner makes of it, so neither promises anything about the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.mitigation import (
    Method,
    Mitigated,
    binary_labels,
    check_task,
    design_matrices,
    prepared,
    timed,
)
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.scoring import Fit, boosting, logistic_regression
from labs.lab3_fairness.tabular import Task


@exercise(
    "3.10",
    points=5,
    title="Reweighing",
    hint="In a world where label and group were independent, which share of the rows would have "
    "this label and this group? Compare it with the share they have.",
)
def reweighing_weights(labels: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Weights under which label and group are independent, and nothing else moves.

    ``w(a, y) = P(A=a) P(Y=y) / P(A=a, Y=y)``: the share that a cell would have under
    independence over the share it has. The weighted share of each group and of each label stays
    what it was. ``cell_counts`` checks the arguments and counts the cells.

    Parameters
    ----------
    labels : array of shape [n]
        0 or 1.
    groups : array of shape [n]
        At least two groups.

    Returns
    -------
    float64 array of shape [n]
        Positive, with sum n.

    Raises
    ------
    InputError
        For a group without rows of one label: no weight makes up for rows that are not there.

    References
    ----------
    Kamiran and Calders: Data preprocessing techniques for classification without
    discrimination, Knowledge and Information Systems 2012, section 4.3.
    """
    truth, codes, counts = cell_counts(labels, groups)
    n = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    weights: NDArray[np.float64] = (expected / counts)[codes, truth]
    return weights


def cell_counts(
    labels: ArrayLike, groups: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.int64]]:
    """Count the rows of each group and label.

    Returns
    -------
    labels : int64 array of shape [n]
    codes : int array of shape [n]
        The group of each row, 0 to g - 1, in sorted order of the groups.
    counts : int64 array of shape [g, 2]
        All at least 1.

    Raises
    ------
    InputError
        For labels other than 0 and 1, lengths that differ, a missing group or only one, or a
        group without rows of one label.
    """
    truth = binary_labels(labels)
    codes, names = group_codes(groups, len(truth))
    counts = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(counts, (codes, truth), 1)
    if not counts.all():
        code, label = np.argwhere(counts == 0)[0]
        raise InputError(
            f"group {names[code]!r} has no row with label {label}; merge it with another group, "
            "or leave it out and say so"
        )
    return truth, codes, counts


def reweighing(
    train: Task,
    test: Task,
    *,
    seed: int,
    name: str = "reweighing_logistic",
    make: Fit = logistic_regression,
) -> Mitigated:
    """A model trained on rows weighted by :func:`reweighing_weights`.

    Parameters
    ----------
    make
        ``make(seed)`` returns an unfitted pipeline whose last step takes ``sample_weight``.
    """
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        model = make(seed)
        weights = {
            f"{model.steps[-1][0]}__sample_weight": reweighing_weights(train.labels, train.groups)
        }
        return model.fit(train.features, train.labels, **weights).predict(test.features)

    return timed(name, "pre", decide)


@dataclass(frozen=True)
class CorrelationRemoval:
    """Columns without linear correlation with the group.

    ``shift[a]`` is the mean of the columns in group a minus the mean over all rows: exactly what
    least squares on the centred indicators of the groups predicts. What is left of a column is
    its residual, ``x - alpha * shift[a]``; to compute it the group of each row must be known,
    when deciding as well.
    """

    groups: tuple[object, ...]
    shift: NDArray[np.float64]
    alpha: float = 1.0

    def transform(self, columns: NDArray[np.float64], groups: ArrayLike) -> NDArray[np.float64]:
        """Residuals, float64 of shape [n, p].

        InputError for a missing group, or one that training did not have.
        """
        number = {group: code for code, group in enumerate(self.groups)}
        values = list(np.asarray(groups, dtype=object))
        if len(values) != len(columns):
            raise InputError(f"columns has {len(columns)} rows, groups has {len(values)}; align")
        missing = np.flatnonzero(pd.isna(np.asarray(groups, dtype=object)))
        if missing.size:
            raise InputError(
                f"groups[{missing[0]}] is missing, in {missing.size} of {len(values)} rows; there "
                "is no residual without it: give them a group of their own in training as well"
            )
        unknown = [group for group in values if group not in number]
        require(not unknown, "group", unknown[:1], f"must be one of {list(self.groups)}")
        codes = np.array([number[group] for group in values], dtype=np.intp)
        return np.asarray(columns - self.alpha * self.shift[codes])


def fit_correlation_removal(
    columns: NDArray[np.float64], groups: ArrayLike, *, alpha: float = 1.0
) -> CorrelationRemoval:
    """Fit the part of each column that the group explains linearly.

    Parameters
    ----------
    columns : float array of shape [n, p]
    groups : array of shape [n]
    alpha
        Share that is removed: 0 leaves the columns as they are, 1 removes all correlation.

    References
    ----------
    ``fairlearn.preprocessing.CorrelationRemover``, whose result this equals.
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must be from 0 to 1", "try 1.0")
    codes, names = group_codes(groups, len(columns))
    means = np.stack([columns[codes == code].mean(axis=0) for code in range(len(names))])
    return CorrelationRemoval(names, means - columns.mean(axis=0), alpha)


def correlation_remover(
    train: Task, test: Task, *, seed: int, alpha: float = 1.0, name: str = "correlation_remover"
) -> Mitigated:
    """Logistic regression on columns without correlation; a decision needs the group."""
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        x, x_test, _ = _decorrelated(train, test, alpha)
        model = LogisticRegression(max_iter=1000, random_state=seed).fit(x, train.labels)
        return model.predict(x_test)

    return timed(name, "pre", decide, needs_group=True)


def correlation_remover_boosting(
    train: Task, test: Task, *, seed: int, alpha: float = 1.0
) -> Mitigated:
    """Boosting on columns without correlation: what it is not for, see :func:`group_leak`."""
    train, test = prepared(train, test)

    def decide() -> ArrayLike:
        x, x_test, _ = _decorrelated(train, test, alpha)
        model = HistGradientBoostingClassifier(
            max_iter=30, learning_rate=0.3, random_state=seed, early_stopping=False
        )
        return model.fit(x, train.labels).predict(x_test)

    return timed("correlation_remover_boosting", "pre", decide, needs_group=True)


@dataclass(frozen=True)
class GroupLeak:
    """How well a model guesses the group of test rows: AUC, 0.5 is chance.

    Two kinds of model, on the columns as they are and after the correlation was removed.
    """

    linear_before: float
    linear_after: float
    trees_before: float
    trees_after: float


def group_leak(train: Task, test: Task, *, seed: int = 0, trees: int = 5) -> GroupLeak:
    """Guess the group from the columns, before and after their correlation with it is removed.

    The residual of a 0-1 column takes two values in one group and two others in another. No
    line can use that; a tree reads the group off a single column.

    Parameters
    ----------
    trees
        Boosting iterations.
    """
    codes, names = check_task(train)
    require(len(names) == 2, "groups", len(names), "must be two for an AUC")
    x, x_test, removal = _decorrelated(train, test, 1.0)
    truth = np.asarray(test.groups == removal.groups[1])
    models = (
        LogisticRegression(max_iter=1000, random_state=seed),
        HistGradientBoostingClassifier(max_iter=trees, random_state=seed, early_stopping=False),
    )
    before = design_matrices(train, test)
    linear, forest = (
        [
            float(roc_auc_score(truth, model.fit(a, codes).predict_proba(b)[:, 1]))
            for a, b in (before, (x, x_test))
        ]
        for model in models
    )
    return GroupLeak(*linear, *forest)


def _decorrelated(
    train: Task, test: Task, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], CorrelationRemoval]:
    x, x_test = design_matrices(train, test)
    removal = fit_correlation_removal(x, train.groups, alpha=alpha)
    return removal.transform(x, train.groups), removal.transform(x_test, test.groups), removal


METHODS: dict[str, Method] = {
    "reweighing_logistic": reweighing,
    "reweighing_boosting": partial(reweighing, name="reweighing_boosting", make=boosting),
    "correlation_remover": correlation_remover,
    "correlation_remover_boosting": correlation_remover_boosting,
}
