"""One threshold a group, chosen on validation scores: demographic parity and equalized odds.

Post-processing leaves the model alone and changes the decision. It needs scores, labels and
groups of validation rows to choose the rule, and the group of every person to apply it. By hand
here, and by fairlearn's ``ThresholdOptimizer``, which is the same computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fairlearn.postprocessing import ThresholdOptimizer
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from common.errors import InputError, require
from labs.lab3_fairness.row_metrics import group_codes

Array = NDArray[np.float64]
GRID = 1000  # points of the common rate that are tried; fairlearn's default

Constraint = Literal["demographic_parity", "equalized_odds"]


def rows_to_decide(scores: ArrayLike, groups: ArrayLike) -> tuple[Array, NDArray[Any]]:
    """Scores and groups of rows that a rule is to decide about, both of shape [n].

    Raises
    ------
    InputError
        For lengths that differ, or a score that is not finite. NaN is above no threshold and below
        none: a comparison would refuse or accept the person, and nobody would know why.
    """
    values, members = np.asarray(scores, dtype=float), np.asarray(groups)
    if values.shape != members.shape or values.ndim != 1:
        raise InputError(f"scores {values.shape} and groups {members.shape} must both be [n]")
    unknown = np.flatnonzero(~np.isfinite(values))
    if unknown.size:
        raise InputError(
            f"scores[{unknown[0]}] = {values[unknown[0]]} is not finite, in {unknown.size} of "
            f"{len(values)} rows; score them again, or have a person decide"
        )
    return values, members


@dataclass(frozen=True)
class GroupMixture:
    """The rule of one group: two thresholds mixed, and a share of people whose score is ignored.

    ``P(Ŷ=1) = ignore * constant + (1 - ignore) * (weight * [s > low] + (1 - weight) * [s > high])``
    """

    low: float
    high: float
    weight: float
    ignore: float = 0.0
    constant: float = 0.0

    def positive(self, scores: Array) -> Array:
        """P(Ŷ=1) of each score, float64 of shape [n]."""
        by_score = self.weight * (scores > self.low) + (1 - self.weight) * (scores > self.high)
        return np.asarray(self.ignore * self.constant + (1 - self.ignore) * by_score)


@dataclass(frozen=True)
class GroupThresholds:
    """A rule for each group."""

    rules: dict[Any, GroupMixture]

    def positive(self, scores: ArrayLike, groups: ArrayLike) -> Array:
        """P(Ŷ=1) of each row, float64 of shape [n].

        InputError for a score that is not finite, or a group without a rule.
        """
        values, members = rows_to_decide(scores, groups)
        out = np.full(len(values), np.nan)
        for group, rule in self.rules.items():
            rows = members == group
            out[rows] = rule.positive(values[rows])
        if np.isnan(out).any():
            unknown = members[np.isnan(out)].tolist()[0]
            raise InputError(f"group {unknown!r} has no threshold; known: {list(self.rules)}")
        return out


@dataclass(frozen=True)
class GroupCurve:
    """What each threshold of a group does: people are accepted from the highest score down.

    Arrays of shape [k], one entry a threshold ``score > thresholds[i]``, from accepting nobody to
    accepting everybody; ``weight`` is the group's share of all rows.
    """

    thresholds: Array
    selection: Array
    tpr: Array
    fpr: Array
    accuracy: Array
    weight: float


def group_curves(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> dict[Any, GroupCurve]:
    """The curve of each group.

    Parameters
    ----------
    scores, labels, groups : arrays of shape [n]
        Validation rows: scores finite and of rows the model was not trained on; labels 0 or 1, or
        P(Y=1) of the row.

    Raises
    ------
    InputError
        For lengths that differ, labels outside 0 to 1, fewer than two groups, or a group with
        labels of one class only.
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if values.shape != truth.shape or values.ndim != 1:
        raise InputError(f"scores {values.shape} and labels {truth.shape} must both be [n]")
    require(bool(np.isfinite(values).all()), "scores", "NaN or infinite", "must be finite")
    outside = truth[~((truth >= 0) & (truth <= 1))]
    require(not outside.size, "labels", outside[:1].tolist(), "must be from 0 to 1")
    codes, names = group_codes(groups, len(values))
    curves = {}
    for code, name in enumerate(names):
        rows = codes == code
        n, positives = int(rows.sum()), float(truth[rows].sum())
        if not 0 < positives < n:
            raise InputError(
                f"group {name!r} has {positives:g} positives in {n} rows, so its TPR or FPR does "
                "not exist; merge the group with another, or leave it out and say so"
            )
        distinct, where = np.unique(-values[rows], return_inverse=True)
        hits = np.concatenate([[0], np.cumsum(np.bincount(where, weights=truth[rows]))])
        chosen = np.concatenate([[0], np.cumsum(np.bincount(where))])
        # Halfway between two scores, so that a rounding of the score moves nobody.
        steps = np.concatenate([[np.inf], -distinct, [-np.inf]])
        thresholds = np.concatenate([[np.inf], (steps[1:-1] + steps[2:]) / 2])
        curves[name] = GroupCurve(
            thresholds,
            chosen / n,
            hits / positives,
            (chosen - hits) / (n - positives),
            (hits + (n - positives) - (chosen - hits)) / n,
            n / len(values),
        )
    return curves


def parity_thresholds(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> GroupThresholds:
    """Demographic parity with one threshold a group, without a coin.

    Of all common selection rates the most accurate one; in each group the threshold is the
    quantile of the scores that accepts that share. Parameters as for :func:`group_curves`.
    """
    curves = group_curves(scores, labels, groups)
    rates = np.linspace(0, 1, GRID + 1)
    nearest = {
        name: np.abs(curve.selection[:, None] - rates).argmin(axis=0)
        for name, curve in curves.items()
    }
    accuracy = sum(c.weight * c.accuracy[nearest[name]] for name, c in curves.items())
    best = int(np.argmax(accuracy))
    return GroupThresholds(
        {
            name: _threshold(float(curve.thresholds[nearest[name][best]]))
            for name, curve in curves.items()
        }
    )


def parity_mixture(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> GroupThresholds:
    """Demographic parity as fairlearn does it: between two thresholds a coin is tossed.

    A group's accuracy against its selection rate is a curve; mixing two thresholds reaches every
    point of its upper hull. The common rate is the one with the highest accuracy over all.
    """
    curves = group_curves(scores, labels, groups)
    grid = np.linspace(0, 1, GRID + 1)
    hulls = {name: upper_hull(c.selection, c.accuracy) for name, c in curves.items()}
    accuracy = sum(
        c.weight * np.interp(grid, c.selection[hulls[name]], c.accuracy[hulls[name]])
        for name, c in curves.items()
    )
    best = float(grid[int(np.argmax(accuracy))])
    return GroupThresholds(
        {
            name: _mixed(c.thresholds[hulls[name]], c.selection[hulls[name]], best)
            for name, c in curves.items()
        }
    )


def odds_mixture(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> GroupThresholds:
    """Equalized odds as Hardt et al. and fairlearn do it.

    All groups must stand on one point (FPR, TPR). Everything below the hull of a group's ROC
    curve can be reached by that group, so the best common points lie on the lowest hull. A group
    with a better curve is brought down: a share ``ignore`` of its people is decided without
    looking at the score, with the probability ``constant``, equal to the common FPR.
    """
    curves = group_curves(scores, labels, groups)
    truth = np.asarray(labels)
    base_rate = float(truth.mean())
    grid = np.linspace(0, 1, GRID + 1)
    hulls = {name: upper_hull(c.fpr, c.tpr) for name, c in curves.items()}
    tpr = {
        name: np.interp(grid, c.fpr[hulls[name]], c.tpr[hulls[name]]) for name, c in curves.items()
    }
    # A vertical start of a hull has two TPR at FPR 0; np.interp takes the upper one.
    lowest = np.min(list(tpr.values()), axis=0)
    accuracy = np.around(base_rate * lowest + (1 - base_rate) * (1 - grid), 15)
    best = int(np.argmax(accuracy))
    fpr = float(grid[best])
    rules = {}
    for name, curve in curves.items():
        above = float(tpr[name][best])
        ignore = 0.0 if above == fpr else (above - float(lowest[best])) / (above - fpr)
        plain = _mixed(curve.thresholds[hulls[name]], curve.fpr[hulls[name]], fpr)
        rules[name] = GroupMixture(plain.low, plain.high, plain.weight, ignore, fpr)
    return GroupThresholds(rules)


def upper_hull(x: Array, y: Array) -> NDArray[np.intp]:
    """Indices of the corners of the upper convex hull of points, x ascending.

    Andrew's monotone chain. At equal x only the highest point can be a corner, except at the
    first and last x, where it alone remains.
    """
    order = np.lexsort((y, x))
    keep: list[int] = []
    for index in order:
        if keep and x[keep[-1]] == x[index]:
            keep.pop()
        while len(keep) >= 2:
            first, middle = keep[-2], keep[-1]
            turn = (y[middle] - y[first]) * (x[index] - x[first])
            if turn > (y[index] - y[first]) * (x[middle] - x[first]):
                break
            keep.pop()
        keep.append(int(index))
    return np.array(keep, dtype=np.intp)


class GivenScores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator whose only feature is the score itself: for tools that insist on a model."""

    def fit(self, features: ArrayLike, labels: ArrayLike) -> GivenScores:
        """Learn nothing."""
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, features: ArrayLike) -> Array:
        """(1 - score, score), float64 of shape [n, 2], from features of shape [n, 1]."""
        score = np.asarray(features, dtype=float)[:, 0]
        return np.stack([1 - score, score], axis=1)


def fairlearn_positive(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    new_scores: ArrayLike,
    new_groups: ArrayLike,
    constraint: Constraint,
) -> Array:
    """P(Ŷ=1) of new rows by fairlearn's ``ThresholdOptimizer`` fitted on validation scores.

    ``predict`` tosses the coin; the probability behind it is ``_pmf_predict``, which is private,
    and is not ``predict_proba``: it is the chance of a decision, not of an outcome.

    Parameters
    ----------
    scores, labels, groups : arrays of shape [n]
        Validation rows.
    new_scores, new_groups : arrays of shape [m]
        Rows to decide about.
    constraint
        Which rates are made equal.

    Returns
    -------
    float64 array of shape [m]
    """
    values, members = rows_to_decide(new_scores, new_groups)
    column = np.asarray(scores, dtype=float)[:, None]
    optimizer = ThresholdOptimizer(
        estimator=GivenScores().fit(column, labels),
        constraints=constraint,
        prefit=True,
        predict_method="predict_proba",
        grid_size=GRID,
    )
    optimizer.fit(column, np.asarray(labels), sensitive_features=np.asarray(groups))
    chances = optimizer._pmf_predict(values[:, None], sensitive_features=members)
    return np.clip(np.asarray(chances[:, 1], dtype=np.float64), 0, 1)


def _threshold(value: float) -> GroupMixture:
    return GroupMixture(value, value, 1.0)


def _mixed(thresholds: Array, rates: Array, target: float) -> GroupMixture:
    """Mix the two corners of a hull around ``target``, ascending in ``rates``."""
    right = int(np.clip(np.searchsorted(rates, target, side="left"), 1, len(rates) - 1))
    span = float(rates[right] - rates[right - 1])
    weight = float(np.clip((target - rates[right - 1]) / span, 0, 1))
    return GroupMixture(float(thresholds[right]), float(thresholds[right - 1]), weight)
