"""Unsure because the matter is open, or because the model has seen too few such people?

An ensemble of models from bootstrap samples disagrees where data is thin (epistemic uncertainty,
which more data removes) and agrees on one half where the outcome is open (aleatoric, which it
does not). Then: who gains when a system declines to decide on what it is unsure of?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from common.errors import InputError, require
from common.statistics import mean_ci, proportion_ci
from labs.lab3_fairness.calibration import Floats, checked_scores
from labs.lab3_fairness.row_metrics import group_codes
from labs.lab3_fairness.scoring import Fit, scores
from labs.lab3_fairness.tabular import Task


def bootstrap_ensemble(
    make: Fit, train: Task, test: pd.DataFrame, *, n_members: int = 10, seed: int = 0
) -> Floats:
    """P(Y=1) of test rows by models fitted on bootstrap samples of the training rows.

    Parameters
    ----------
    make
        ``make(seed)`` returns an unfitted model.
    train
        Rows to draw from, with replacement, as many as there are.
    test
        Features of n rows.
    n_members
        Models.
    seed
        Of the samples; each model gets its own.

    Returns
    -------
    float64 array of shape [n_members, n]
    """
    require(n_members >= 2, "n_members", n_members, "must be >= 2", "try 10")
    rng = np.random.default_rng(seed)
    out = np.empty((n_members, len(test)))
    for member in range(n_members):
        drawn = train.rows(rng.integers(len(train), size=len(train)))
        out[member] = scores(make(seed + member).fit(drawn.features, drawn.labels), test)
    return out


@dataclass(frozen=True)
class Entropies:
    """Uncertainty of each row in bits, arrays of shape [n]; ``total = aleatoric + epistemic``."""

    total: Floats
    aleatoric: Floats
    epistemic: Floats


def entropy_decomposition(members: ArrayLike) -> Entropies:
    """Split the entropy of the mean prediction into mean entropy and disagreement.

    With members' predictions p_m and the binary entropy H: total ``H(mean p_m)``, aleatoric
    ``mean H(p_m)``, epistemic the difference, the mutual information of label and member.

    Parameters
    ----------
    members : array of shape [n_members, n]
        P(Y=1) by each member.

    References
    ----------
    Depeweg et al.: Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018, equation 1.
    """
    chances = np.asarray(members, dtype=float)
    if chances.ndim != 2 or len(chances) < 2:
        raise InputError(f"members {chances.shape} must be [n_members, n], at least two members")
    require(
        bool(((chances >= 0) & (chances <= 1)).all()), "members", "a value", "must be from 0 to 1"
    )
    total = _binary_entropy(chances.mean(axis=0))
    aleatoric = _binary_entropy(chances).mean(axis=0)
    return Entropies(total, aleatoric, np.maximum(0, total - aleatoric))


def uncertainty_by_group(members: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Mean uncertainty of each group in bits, with normal 95 % intervals of the epistemic part.

    The intervals are over rows, given the members.

    Returns
    -------
    DataFrame
        Indexed by group, sorted; n, total, aleatoric, epistemic, low, high, share (epistemic part
        of the total). ``low`` and ``high`` are NaN for a group of one row.
    """
    parts = entropy_decomposition(members)
    codes, names = group_codes(groups, len(parts.total))
    rows = []
    for code in range(len(names)):
        own = codes == code
        several = int(own.sum()) > 1
        mean, low, high = (
            mean_ci(parts.epistemic[own]) if several else (parts.epistemic[own][0], np.nan, np.nan)
        )
        total = float(parts.total[own].mean())
        rows.append(
            {
                "n": int(own.sum()),
                "total": total,
                "aleatoric": float(parts.aleatoric[own].mean()),
                "epistemic": mean,
                "low": low,
                "high": high,
                "share": mean / total if total > 0 else float("nan"),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))


def selective_accuracy(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    *,
    coverages: Sequence[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
) -> pd.DataFrame:
    """Accuracy of each group when only the surest share of all decisions is made.

    One bar for everybody: a decision is made where ``|p - 1/2|`` is among the largest ``coverage``
    of all rows (those equal to the last are made as well). Groups then abstain at different rates,
    and need not all gain.

    Parameters
    ----------
    y_true, probabilities, groups : arrays of shape [n]
        ``probabilities`` is P(Y=1); above 1/2 the decision is 1.
    coverages
        Shares of all rows, above 0 and at most 1.

    Returns
    -------
    DataFrame
        One row a coverage and group: coverage, group, n (decided), decided (share of the group),
        accuracy with Wilson limits low and high; NaN where nothing was decided.

    References
    ----------
    Jones, Sagawa, Koh, Kumar, Liang: Selective Classification Can Magnify Disparities Across
    Groups, ICLR 2021.
    """
    truth, chance = checked_scores(y_true, probabilities)
    codes, names = group_codes(groups, len(truth))
    correct = (chance > 0.5) == truth
    confidence = abs(chance - 0.5)
    ranked = np.sort(confidence)[::-1]
    rows: list[dict[str, object]] = []
    for coverage in coverages:
        require(0 < coverage <= 1, "coverage", coverage, "must be > 0 and <= 1", "try 0.8")
        decided = confidence >= ranked[max(1, round(coverage * len(truth))) - 1]
        for code, name in enumerate(names):
            own: NDArray[np.bool_] = codes == code
            n = int((own & decided).sum())
            hits = int((own & decided & correct).sum())
            low, high = proportion_ci(hits, n) if n else (float("nan"), float("nan"))
            rows.append(
                {
                    "coverage": coverage,
                    "group": name,
                    "n": n,
                    "decided": n / int(own.sum()),
                    "accuracy": hits / n if n else float("nan"),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def _binary_entropy(chance: Floats) -> Floats:
    return np.asarray((entr(chance) + entr(1 - chance)) / np.log(2), dtype=np.float64)
