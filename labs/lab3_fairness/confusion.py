"""Group rates by hand, from the confusion matrix: what every fairness metric is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.exercises import exercise
from labs.lab3_fairness.row_metrics import group_codes

RATES = ("base_rate", "selection_rate", "tpr", "fpr", "fnr", "ppv", "accuracy")


@exercise(
    "3.1",
    points=5,
    title="Group rates from the confusion matrix",
    hint="Count the four cells of each group first. Then ask of each rate: among whom? The "
    "denominator is what makes it a TPR and not a PPV.",
)
def group_rates(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """The rates of each group, from its true and false positives and negatives.

    ======================  ==========================  =================================
    rate                    formula                     reads
    ======================  ==========================  =================================
    base_rate               (TP + FN) / n               P(Y=1)
    selection_rate          (TP + FP) / n               P(Ŷ=1)
    tpr                     TP / (TP + FN)              P(Ŷ=1 | Y=1)
    fpr                     FP / (FP + TN)              P(Ŷ=1 | Y=0)
    fnr                     FN / (TP + FN)              P(Ŷ=0 | Y=1)
    ppv                     TP / (TP + FP)              P(Y=1 | Ŷ=1)
    accuracy                (TP + TN) / n               P(Ŷ=Y)
    ======================  ==========================  =================================

    ``binary_inputs`` checks the arguments, ``rate`` divides.

    Parameters
    ----------
    y_true, y_pred : arrays of shape [n]
        0 or 1.
    groups : array of shape [n]
        At least two groups.

    Returns
    -------
    DataFrame
        Indexed by group, sorted; columns ``n`` and those above. NaN where a denominator is 0.

    Raises
    ------
    InputError
        For values other than 0 and 1, lengths that differ, or a missing group.

    References
    ----------
    Verma and Rubin: Fairness Definitions Explained, FairWare 2018, section 3.
    """
    truth, predicted, codes, names = binary_inputs(y_true, y_pred, groups)
    rows = []
    for code in range(len(names)):
        actual, chosen = truth[codes == code], predicted[codes == code]
        tp = int(np.sum((actual == 1) & (chosen == 1)))
        fp = int(np.sum((actual == 0) & (chosen == 1)))
        fn = int(np.sum((actual == 1) & (chosen == 0)))
        tn = int(np.sum((actual == 0) & (chosen == 0)))
        n = tp + fp + fn + tn
        rows.append(
            {
                "n": n,
                "base_rate": rate(tp + fn, n),
                "selection_rate": rate(tp + fp, n),
                "tpr": rate(tp, tp + fn),
                "fpr": rate(fp, fp + tn),
                "fnr": rate(fn, tp + fn),
                "ppv": rate(tp, tp + fp),
                "accuracy": rate(tp + tn, n),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))


def demographic_parity_difference(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> float:
    """The largest difference in selection rate between two groups, 0 to 1.

    ``max_a P(Ŷ=1|A=a) - min_a P(Ŷ=1|A=a)``. Parameters as for :func:`group_rates`.
    """
    rates = group_rates(y_true, y_pred, groups)["selection_rate"]
    return float(rates.max() - rates.min())


@exercise(
    "3.3",
    points=3,
    title="Equalized odds difference",
    hint="Equalized odds asks for two equalities at once; the worse of the two violations counts. "
    "Every gap is between two groups, not between a group and everybody.",
)
def equalized_odds_difference(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike) -> float:
    """The larger of the gaps in true and in false positive rate between two groups, 0 to 1.

    ``max(max_a TPR_a - min_a TPR_a, max_a FPR_a - min_a FPR_a)``.

    Parameters
    ----------
    y_true, y_pred, groups : arrays of shape [n]
        As for :func:`group_rates`.

    Returns
    -------
    float
        NaN when any group has no positives or no negatives: one number cannot say whom it leaves
        out. :func:`fairness_metrics.equalized_odds` names those groups and compares the others.

    References
    ----------
    Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning, NeurIPS 2016,
    definition 2.1.
    """
    rates = group_rates(y_true, y_pred, groups)[["tpr", "fpr"]]
    if rates.isna().to_numpy().any():
        return float("nan")
    return float((rates.max() - rates.min()).max())


def rate(part: int, whole: int) -> float:
    """``part / whole``, NaN when the whole is 0: a rate among nobody is not 0."""
    return part / whole if whole else float("nan")


def binary_inputs(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], tuple[Any, ...]]:
    """Check what :func:`group_rates` is given; return the arrays, group codes and group names.

    Raises
    ------
    InputError
        For values other than 0 and 1, lengths that differ, or a missing group.
    """
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise InputError(f"y_true {truth.shape} and y_pred {predicted.shape} must both be [n]")
    for name, values in (("y_true", truth), ("y_pred", predicted)):
        others = values[~np.isin(values, (0, 1))]
        if others.size:
            raise InputError(
                f"{name} holds {others[0]!r}; use 0 and 1 (a threshold makes scores so)"
            )
    codes, names = group_codes(groups, len(predicted))
    return truth, predicted, codes, names
