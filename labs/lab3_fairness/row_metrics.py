"""Metrics that are a mean over rows: the form that makes resampling them fast.

Each can stand wherever fairlearn takes a ``metric(y_true, y_pred)``. Written as a value for each
row and the rows it counts, it also works on whole matrices of resampled rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fairlearn.metrics
import numpy as np
import pandas as pd
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError

Metric = Callable[[Any, Any], Any]
Rowwise = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def _every_row(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.ones(np.broadcast_shapes(y_true.shape, y_pred.shape), dtype=bool)


@dataclass(frozen=True)
class RowMetric:
    """The mean of ``value(y_true, y_pred)`` over the rows with ``where(y_true, y_pred)``.

    ``reads`` says which columns must hold what: "binary" is 0 and 1, "label" is any class but no
    score; :func:`check_columns` looks.
    """

    name: str
    value: Rowwise
    where: Rowwise = _every_row
    reads: tuple[tuple[str, str], ...] = ()

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> Any:
        """Evaluate over the last axis.

        Parameters
        ----------
        y_true, y_pred : arrays of shape [n] or [b, n]

        Returns
        -------
        float or float64 array of shape [b]
            NaN where no row counts: a group without positives has no true positive rate.
        """
        truth, prediction = np.asarray(y_true), np.asarray(y_pred)
        counted = self.where(truth, prediction)
        n = counted.sum(axis=-1)
        total = np.where(counted, self.value(truth, prediction), 0.0).sum(axis=-1)
        mean = np.divide(total, n, out=np.full(np.shape(n), np.nan), where=n > 0)
        return float(mean) if mean.ndim == 0 else mean


def _predicted(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return y_pred


def _actual(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return y_true


def _positives(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(y_true == 1)


def _negatives(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(y_true == 0)


def _selected(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(y_pred == 1)


def _correct(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(y_true == y_pred)


def _missed(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 - y_pred)


TRUTH, PREDICTION = ("y_true", "binary"), ("y_pred", "binary")
BOTH = (TRUTH, PREDICTION)

accuracy = RowMetric("accuracy", _correct, reads=(("y_true", "label"), ("y_pred", "label")))
selection_rate = RowMetric("selection_rate", _predicted, reads=(PREDICTION,))
mean_prediction = RowMetric("mean_prediction", _predicted)
base_rate = RowMetric("base_rate", _actual, reads=(TRUTH,))
true_positive_rate = RowMetric("true_positive_rate", _predicted, _positives, BOTH)
false_positive_rate = RowMetric("false_positive_rate", _predicted, _negatives, BOTH)
false_negative_rate = RowMetric("false_negative_rate", _missed, _positives, BOTH)
positive_predictive_value = RowMetric("positive_predictive_value", _actual, _selected, BOTH)

RATE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        selection_rate,
        true_positive_rate,
        false_positive_rate,
        positive_predictive_value,
        accuracy,
    )
}

SAME_AS: dict[Metric, RowMetric] = {
    sklearn.metrics.accuracy_score: accuracy,
    fairlearn.metrics.selection_rate: selection_rate,
    fairlearn.metrics.mean_prediction: mean_prediction,
    fairlearn.metrics.true_positive_rate: true_positive_rate,
    fairlearn.metrics.false_positive_rate: false_positive_rate,
    fairlearn.metrics.false_negative_rate: false_negative_rate,
}


def row_form(metric: Metric) -> Metric:
    """The :class:`RowMetric` that equals a well-known metric, or the metric itself."""
    return SAME_AS.get(metric, metric)


def check_columns(name: str, metric: Metric, y_true: NDArray[Any], y_pred: NDArray[Any]) -> None:
    """Refuse columns on which a metric would be a number without a meaning.

    Raises
    ------
    InputError
        For values other than 0 and 1 where the metric reads 0 and 1, and for scores where it
        compares labels: their accuracy would be a silent 0.
    """
    if not isinstance(metric, RowMetric):
        return
    for column, kind in metric.reads:
        values = y_true if column == "y_true" else y_pred
        if kind == "binary":
            others = values[~np.isin(values, (0, 1))]
            advice = "use 0 and 1"
        else:
            others = values[values % 1 != 0] if values.dtype.kind == "f" else values[:0]
            advice = "it compares labels"
        if others.size:
            tail = "; threshold the scores, or use mean_prediction" if column == "y_pred" else ""
            raise InputError(f"{name}: {column} holds {others[0]}; {advice}{tail}")


def evaluate_rows(
    metric: Metric, y_true: NDArray[Any], y_pred: NDArray[Any]
) -> NDArray[np.float64]:
    """Evaluate any metric on each of b resampled data sets.

    Parameters
    ----------
    metric
        A :class:`RowMetric` is evaluated in one call, any other b times.
    y_true, y_pred : arrays of shape [b, n]

    Returns
    -------
    float64 array of shape [b]
    """
    if isinstance(metric, RowMetric):
        return np.asarray(metric(y_true, y_pred), dtype=np.float64)
    return np.array([metric(t, p) for t, p in zip(y_true, y_pred)], dtype=np.float64)


def evaluate_groups(
    metric: Metric,
    y_true: NDArray[Any],
    y_pred: NDArray[Any],
    codes: NDArray[np.intp],
    n_groups: int,
) -> NDArray[np.float64]:
    """Evaluate any metric on each group.

    Parameters
    ----------
    metric
        Called once a group, or computed in one pass for a :class:`RowMetric`.
    y_true, y_pred : arrays of shape [n]
    codes : int array of shape [n]
        The group of each row, 0 to ``n_groups - 1``.
    n_groups
        Length of the result.

    Returns
    -------
    float64 array of shape [n_groups]
        NaN for a group without rows that count.
    """
    if isinstance(metric, RowMetric):
        counted = metric.where(y_true, y_pred)
        n = np.bincount(codes, weights=counted, minlength=n_groups)
        values = np.where(counted, metric.value(y_true, y_pred), 0.0)
        total = np.bincount(codes, weights=values, minlength=n_groups)
        means: NDArray[np.float64] = np.divide(total, n, out=np.full(n_groups, np.nan), where=n > 0)
        return means
    members = [codes == code for code in range(n_groups)]
    return np.array(
        [metric(y_true[rows], y_pred[rows]) if rows.any() else np.nan for rows in members],
        dtype=np.float64,
    )


def group_codes(sensitive: ArrayLike, n_rows: int) -> tuple[NDArray[np.intp], tuple[Any, ...]]:
    """Number the groups of a sensitive feature.

    Returns
    -------
    codes : int array of shape [n]
    groups : tuple
        The group of each code, sorted.

    Raises
    ------
    InputError
        For another length, a missing value, or fewer than two groups.
    """
    values = pd.Series(np.asarray(sensitive))
    if len(values) != n_rows:
        raise InputError(f"sensitive has {len(values)} rows, y_pred has {n_rows}; align them")
    if values.isna().any():
        raise InputError(
            f"sensitive is missing in {int(values.isna().sum())} of {n_rows} rows; give them a "
            "group of their own, such as 'unknown', or leave the rows out"
        )
    codes, groups = pd.factorize(values, sort=True)
    if len(groups) < 2:
        raise InputError(f"sensitive has only the group {list(groups)}; a comparison needs two")
    return codes, tuple(groups)
