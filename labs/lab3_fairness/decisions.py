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
from labs.lab3_fairness.resampling import percentile_interval
from labs.lab3_fairness.row_metrics import group_codes

Interval = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """A rule on one data set: its accuracy, and both gaps.

    ``dp_diff`` is the gap in selection rate, ``eo_diff`` the larger of the gaps in true and in
    false positive rate, each between the highest and the lowest group; NaN when a group has no
    positives or no negatives. ``flips`` is the chance that two runs of the rule decide
    differently about the same person, 0 for a deterministic rule. The intervals are stratified
    percentile bootstrap.
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


def expected_rates(y_true: ArrayLike, positive: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Rates of each group, in expectation over the rule's coin.

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
    """
    truth, chosen, codes, names = _checked(y_true, positive, groups)
    sums: NDArray[np.float64] = np.stack(
        [
            np.bincount(codes, weights=column, minlength=len(names))
            for column in (np.ones(len(truth)), truth, 1 - truth, chosen, chosen * truth)
        ],
        axis=-1,
    )
    selection, tpr, fpr, accuracy = _rates(sums)
    columns = {
        "n": sums[:, 0].astype(int),
        "selection_rate": selection,
        "tpr": tpr,
        "fpr": fpr,
        "accuracy": accuracy,
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
    """Accuracy and both gaps of a rule, with intervals.

    Parameters
    ----------
    y_true, positive, groups : arrays of shape [n]
        As for :func:`expected_rates`.
    n_boot
        Replicates, each of as many rows of every group as there are.
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
    rng = np.random.default_rng(seed)
    observed = np.empty((1, len(names), 5))
    replicates = np.empty((n_boot, len(names), 5))
    for code in range(len(names)):
        rows = codes == code
        # Rows that are alike are one cell; resampling rows is drawing the counts of the cells.
        cells, counts = np.unique(
            np.stack([truth[rows], chosen[rows]], axis=1), axis=0, return_counts=True
        )
        label, share = cells.T
        values = np.stack([np.ones(len(cells)), label, 1 - label, share, share * label], axis=1)
        n = int(counts.sum())
        observed[0, code] = counts @ values
        replicates[:, code] = rng.multinomial(n, counts / n, size=n_boot) @ values
    accuracy, dp_diff, eo_diff = (float(value[0]) for value in _summary(observed))
    intervals = [percentile_interval(values) for values in _summary(replicates)]
    flips = float(np.mean(2 * chosen * (1 - chosen)))
    return Outcome(len(truth), accuracy, dp_diff, eo_diff, flips, *intervals)


def _rates(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Selection rate, TPR, FPR and accuracy, each [...], of sums of shape [..., 5].

    The sums are of rows, positives, negatives, chosen, and positives chosen.
    """
    n, positives, negatives, chosen, hits = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        alarms = chosen - hits
        return chosen / n, hits / positives, alarms / negatives, (hits + negatives - alarms) / n


def _summary(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """[b, groups, 5] sums to accuracy, DP difference and EO difference, each [b]."""
    selection, tpr, fpr, accuracy = _rates(sums)
    n = sums[..., 0]
    total = (accuracy * n).sum(axis=-1) / n.sum(axis=-1)
    return total, np.ptp(selection, axis=-1), np.maximum(np.ptp(tpr, axis=-1), np.ptp(fpr, axis=-1))


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
