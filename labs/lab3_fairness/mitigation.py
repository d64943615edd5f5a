"""What every method of mitigation hands over, so that all of them stand on one frontier.

A method sees the training rows with their groups, and answers for each test row with the
probability of the positive decision. How it got there (other data, another training, another
rule on the scores) is its family; what it costs in accuracy and in *both* gaps is
:func:`labs.lab3_fairness.decisions.outcome` of its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.decisions import Outcome, outcome
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.scoring import Fit, boosting, logistic_regression
from labs.lab3_fairness.tabular import Task

Family = Literal["none", "pre", "in", "post"]


@dataclass(frozen=True)
class Mitigated:
    """The decisions of one method on the test rows.

    Attributes
    ----------
    name
        Unique among all methods.
    family
        ``none`` (nothing mitigated), ``pre`` (the data), ``in`` (the training) or ``post`` (the
        rule on the scores).
    positive : float64 array of shape [n_test]
        P(Ŷ=1) of each row: 0 or 1 unless the method tosses a coin about the row.
    randomised
        Whether the method may toss a coin.
    needs_group
        Whether a decision needs the person's group, and not only the training.
    seconds
        Wall time of training and deciding.
    """

    name: str
    family: Family
    positive: NDArray[np.float64]
    randomised: bool
    needs_group: bool
    seconds: float

    def __post_init__(self) -> None:
        outside = self.positive[~((self.positive >= 0) & (self.positive <= 1))]
        if outside.size:
            raise InputError(f"{self.name} decides with {outside[0]}; a probability is from 0 to 1")
        if not self.randomised and not np.isin(self.positive, (0, 1)).all():
            raise InputError(f"{self.name} is not randomised, and decides with fractions")

    def outcome(self, test: Task, *, n_boot: int = 1000, seed: int = 0) -> Outcome:
        """Accuracy, both gaps and their intervals on the rows it decided about."""
        return outcome(test.labels, self.positive, test.groups, n_boot=n_boot, seed=seed)


class Method(Protocol):
    """Train on ``train``, decide about ``test``; ``seed`` is of whatever is random in it."""

    def __call__(self, train: Task, test: Task, *, seed: int) -> Mitigated: ...


def timed(
    name: str,
    family: Family,
    decide: Callable[[], ArrayLike],
    *,
    randomised: bool = False,
    needs_group: bool = False,
) -> Mitigated:
    """Call ``decide`` for the P(Ŷ=1) of the test rows, and note how long it took."""
    started = time.perf_counter()
    positive = np.asarray(decide(), dtype=np.float64)
    return Mitigated(name, family, positive, randomised, needs_group, time.perf_counter() - started)


def unmitigated(
    train: Task, test: Task, *, seed: int, name: str = "logistic", make: Fit = logistic_regression
) -> Mitigated:
    """The positive decision where the model's score is above one half, for everybody."""
    train, test = prepared(train, test)
    return timed(
        name, "none", lambda: make(seed).fit(train.features, train.labels).predict(test.features)
    )


def methods() -> dict[str, Method]:
    """Pre-processing and in-processing by name, the unmitigated models first."""
    # Here, because the topics import this module, and a frontier does not need torch to name them.
    from labs.lab3_fairness import adversarial, fair_loss, preprocessing, reductions

    baselines: dict[str, Method] = {
        "logistic": unmitigated,
        "boosting": partial(unmitigated, name="boosting", make=boosting),
    }
    return baselines | {
        name: method
        for topic in (preprocessing, reductions, fair_loss, adversarial)
        for name, method in topic.METHODS.items()
    }


def design_matrices(train: Task, test: Task) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The columns that logistic regression sees: numbers standardised, categories one-hot.

    Returns
    -------
    float64 arrays of shape [n_train, p] and [n_test, p]
        Scaled and coded by the training rows; a category that they do not have is all 0.

    Raises
    ------
    InputError
        For test rows without a column of the training rows, or a value that is missing or
        infinite in either: the message names the column.
    """
    check_features("train", train.features)
    new = aligned_features(train, test)
    encoder = logistic_regression()[:-1]
    matrices = (encoder.fit_transform(train.features), encoder.transform(new))
    columns, test_columns = (scipy.sparse.csr_matrix(matrix).toarray() for matrix in matrices)
    return columns, test_columns


def prepared(train: Task, test: Task) -> tuple[Task, Task]:
    """Both tasks as every method takes them, or an InputError.

    Returns
    -------
    train : Task
        Checked by :func:`check_task`, with int64 labels.
    test : Task
        With the columns of ``train`` in its order, none missing; its labels are not looked at.
    """
    check_task(train)
    same = replace(train, labels=binary_labels(train.labels))
    return same, replace(test, features=aligned_features(train, test))


def aligned_features(train: Task, test: Task) -> pd.DataFrame:
    """The test rows' features in the order of training; InputError as :func:`check_features`."""
    columns = list(train.features.columns)
    absent = [name for name in columns if name not in test.features]
    if absent:
        raise InputError(f"test features: no column {absent[0]!r}; the model needs {columns}")
    check_features("test", test.features[columns])
    return test.features[columns]


def check_features(rows: str, features: pd.DataFrame) -> None:
    """InputError that names the column and the row of a missing or infinite value."""
    for name in features.columns:
        column = features[name]
        unknown = column.isna().to_numpy()
        if pd.api.types.is_float_dtype(column):
            unknown = unknown | np.isinf(column.to_numpy(dtype=float, na_value=np.nan))
        if unknown.any():
            raise InputError(
                f"{rows} features: column {name!r} must have no missing or infinite value, and "
                f"row {int(unknown.argmax())} has one ({int(unknown.sum())} rows in all); "
                "impute them first"
            )


def binary_labels(labels: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """Labels as int64 of shape [n]; InputError unless each is 0 or 1, False or True, 0. or 1."""
    values = np.asarray(labels)
    require(values.ndim == 1, f"shape of {name}", values.shape, "must be [n]")
    if values.dtype.kind in "biuf":
        fits = np.isin(values, (0, 1))
    else:
        numbers = (bool, int, float, np.bool_, np.integer, np.floating)
        fits = np.array([isinstance(v, numbers) and v in (0, 1) for v in values], dtype=bool)
    others = values[~fits][:1].tolist()
    require(not others, name, others, "must be 0 or 1", "map yes and no to them")
    return values.astype(np.int64)


def checked_rows(
    columns: NDArray[np.float64],
    labels: NDArray[np.int64],
    codes: NDArray[np.intp],
    *,
    least_groups: int,
) -> NDArray[np.int64]:
    """The labels of rows that a network can be trained on, int64 of shape [n].

    Raises
    ------
    InputError
        For lengths that differ, labels other than 0 and 1, codes that number no groups, or fewer
        groups than ``least_groups``. What is in the columns is not looked at.
    """
    require(np.ndim(columns) == 2, "shape of columns", np.shape(columns), "must be [n, p]")
    if not len(columns) == len(labels) == len(codes):
        raise InputError(
            f"columns {len(columns)}, labels {len(labels)} and codes {len(codes)} differ in rows; "
            "align them"
        )
    truth, numbers = binary_labels(labels), np.asarray(codes)
    whole = np.issubdtype(numbers.dtype, np.integer) and numbers.size > 0 and numbers.min() >= 0
    require(bool(whole), "codes", numbers[:3].tolist(), "must be group numbers, 0 or more")
    groups = len(np.unique(numbers))
    require(groups >= least_groups, "groups", groups, f"must be at least {least_groups} to compare")
    return truth


def subsample(task: Task, n: int, *, seed: int = 0) -> Task:
    """At most ``n`` rows, drawn without replacement and left in their order."""
    require(n >= 1, "n", n, "must be >= 1")
    rng = np.random.default_rng(seed)
    return task.rows(np.sort(rng.choice(len(task), size=min(n, len(task)), replace=False)))


def check_task(task: Task, *, min_rows: int = 2) -> tuple[NDArray[np.intp], tuple[object, ...]]:
    """The groups of a task that a method can be trained on.

    Returns
    -------
    codes : int array of shape [n]
        The group of each row.
    groups : tuple
        The group of each code, sorted.

    Raises
    ------
    InputError
        For lengths that differ, labels other than 0 and 1 (bool and 0.0 or 1.0 will do), missing
        or infinite values, fewer than two groups, or fewer than ``min_rows`` rows with a label
        in a group: equalized odds compares within labels, and a rate among one person is no rate.
    """
    if not len(task.features) == len(task.labels) == len(task.groups):
        raise InputError(
            f"features {len(task.features)}, labels {len(task.labels)} and groups "
            f"{len(task.groups)} differ in rows; align them"
        )
    labels = binary_labels(task.labels)
    check_features("train", task.features)
    codes, groups = group_codes(task.groups, len(task))
    counts = np.zeros((len(groups), 2), dtype=int)
    np.add.at(counts, (codes, labels), 1)
    if counts.min() < min_rows:
        code, label = np.unravel_index(counts.argmin(), counts.shape)
        raise InputError(
            f"group {groups[code]!r} has {counts.min()} rows with label {label}, fewer than "
            f"{min_rows}; merge it with another group, or leave it out and say so"
        )
    return codes, groups
