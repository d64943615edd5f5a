"""What a decision rule does, when the rule may toss a coin.

A rule gives each person a probability of the positive decision: 0 or 1 when it is deterministic,
something between when it randomises. Its rates are expectations over its own coin, so that two
runs of the same rule never report two accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.resampling import percentile_interval
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.score_intervals import largest_gap_interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """A rule on one data set: its accuracy, and both gaps.

    ``dp_diff`` is the gap in selection rate, ``eo_diff`` the larger of the gaps in true and in
    false positive rate, each between the highest and the lowest group; NaN when a group has no
    positives or no negatives. ``flips`` is the chance that two runs of the rule decide
    differently about the same person, 0 for a deterministic rule.

    The intervals of both gaps are score intervals that hold for all pairs of groups at once
    (:func:`score_intervals.largest_gap_interval`): they reach 0 where no two groups can be told
    apart, as the percentiles of a max - min hardly ever do. That of ``eo_diff`` is the wider for
    holding in two rates. The interval of the accuracy is stratified percentile bootstrap. Each
    holds its value.
    """

    n: int
    accuracy: float
    dp_diff: float
    eo_diff: float
    flips: float
    accuracy_ci95: Interval
    dp_diff_ci95: Interval
    eo_diff_ci95: Interval

    @property
    def deterministic(self) -> bool:
        """Whether the rule tossed no coin about anybody."""
        return self.flips == 0


@exercise(
    "3.19",
    points=5,
    title="Rates of a rule that tosses a coin",
    hint="A row with a chance of 0.3 is three tenths of a selected row and seven tenths of one "
    "that is not. What do tenths of rows add up to, and among whom is each rate?",
)
def expected_rates(y_true: ArrayLike, positive: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Rates of each group, in expectation over the rule's coin.

    With q_i the chance that row i gets the positive decision, the expected number of selected
    rows is the sum of q_i, so the rates of group a are means of q over its rows:

    ==================  ====================================================
    selection_rate      mean of q over A=a
    tpr                 mean of q over A=a, Y=1
    fpr                 mean of q over A=a, Y=0
    accuracy            mean of q where Y=1 and of 1 - q where Y=0, over A=a
    ==================  ====================================================

    ``_checked`` checks the arguments and numbers the groups.

    Parameters
    ----------
    y_true : array of shape [n]
        0 or 1.
    positive : array of shape [n]
        P(Ŷ=1) that the rule gives each row, 0 to 1.
    groups : array of shape [n]

    Returns
    -------
    DataFrame
        Indexed by group, sorted; n, selection_rate, tpr, fpr, accuracy. NaN among nobody.

    Raises
    ------
    InputError
        For labels other than 0 and 1, probabilities outside 0 to 1, lengths that differ, a
        missing group or only one.
    """
    truth, chosen, codes, names = _checked(y_true, positive, groups)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(codes, weights=values, minlength=len(names))
        return np.asarray(sums, dtype=float)

    n, positives, negatives = total(np.ones(len(truth))), total(truth), total(1 - truth)
    hits, alarms = total(chosen * truth), total(chosen * (1 - truth))
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = {
            "n": n.astype(int),
            "selection_rate": total(chosen) / n,
            "tpr": hits / positives,
            "fpr": alarms / negatives,
            "accuracy": (hits + negatives - alarms) / n,
        }
    return pd.DataFrame(columns, index=pd.Index(names, name="group"))


def outcome(
    y_true: ArrayLike,
    positive: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Outcome:
    """Accuracy and both gaps of a rule, with 95 % intervals.

    Both gaps are of means of P(Ŷ=1) over the rows of a group, a group's positives or its
    negatives. Each mean has Wilson's interval with a design effect
    (:func:`score_intervals.wilson_mean`), which a deterministic rule does not need and a
    randomised one does. Accuracy is resampled within groups.

    Parameters
    ----------
    y_true, positive, groups : arrays of shape [n]
        As for :func:`expected_rates`.
    n_boot
        Replicates of the accuracy, each of as many rows of every group as there are. The gaps
        need none.
    seed
        Of the replicates.

    Raises
    ------
    InputError
        For labels other than 0 and 1, probabilities outside 0 to 1, lengths that differ, a
        missing group or only one.
    """
    truth, chosen, codes, names = _checked(y_true, positive, groups)
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 1000")
    n_groups = len(names)
    correct = np.where(truth == 1, chosen, 1 - chosen)
    accuracy = float(correct.mean())
    low, high = _accuracy_interval(correct, codes, n_groups, n_boot, seed)
    dp_diff, dp_ci95 = _gap(_sums(chosen, codes, n_groups))
    positives, negatives = truth == 1, truth == 0
    eo_diff, eo_ci95 = _gap(
        _sums(chosen[positives], codes[positives], n_groups),
        _sums(chosen[negatives], codes[negatives], n_groups),
    )
    return Outcome(
        n=len(truth),
        accuracy=accuracy,
        dp_diff=dp_diff,
        eo_diff=eo_diff,
        flips=float(np.mean(2 * chosen * (1 - chosen))),
        # A handful of replicates may lie on one side of the value.
        accuracy_ci95=(min(low, accuracy), max(high, accuracy)),
        dp_diff_ci95=dp_ci95,
        eo_diff_ci95=eo_ci95,
    )


Sums = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _sums(values: NDArray[np.float64], codes: NDArray[np.intp], n_groups: int) -> Sums:
    """Sum, sum of squares and number of the values of each group, each [g]."""
    total = np.bincount(codes, weights=values, minlength=n_groups)
    squares = np.bincount(codes, weights=values**2, minlength=n_groups)
    n = np.bincount(codes, minlength=n_groups)
    return np.asarray(total, float), np.asarray(squares, float), np.asarray(n, float)


def _gap(*rates: Sums) -> tuple[float, Interval]:
    """The largest gap in any of the rates, and its interval; NaN when a group lacks a rate."""
    if any((n == 0).any() for _, _, n in rates):
        return float("nan"), (float("nan"), float("nan"))
    value = max(float(np.ptp(total / n)) for total, _, n in rates)
    low, high = largest_gap_interval(rates)
    return value, (float(low), float(high))


def _accuracy_interval(
    correct: NDArray[np.float64], codes: NDArray[np.intp], n_groups: int, n_boot: int, seed: int
) -> Interval:
    """Stratified percentile bootstrap of the mean of [n] values."""
    rng = np.random.default_rng(seed)
    total = np.zeros(n_boot)
    for code in range(n_groups):
        # Rows that are alike are one cell; resampling rows is drawing the counts of the cells.
        values, counts = np.unique(correct[codes == code], return_counts=True)
        n = int(counts.sum())
        total += rng.multinomial(n, counts / n, size=n_boot) @ values
    return percentile_interval(total / len(correct))


def _checked(
    y_true: ArrayLike, positive: ArrayLike, groups: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp], tuple[object, ...]]:
    truth, chosen = np.asarray(y_true, dtype=float), np.asarray(positive, dtype=float)
    if truth.shape != chosen.shape or truth.ndim != 1:
        raise InputError(f"y_true {truth.shape} and positive {chosen.shape} must both be [n]")
    others = truth[~np.isin(truth, (0, 1))]
    if others.size:
        raise InputError(f"y_true holds {others[0]}; use 0 and 1")
    outside = chosen[~((chosen >= 0) & (chosen <= 1))]
    if outside.size:
        raise InputError(f"positive holds {outside[0]}; a probability is from 0 to 1")
    codes, names = group_codes(groups, len(chosen))
    return truth, chosen, codes, names
