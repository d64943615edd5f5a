"""The definitions of group fairness, each a small function of the rates by group.

They fall into three families (Barocas, Hardt and Narayanan, chapter 3): *independence* looks at
the decisions alone, *separation* at the decisions given the outcome, *sufficiency* at the outcome
given the decision. Which one is right is no question of statistics; what each one says of a set of
decisions, and how surely, is. Calibration within groups, a property of scores and not of decisions,
has its own module, `group_calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from labs.lab3_fairness.confusion import group_rates
from labs.lab3_fairness.resampling import gap_null, percentile_interval, stratified_bootstrap
from labs.lab3_fairness.row_metrics import (
    RowMetric,
    false_positive_rate,
    group_codes,
    positive_predictive_value,
    selection_rate,
    true_positive_rate,
)
from labs.lab3_fairness.score_intervals import (
    all_pairs_z,
    largest_gap_interval,
    smallest_ratio_interval,
    wilson,
)

FOUR_FIFTHS = 0.8
Interval = tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """How far a rate lies apart between the groups.

    ``difference`` is the largest rate minus the smallest, ``ratio`` the smallest divided by the
    largest (NaN when that is 0). ``undefined`` names the groups that have no such rate, because
    nobody is in its denominator; with fewer than two others both numbers are NaN.
    """

    difference: float
    ratio: float
    undefined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definition:
    """One definition of fairness, for the report."""

    name: str
    family: str
    formula: str
    asks: str
    meant_for: str


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "demographic parity",
        "independence",
        "P(Ŷ=1|A=a) equal for all a",
        "Are the groups selected equally often?",
        "Access that should not depend on the recorded outcome, or labels that are not trusted.",
    ),
    Definition(
        "four-fifths rule",
        "independence",
        "min P(Ŷ=1|A=a) / max P(Ŷ=1|A=a) >= 0.8",
        "Is the least selected group selected at least 80 % as often as the most selected?",
        "A first screen of hiring in US guidelines (1978); no proof either way.",
    ),
    Definition(
        "equal opportunity",
        "separation",
        "P(Ŷ=1|Y=1,A=a) equal for all a",
        "Of those who deserve it, is the same share selected in each group?",
        "The positive decision is a benefit, and being wrongly refused is the harm.",
    ),
    Definition(
        "equalized odds",
        "separation",
        "P(Ŷ=1|Y=y,A=a) equal for all a, for y=0 and for y=1",
        "Are both kinds of error equally frequent in each group?",
        "Wrong alarms and misses both harm, as in detention or fraud; labels must be sound.",
    ),
    Definition(
        "predictive parity",
        "sufficiency",
        "P(Y=1|Ŷ=1,A=a) equal for all a",
        "Does being selected mean the same in each group?",
        "Whoever acts on the decision must not have to look at the group as well.",
    ),
    Definition(
        "calibration within groups",
        "sufficiency",
        "P(Y=1|S=s,A=a) equal for all a, at every score s",
        "Does a score mean the same risk in each group?",
        "Scores that people or other systems read as risks.",
    ),
)


def rate_gap(rates: pd.Series) -> Gap:
    """Difference and ratio of one rate, a value a group (NaN where there is none)."""
    undefined = tuple(str(group) for group in rates.index[rates.isna()])
    known = rates.dropna()
    if len(known) < 2:
        return Gap(float("nan"), float("nan"), undefined)
    low, high = float(known.min()), float(known.max())
    return Gap(high - low, low / high if high else float("nan"), undefined)


def demographic_parity(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> Gap:
    """Gap in the selection rate ``P(Ŷ=1|A=a)``; the labels do not matter.

    Parameters
    ----------
    y_true, y_pred, groups : arrays of shape [n]
        As for :func:`labs.lab3_fairness.confusion.group_rates`, here and below.

    Raises
    ------
    InputError
        As there: values other than 0 and 1, lengths that differ, a missing group or only one.
    """
    return rate_gap(group_rates(y_true, y_pred, groups)["selection_rate"])


def equal_opportunity(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> Gap:
    """Gap in the true positive rate ``P(Ŷ=1|Y=1,A=a)`` (Hardt et al. 2016, definition 2.2)."""
    return rate_gap(group_rates(y_true, y_pred, groups)["tpr"])


def equalized_odds(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> Gap:
    """The worse of the gaps in true and in false positive rate (Hardt et al. 2016, def. 2.1).

    The larger difference and the smaller ratio; these may come from different rates. NaN when
    either rate can be compared between no two groups.
    """
    rates = group_rates(y_true, y_pred, groups)
    tpr, fpr = rate_gap(rates["tpr"]), rate_gap(rates["fpr"])
    undefined = tuple(sorted({*tpr.undefined, *fpr.undefined}))
    difference, ratio = np.maximum(tpr.difference, fpr.difference), np.minimum(tpr.ratio, fpr.ratio)
    return Gap(float(difference), float(ratio), undefined)


def predictive_parity(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> Gap:
    """Gap in the positive predictive value ``P(Y=1|Ŷ=1,A=a)`` (Chouldechova 2017, def. 2)."""
    return rate_gap(group_rates(y_true, y_pred, groups)["ppv"])


GAPS: Mapping[str, Callable[[ArrayLike, ArrayLike, ArrayLike], Gap]] = {
    "demographic parity": demographic_parity,
    "equal opportunity": equal_opportunity,
    "equalized odds": equalized_odds,
    "predictive parity": predictive_parity,
}
_PARTS: Mapping[str, tuple[RowMetric, ...]] = {
    "demographic parity": (selection_rate,),
    "equal opportunity": (true_positive_rate,),
    "equalized odds": (true_positive_rate, false_positive_rate),
    "predictive parity": (positive_predictive_value,),
}


@dataclass(frozen=True)
class FairnessResult:
    """One definition's verdict on one set of decisions.

    ``ci95`` is the interval of the difference that holds for all pairs of groups at once
    (:func:`score_intervals.largest_gap_interval`), ``null_q95`` the difference that random groups
    of the same sizes exceed in 5 % of cases, ``p_value`` that of the permutation test.
    ``bootstrap_ci95`` is the stratified percentile bootstrap, to compare: it hardly ever
    reaches 0, as no resampled gap is below 0.
    """

    definition: str
    gap: Gap
    ci95: Interval
    null_q95: float
    p_value: float
    bootstrap_ci95: Interval


def evaluate_definitions(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> tuple[FairnessResult, ...]:
    """Every definition in :data:`GAPS` on the same decisions, each with interval and null.

    For equalized odds the two rates are permuted apart, positives among positives and negatives
    among negatives, and the larger of the two gaps is taken in each permutation, as in the data.

    Parameters
    ----------
    y_true, y_pred, groups : arrays of shape [n]
    n_boot, n_permutations, seed
        Of the bootstrap and of the null; ``ci95`` needs neither.
    """
    return tuple(
        _evaluate(name, y_true, y_pred, groups, n_boot, n_permutations, seed) for name in GAPS
    )


def _evaluate(
    name: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike,
    n_boot: int,
    n_permutations: int,
    seed: int,
) -> FairnessResult:
    found = GAPS[name](y_true, y_pred, groups)
    if np.isnan(found.difference):
        nothing = (np.nan, np.nan)
        return FairnessResult(name, found, nothing, np.nan, np.nan, nothing)
    replicates, nulls = [], []
    for offset, metric in enumerate(_PARTS[name]):
        # One seed for the bootstrap: both rates are of the same resampled rows.
        drawn = stratified_bootstrap(y_true, y_pred, groups, metric, n_boot=n_boot, seed=seed)
        replicates.append(np.fmax.reduce(drawn, axis=1) - np.fmin.reduce(drawn, axis=1))
        nulls.append(
            gap_null(
                y_true,
                y_pred,
                groups,
                metric,
                n_permutations=n_permutations,
                seed=seed + offset,
            ).gaps
        )
    null = np.max(nulls, axis=0)
    reached = int(np.sum(null >= found.difference - 1e-12))
    counts = [_hits(metric, y_true, y_pred, groups) for metric in _PARTS[name]]
    low, high = largest_gap_interval([(hits, hits, n) for hits, n in counts])
    return FairnessResult(
        name,
        found,
        (float(low), float(high)),
        float(np.quantile(null, 0.95)),
        (1 + reached) / (1 + n_permutations),
        percentile_interval(np.max(replicates, axis=0)),
    )


def _hits(
    metric: RowMetric, y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each group the rows of value 1 and the rows that count, both [g]."""
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    codes, names = group_codes(groups, len(predicted))
    counted = metric.where(truth, predicted)
    ones = np.where(counted, metric.value(truth, predicted), 0)
    hits, n = (np.bincount(codes, weights=w, minlength=len(names)) for w in (ones, counted))
    return hits.astype(float), n.astype(float)


@dataclass(frozen=True)
class FourFifths:
    """The four-fifths rule's ratio and verdict, beside what it leaves out.

    ``p_value`` tests whether the selection rates differ at all. A ratio below 0.8 with a large
    p-value is an alarm about nothing; one above 0.8 with a small p-value is a disparity. ``ci95``
    reaches 1 where no two groups can be told apart; the percentile bootstrap hardly ever does.
    """

    ratio: float
    ci95: Interval
    passes: bool
    p_value: float
    bootstrap_ci95: Interval


def four_fifths_rule(
    y_pred: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> FourFifths:
    """Disparate impact: the lowest selection rate over the highest, and whether it is >= 0.8.

    Parameters
    ----------
    y_pred, groups : arrays of shape [n]
        1 is the favourable decision. In COMPAS "high risk" is not: pass ``1 - y_pred`` there.

    Raises
    ------
    InputError
        As for :func:`demographic_parity`, and when nobody is selected: then there is no ratio.

    References
    ----------
    Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4 D, 1978.
    """
    predicted = np.asarray(y_pred)
    truth = np.zeros(predicted.shape, dtype=np.int64)
    found = demographic_parity(truth, predicted, groups)
    require(
        not np.isnan(found.ratio),
        "selected rows",
        int(np.sum(predicted)),
        "must be >= 1",
        "lower the threshold",
    )
    drawn = stratified_bootstrap(truth, predicted, groups, selection_rate, n_boot=n_boot, seed=seed)
    high = drawn.max(axis=1)
    ratios = np.divide(drawn.min(axis=1), high, out=np.full(len(high), np.nan), where=high > 0)
    null = gap_null(
        truth, predicted, groups, selection_rate, n_permutations=n_permutations, seed=seed
    )
    hits, n = _hits(selection_rate, truth, predicted, groups)
    limits = wilson(hits, n, z=all_pairs_z(len(n)))
    low, top = smallest_ratio_interval(hits / n, limits)
    return FourFifths(
        found.ratio,
        (float(low), float(top)),
        # A ratio of exactly four fifths passes, whatever the last bit of the division.
        found.ratio >= FOUR_FIFTHS - 1e-12,
        null.p_value,
        percentile_interval(ratios),
    )
