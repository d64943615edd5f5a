"""Audit a model's predictions by group: fairlearn's MetricFrame, with intervals and a null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.cell_bootstrap import cell_bootstrap, cell_counts, gap_null_from_counts
from labs.lab3_fairness.group_intervals import (
    GroupIntervals,
    Sample,
    group_intervals,
    overall_interval,
)
from labs.lab3_fairness.resampling import (
    GapNull,
    gap_null,
    gaps_of,
    paired,
    percentile_interval,
    stratified_bootstrap,
)
from labs.lab3_fairness.row_metrics import Metric, RowMetric, check_columns, row_form
from labs.lab3_fairness.score_intervals import (
    largest_difference_interval,
    smallest_ratio_interval,
)

__all__ = ["Disparity", "GroupReport", "GroupValue", "gap_null", "group_metrics"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupValue:
    """One metric on one group; ``n_counted`` rows of its ``n`` enter it (a TPR: the positives).

    ``ci95`` is Wilson's interval where the metric is a share of rows, and percentile bootstrap
    elsewhere; ``interval`` names it. ``bootstrap_ci95`` is the percentile bootstrap always, to
    compare with tools that have nothing else. All NaN where no row counts.
    """

    metric: str
    group: str
    n: int
    n_counted: int
    value: float
    ci95: Interval
    interval: str
    bootstrap_ci95: Interval


@dataclass(frozen=True)
class Disparity:
    """How far one metric lies apart between the groups.

    ``difference`` is max - min and ``ratio`` min / max over the groups that have a value; NaN
    with fewer than two. Their intervals hold for all pairs of groups at once
    (:mod:`score_intervals`), because which two are the extremes is itself chance; a difference's
    interval reaches 0 where no pair can be told apart. ``difference_bootstrap_ci95`` is the
    percentile bootstrap, which is biased away from equality as the gap itself is. Whether there
    is a gap at all is what ``p_value`` and ``null_q95`` say; the interval says how large it may
    be.
    """

    metric: str
    overall: float
    overall_ci95: Interval
    lowest: str
    highest: str
    difference: float
    difference_ci95: Interval
    difference_bootstrap_ci95: Interval
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
    bounds: Mapping[str, Interval] | None = None,
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
        that equal one of them, are resampled by counting (labels and predictions of few
        values, :mod:`cell_bootstrap`) or as whole matrices; any other is called
        ``n_boot * groups`` times.
    n_boot
        Bootstrap replicates, within groups.
    n_permutations
        Shuffles for the null of the gap.
    seed
        Of both.
    min_rows
        A group in which a metric counts fewer rows is named in ``warnings``; so is one in
        which it counts none, and which the gap therefore leaves out.
    bounds
        Name of a metric to the least and the largest value that it can have, such as (0, 1) for
        an NDCG: no limit of a group leaves them. Shares of rows need none.

    Returns
    -------
    GroupReport

    Raises
    ------
    InputError
        For lengths that differ, values that are not finite, a missing or only one group, no
        metric, labels and predictions other than 0 and 1 for a rate, or bounds that a group's
        value leaves.
    """
    truth, predicted, codes, names = paired(y_true, y_pred, sensitive)
    require(len(metrics) > 0, "metrics", dict(metrics), "must hold at least one metric")
    labels = np.array([str(name) for name in names], dtype=object)
    if len(set(labels)) < len(labels):
        raise InputError(f"groups {names} are not distinct as text; rename them")
    forms = {name: row_form(metric) for name, metric in metrics.items()}
    for name, metric in forms.items():
        check_columns(name, metric, truth, predicted)
    frame = MetricFrame(
        metrics=forms, y_true=truth, y_pred=predicted, sensitive_features=labels[codes]
    )
    cells = cell_counts(truth, predicted, codes, len(labels))
    by_rows = {name: form for name, form in forms.items() if isinstance(form, RowMetric)}
    shared: dict[str, NDArray[np.float64]] = {}
    if cells is not None and by_rows:
        shared = cell_bootstrap(cells, by_rows, n_boot=n_boot, seed=seed)
    groups: list[GroupValue] = []
    disparities: list[Disparity] = []
    warnings: list[str] = []
    for name, metric in forms.items():
        replicates = shared.get(name)
        if replicates is None:
            replicates = stratified_bootstrap(
                truth, predicted, codes, metric, n_boot=n_boot, seed=seed
            )
        if cells is not None and isinstance(metric, RowMetric):
            null = gap_null_from_counts(cells, metric, n_permutations=n_permutations, seed=seed)
        else:
            null = gap_null(
                truth, predicted, codes, metric, n_permutations=n_permutations, seed=seed
            )
        limits = (bounds or {}).get(name, (-np.inf, np.inf))
        sample = Sample(truth, predicted, codes, len(labels), metric, cells, limits)
        values = frame.by_group.loc[labels, name].to_numpy(dtype=float)
        outside = values[(values < limits[0] - 1e-9) | (values > limits[1] + 1e-9)]
        if outside.size:
            raise InputError(f"{name} is {outside[0]:g} in a group; bounds = {limits} are wrong")
        found = group_intervals(sample, values, replicates)
        overall = overall_interval(sample, n_boot, seed)
        for code, label in enumerate(labels):
            value = GroupValue(
                metric=name,
                group=label,
                n=int(np.sum(codes == code)),
                n_counted=int(sample.n_counted[code]),
                value=float(values[code]),
                ci95=(float(found.low[code]), float(found.high[code])),
                interval=found.names[code],
                bootstrap_ci95=percentile_interval(replicates[:, code]),
            )
            groups.append(value)
            warnings += _warnings(value, min_rows)
        if np.sum(~np.isnan(values)) < 2:
            warnings.append(f"{name}: fewer than two groups have a value, so there is no gap")
        disparities.append(
            _disparity(name, frame, labels, values, found, replicates, overall, null)
        )
    return GroupReport(
        frame, tuple(groups), tuple(disparities), tuple(warnings), n_boot, n_permutations
    )


def _warnings(value: GroupValue, min_rows: int) -> list[str]:
    who = f"{value.metric}: group {value.group!r}"
    if value.n_counted == 0 or np.isnan(value.value):
        return [f"{who} has no row that counts: undefined there, and left out of the gap"]
    if np.isnan(value.ci95[0]):
        return [f"{who}: all {value.n_counted} rows are alike; not enough data for an interval"]
    if value.n_counted < min_rows:
        low, high = value.ci95
        return [
            f"{who} counts {value.n_counted} rows, fewer than {min_rows}: its value may be "
            f"anything from {low:.2f} to {high:.2f}, and it inflates the gap"
        ]
    return []


def _disparity(
    name: str,
    frame: MetricFrame,
    labels: NDArray[Any],
    values: NDArray[np.float64],
    found: GroupIntervals,
    replicates: NDArray[np.float64],
    overall: Interval,
    null: GapNull,
) -> Disparity:
    known = ~np.isnan(values)
    enough = known.sum() >= 2
    # A replicate in which a group's metric is undefined compares the groups that are left.
    resampled = replicates[:, known] if enough else np.full((1, 2), np.nan)
    largest = float(values[known].max()) if enough else float("nan")
    smallest = float(values[known].min()) if enough else float("nan")
    difference = largest_difference_interval(values, found.pairs)
    if found.is_share:
        low, high = smallest_ratio_interval(values, found.pairs)
        ratio_ci95 = float(low), float(high)
    else:
        tops = np.fmax.reduce(resampled, axis=1)
        bottoms = np.fmin.reduce(resampled, axis=1)
        ratios = np.divide(bottoms, tops, out=np.full(len(tops), np.nan), where=tops != 0)
        ratio_ci95 = percentile_interval(ratios)
    return Disparity(
        metric=name,
        overall=float(frame.overall[name]),
        overall_ci95=overall,
        lowest=str(labels[np.nanargmin(values)]) if enough else "",
        highest=str(labels[np.nanargmax(values)]) if enough else "",
        difference=largest - smallest,
        difference_ci95=(float(difference[0]), float(difference[1])),
        difference_bootstrap_ci95=percentile_interval(gaps_of(resampled)),
        ratio=smallest / largest if largest != 0 else float("nan"),
        ratio_ci95=ratio_ci95,
        null_mean=null.mean,
        null_q95=null.q95,
        p_value=null.p_value,
    )


def _flat(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for column in [name for name in table.columns if name.endswith("ci95")]:
        stem = column.removesuffix("ci95")
        table[f"{stem}low"] = [interval[0] for interval in table[column]]
        table[f"{stem}high"] = [interval[1] for interval in table[column]]
        table = table.drop(columns=column)
    return table
