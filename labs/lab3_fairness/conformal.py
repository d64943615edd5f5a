"""Prediction sets that hold the truth 90 % of the time: on average, or for every group.

Split conformal prediction needs nothing of the model. Its promise is about everybody together:
a group for which the model is worse is covered less, and one for which it is better pays for it.
One threshold a group keeps the promise for each group, and shows its price in larger sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from common.errors import InputError, require
from common.exercises import exercise
from common.statistics import proportion_ci
from labs.lab3_fairness.calibration import Floats
from labs.lab3_fairness.row_metrics import group_codes

Sets = NDArray[np.bool_]


@exercise(
    "3.16",
    points=5,
    title="The quantile of split conformal prediction",
    hint="The score of the next row is equally likely to fall into each of the n + 1 gaps between "
    "the n calibration scores. How many scores must lie at or below the threshold?",
)
def conformal_quantile(scores: ArrayLike, alpha: float) -> float:
    """The threshold that a new row's score exceeds with probability at most alpha.

    The ``k``-th smallest of the n scores, ``k = ceil((n + 1) (1 - alpha))``; infinity when k > n:
    so few rows cannot promise that much, and the set holds every label. ``checked_alpha`` and
    ``conformal_rank`` help: the latter computes k without rounding errors.

    Parameters
    ----------
    scores : array of shape [n]
        Nonconformity of calibration rows with their true label; large is strange. From a model
        that did not see the rows.
    alpha
        Rate of misses, between 0 and 1.

    Returns
    -------
    float
        For exchangeable rows, P(new score <= threshold) is at least ``1 - alpha``, and below
        ``1 - alpha + 1 / (n + 1)`` if scores have no ties.

    Raises
    ------
    InputError
        For alpha outside 0 to 1, no scores, or NaN.

    References
    ----------
    Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005. Angelopoulos and Bates:
    A Gentle Introduction to Conformal Prediction, 2021, section 1 and appendix D.
    """
    checked_alpha(alpha)
    values = np.asarray(scores, dtype=float)
    require(values.ndim == 1 and values.size > 0, "shape of scores", values.shape, "must be [n]")
    require(not np.isnan(values).any(), "NaN in scores", True, "must not be", "leave them out")
    rank = conformal_rank(len(values), alpha)
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else float("inf")


def conformal_rank(n: int, alpha: float) -> int:
    """``ceil((n + 1) (1 - alpha))``, at least 1; written so that 20 times 0.95 is 19, not 20."""
    return max(1, n + 1 - int(np.floor((n + 1) * alpha + 1e-9)))


def coverage_law(n_calibration: int, n_test: int, alpha: float) -> Any:
    """Distribution of the number of covered test rows, over both samples, for scores without ties.

    Given the calibration rows, coverage is ``Beta(k, n + 1 - k)`` with ``k = conformal_rank``; the
    count on ``n_test`` rows is then beta-binomial. With 100 rows and alpha = 0.1, coverage has a
    standard deviation of 0.03: the promise is about the average over calibration sets.

    Returns
    -------
    frozen scipy.stats.betabinom
        ``.interval(0.95)``, ``.mean()``, ``.cdf`` in rows.

    Raises
    ------
    InputError
        For n too small for alpha: the sets then hold every label.

    References
    ----------
    Vovk: Conditional validity of inductive conformal predictors, ACML 2012, proposition 2.
    """
    checked_alpha(alpha)
    require(n_test >= 1, "n_test", n_test, "must be >= 1")
    rank = conformal_rank(n_calibration, alpha)
    require(
        rank <= n_calibration,
        "n_calibration",
        n_calibration,
        f"must be >= {int(np.ceil(1 / alpha - 1e-9)) - 1} for alpha = {alpha}",
    )
    return stats.betabinom(n_test, rank, n_calibration + 1 - rank)


def lac_scores(probabilities: ArrayLike) -> Floats:
    """Nonconformity of every label, ``1 - p``, [n, labels] of probabilities [n, labels].

    References
    ----------
    Sadinle, Lei, Wasserman: Least Ambiguous Set-Valued Classifiers, JASA 2019.
    """
    return 1 - checked_probabilities(probabilities)


def aps_scores(probabilities: ArrayLike, uniform: ArrayLike) -> Floats:
    """Nonconformity of every label by adaptive prediction sets, [n, labels].

    Probability of all likelier labels, plus a random share of the label's own: the same ``uniform``
    for every label of a row. Without the random share, two labels make it useless: the less
    likely one always has score 1.

    Parameters
    ----------
    probabilities : array of shape [n, labels]
    uniform : array of shape [n]
        Uniform numbers from 0 to 1, new ones for new rows.

    References
    ----------
    Romano, Sesia, Candès: Classification with Valid and Adaptive Coverage, NeurIPS 2020.
    """
    chances = checked_probabilities(probabilities)
    u = np.asarray(uniform, dtype=float)
    require(u.shape == (len(chances),), "shape of uniform", u.shape, f"must be ({len(chances)},)")
    order = np.argsort(-chances, axis=1, kind="stable")
    ranked = np.take_along_axis(chances, order, axis=1)
    total = np.cumsum(ranked, axis=1) - u[:, None] * ranked
    out = np.empty_like(total)
    np.put_along_axis(out, order, total, axis=1)
    return out


def of_label(scores: Floats, labels: ArrayLike) -> Floats:
    """The score of each row's true label, [n], of scores [n, labels]."""
    y = np.asarray(labels)
    if y.shape != (len(scores),) or not np.isin(y, np.arange(scores.shape[1])).all():
        raise InputError(f"labels {y.shape} must be [{len(scores)}] of 0 to {scores.shape[1] - 1}")
    return np.asarray(np.take_along_axis(scores, y.astype(np.intp)[:, None], axis=1)[:, 0])


def split_conformal(
    calibration: Floats, labels: ArrayLike, test: Floats, *, alpha: float = 0.1
) -> Sets:
    """Sets of a test row's labels whose score is at most the threshold, bool [n_test, labels].

    Parameters
    ----------
    calibration, test : arrays of shape [n, labels]
        Scores of every label from :func:`lac_scores` or :func:`aps_scores`.
    labels : array of shape [n_calibration]
        True labels of the calibration rows, 0 to labels - 1.
    alpha
        Rate of misses.

    Raises
    ------
    InputError
        For NaN, or test rows with another number of labels: a NaN is below no threshold, and would
        rule its label out without having tested it.
    """
    known, new = _checked_scores(calibration, test)
    return np.asarray(new <= conformal_quantile(of_label(known, labels), alpha))


def mondrian_conformal(
    calibration: Floats,
    labels: ArrayLike,
    calibration_groups: ArrayLike,
    test: Floats,
    test_groups: ArrayLike,
    *,
    alpha: float = 0.1,
) -> Sets:
    """As :func:`split_conformal`, with a threshold from each group's own calibration rows.

    A group with fewer than ``1 / alpha - 1`` calibration rows gets sets of all labels: that is
    what so few rows can promise. One without any is an InputError, and so is a missing group.

    References
    ----------
    Vovk, Gammerman, Shafer 2005, section 4.5 (Mondrian conformal predictors).
    """
    calibrated, new = _checked_scores(calibration, test)
    own = of_label(calibrated, labels)
    codes, names = group_codes(calibration_groups, len(own))
    there = np.asarray(test_groups)
    if there.shape != (len(new),):
        raise InputError(f"test_groups has {len(there)} rows, test has {len(new)}")
    missing = np.flatnonzero(pd.isna(there))
    if missing.size:
        raise InputError(
            f"test_groups[{missing[0]}] is missing, in {missing.size} of {len(new)} rows; give "
            "them a group of their own in the calibration rows as well"
        )
    sets = np.zeros(new.shape, dtype=bool)
    known = np.zeros(len(new), dtype=bool)
    for code, name in enumerate(names):
        rows = there == name
        sets[rows] = new[rows] <= conformal_quantile(own[codes == code], alpha)
        known |= rows
    if not known.all():
        raise InputError(f"group {str(there[~known][0])!r} has no calibration rows; pool it")
    return sets


def _checked_scores(calibration: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Both as float64 [n, labels] without NaN; InputError otherwise."""
    known, new = np.asarray(calibration, dtype=float), np.asarray(test, dtype=float)
    for name, values in (("calibration", known), ("test", new)):
        if values.ndim != 2 or values.shape[1] != known.shape[-1]:
            raise InputError(f"{name} {values.shape} must be [n, {known.shape[-1]}], one a label")
        if np.isnan(values).any():
            row, label = np.argwhere(np.isnan(values))[0]
            raise InputError(f"{name}[{row}, {label}] is NaN; score the row again or leave it out")
    return known, new


def coverage_by_group(sets: Sets, labels: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Coverage of each group with Wilson 95 % intervals, and what the sets look like.

    Parameters
    ----------
    sets : bool array of shape [n, labels]
    labels : array of shape [n]
        0 to labels - 1.
    groups : array of shape [n]

    Returns
    -------
    DataFrame
        Indexed by group, sorted, the last row ``(all)``; n, coverage, low, high, mean_size,
        several (share of sets with more than one label: no decision), empty. The interval is that
        of the test rows; the threshold's own scatter comes on top, see :func:`coverage_law`.
    """
    chosen = np.asarray(sets, dtype=bool)
    hit = of_label(chosen.astype(float), labels) == 1
    codes, names = group_codes(groups, len(chosen))
    rows = {}
    for name, own in [
        *((name, codes == code) for code, name in enumerate(names)),
        ("(all)", np.ones(len(hit), dtype=bool)),
    ]:
        size = chosen[own].sum(axis=1)
        low, high = proportion_ci(int(hit[own].sum()), int(own.sum()))
        rows[name] = {
            "n": int(own.sum()),
            "coverage": float(hit[own].mean()),
            "low": low,
            "high": high,
            "mean_size": float(size.mean()),
            "several": float((size > 1).mean()),
            "empty": float((size == 0).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group").astype({"n": int})


def two_labels(scores: ArrayLike) -> Floats:
    """Probabilities of the labels 0 and 1, [n, 2], of P(Y=1) [n]."""
    chance = np.asarray(scores, dtype=float)
    return checked_probabilities(np.stack([1 - chance, chance], axis=-1))


def checked_probabilities(probabilities: ArrayLike) -> Floats:
    """Probabilities as float64 [n, labels], rows sum to 1; InputError otherwise."""
    values = np.asarray(probabilities, dtype=float)
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(f"probabilities {values.shape} must be [n, labels], at least two labels")
    bad = ~((values >= 0) & (values <= 1)).all(axis=1) | (abs(values.sum(axis=1) - 1) > 1e-6)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"probabilities[{row}] = {values[row]} is no distribution; rescale it")
    return values


def checked_alpha(alpha: float) -> None:
    """InputError unless 0 < alpha < 1."""
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.1")
