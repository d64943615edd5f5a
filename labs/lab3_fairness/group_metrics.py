"""Audit a model's predictions by group: fairlearn's MetricFrame, with intervals and a null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.resampling import (
    GapNull,
    blocks,
    eligible_rows,
    gap_null,
    paired,
    percentile_interval,
    stratified_bootstrap,
)
from labs.lab3_fairness.row_metrics import Metric, evaluate_rows, row_form

__all__ = ["Disparity", "GroupReport", "GroupValue", "gap_null", "group_metrics"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupValue:
    """One metric on one group; ``n_counted`` rows of its ``n`` enter it (a TPR: the positives)."""

    metric: str
    group: str
    n: int
    n_counted: int
    value: float
    ci95: Interval


@dataclass(frozen=True)
class Disparity:
    """How far one metric lies apart between the groups.

    ``difference`` is max - min and ``ratio`` min / max over the groups. Both intervals are
    percentile bootstrap, and like the gap itself biased away from equality: a difference's
    interval hardly reaches 0. Whether there is a gap at all is what ``p_value`` and ``null_q95``
    say; the interval says how large it may be.
    """

    metric: str
    overall: float
    overall_ci95: Interval
    lowest: str
    highest: str
    difference: float
    difference_ci95: Interval
    ratio: float
    ratio_ci95: Interval
    null_mean: float
    null_q95: float
    p_value: float


@dataclass(frozen=True)
class GroupReport:
    """An audit: values by group, disparities, and what to be careful with."""

    frame: MetricFrame
    groups: tuple[GroupValue, ...]
    disparities: tuple[Disparity, ...]
    warnings: tuple[str, ...]
    n_boot: int
    n_permutations: int

    def group(self, metric: str, group: str) -> GroupValue:
        """The value of one metric on one group; InputError when there is none."""
        for value in self.groups:
            if (value.metric, value.group) == (metric, group):
                return value
        raise InputError(f"no metric {metric!r} for group {group!r}; see table()")

    def disparity(self, metric: str) -> Disparity:
        """The disparity of one metric; InputError when there is none."""
        for disparity in self.disparities:
            if disparity.metric == metric:
                return disparity
        known = ", ".join(d.metric for d in self.disparities)
        raise InputError(f"no metric {metric!r}; the report has {known}")

    def table(self) -> pd.DataFrame:
        """One row a metric and group: n, n_counted, value, low, high."""
        return _flat([asdict(value) for value in self.groups])

    def disparity_table(self) -> pd.DataFrame:
        """One row a metric: the fields of :class:`Disparity`, intervals as two columns each."""
        return _flat([asdict(disparity) for disparity in self.disparities])


def group_metrics(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sensitive: ArrayLike,
    metrics: Mapping[str, Metric],
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
    min_rows: int = 50,
) -> GroupReport:
    """Evaluate metrics on each group, with intervals, and test each gap against chance.

    Parameters
    ----------
    y_true, y_pred : arrays of shape [n]
        Labels and predictions; ``y_pred`` may hold any number a row, for example a user's NDCG
        with the metric ``mean_prediction`` (``y_true`` is then not looked at).
    sensitive : array or Series of shape [n]
        The group of each row, none missing.
    metrics
        Name to ``metric(y_true, y_pred) -> float``. Those of
        :mod:`labs.lab3_fairness.row_metrics`, and the functions of fairlearn and scikit-learn
        that equal one of them, are resampled as whole matrices; any other is called
        ``n_boot * groups`` times.
    n_boot
        Bootstrap replicates, within groups.
    n_permutations
        Shuffles for the null of the gap.
    seed
        Of both.
    min_rows
        A group in which a metric counts fewer rows is named in ``warnings``.

    Returns
    -------
    GroupReport

    Raises
    ------
    InputError
        For lengths that differ, values that are not finite, a missing or only one group, or
        no metric.
    """
    truth, predicted, codes, names = paired(y_true, y_pred, sensitive)
    require(len(metrics) > 0, "metrics", dict(metrics), "must hold at least one metric")
    labels = np.array([str(name) for name in names], dtype=object)
    if len(set(labels)) < len(labels):
        raise InputError(f"groups {names} are not distinct as text; rename them")
    forms = {name: row_form(metric) for name, metric in metrics.items()}
    frame = MetricFrame(
        metrics=forms, y_true=truth, y_pred=predicted, sensitive_features=labels[codes]
    )
    groups: list[GroupValue] = []
    disparities: list[Disparity] = []
    warnings: list[str] = []
    for name, metric in forms.items():
        replicates = stratified_bootstrap(truth, predicted, codes, metric, n_boot=n_boot, seed=seed)
        counted = eligible_rows(metric, truth, predicted)
        for code, label in enumerate(labels):
            value = GroupValue(
                metric=name,
                group=label,
                n=int(np.sum(codes == code)),
                n_counted=int(np.sum(counted & (codes == code))),
                value=float(frame.by_group.loc[label, name]),
                ci95=percentile_interval(replicates[:, code]),
            )
            groups.append(value)
            if value.n_counted < min_rows:
                warnings.append(
                    f"{name}: group {label!r} counts {value.n_counted} rows, fewer than "
                    f"{min_rows}; do not trust its interval, and it inflates the gap"
                )
        null = gap_null(truth, predicted, codes, metric, n_permutations=n_permutations, seed=seed)
        overall = _bootstrap_overall(truth, predicted, metric, n_boot, seed)
        disparities.append(_disparity(name, frame, replicates, overall, null))
    return GroupReport(
        frame, tuple(groups), tuple(disparities), tuple(warnings), n_boot, n_permutations
    )


def _disparity(
    name: str,
    frame: MetricFrame,
    replicates: NDArray[np.float64],
    overall: NDArray[np.float64],
    null: GapNull,
) -> Disparity:
    values = frame.by_group[name].astype(float)
    # A replicate in which a group's metric is undefined compares the groups that are left.
    known = replicates[:, values.notna().to_numpy()]
    high, low = np.fmax.reduce(known, axis=1), np.fmin.reduce(known, axis=1)
    ratios = np.divide(low, high, out=np.full(len(high), np.nan), where=high != 0)
    return Disparity(
        metric=name,
        overall=float(frame.overall[name]),
        overall_ci95=percentile_interval(overall),
        lowest=str(values.idxmin()),
        highest=str(values.idxmax()),
        difference=float(values.max() - values.min()),
        difference_ci95=percentile_interval(high - low),
        ratio=float(values.min() / values.max()) if values.max() != 0 else float("nan"),
        ratio_ci95=percentile_interval(ratios),
        null_mean=null.mean,
        null_q95=null.q95,
        p_value=null.p_value,
    )


def _bootstrap_overall(
    y_true: NDArray[np.generic],
    y_pred: NDArray[np.generic],
    metric: Metric,
    n_boot: int,
    seed: int,
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    replicates = np.empty(n_boot)
    for start, stop in blocks(n_boot, len(y_true)):
        drawn = rng.integers(len(y_true), size=(stop - start, len(y_true)))
        replicates[start:stop] = evaluate_rows(metric, y_true[drawn], y_pred[drawn])
    return replicates


def _flat(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for column in [name for name in table.columns if name.endswith("ci95")]:
        stem = column.removesuffix("ci95")
        table[f"{stem}low"] = [interval[0] for interval in table[column]]
        table[f"{stem}high"] = [interval[1] for interval in table[column]]
        table = table.drop(columns=column)
    return table
