"""Decisions without a coin: what a lottery buys, and three ways to do without it.

A rule that tosses a coin treats two equal people differently, and one person differently on two
days. Yet where a group must stand below its own ROC curve, no threshold will do. What can:

* **bands**: accept above one score, and again in a second band below it; the people between are
  passed over. Deterministic and plain to see, and plain to see that it is unjust within the group.
* **a hash of the person's row** as the coin: the same person gets the same answer, but which one is
  as arbitrary as the coin, and another hour of work a week tosses it again.
* **rounding** the few bins in which a vertex of the linear programme tosses a coin.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab3_fairness.postprocessing import GroupCurve, group_curves, rows_to_decide
from labs.lab3_fairness.relaxed_odds import Array, BinnedRule, bin_rates, isotonic_labels

STEPS = 4000  # shares of a group at which a band may begin or end
TRIES = 60  # sizes of the upper part that are compared
NEAR = 0.002  # a threshold within this of the TPR asked for is preferred to a band


@dataclass(frozen=True)
class Band:
    """Accept a score above ``top``, and one above ``low`` up to ``high``: low <= high <= top.

    With ``high`` equal to ``top`` it is a threshold. ``passed_over`` is the share of the group
    between ``high`` and ``top``, rejected though lower scores are accepted; ``inversion`` is how
    much higher than an accepted score a rejected one can be (0 for a threshold).
    """

    top: float
    high: float
    low: float
    passed_over: float

    @property
    def inversion(self) -> float:
        """The largest difference in score by which a rejected person was ahead."""
        return 0.0 if self.passed_over == 0 else self.top - self.low


@dataclass(frozen=True)
class BandRule:
    """A band for each group."""

    bands: dict[Any, Band]

    def positive(self, scores: ArrayLike, groups: ArrayLike) -> Array:
        """0 or 1 for each row, float64 of shape [n].

        InputError for a score that is not finite, or a group without a band.
        """
        values, members = rows_to_decide(scores, groups)
        out = np.full(len(values), np.nan)
        for group, band in self.bands.items():
            rows = members == group
            above, between = values[rows] > band.top, values[rows] > band.low
            out[rows] = above | (between & (values[rows] <= band.high))
        if np.isnan(out).any():
            unknown = members[np.isnan(out)].tolist()[0]
            raise InputError(f"group {unknown!r} has no band; known: {list(self.bands)}")
        return out


def band_rule(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, roc_points: ArrayLike
) -> BandRule:
    """A deterministic rule at given points of ROC space: a threshold where one reaches the point.

    A point below a group's curve is reached with a band. A band has three ends and the point fixes
    two, so one is free: of all bands through the point the one that passes over the fewest people
    is taken. They are all equally accurate, because accuracy depends on the point alone. The
    curves are smoothed (isotonic regression): a free end chosen on counts would go where the
    validation rows have few positives by chance.

    Parameters
    ----------
    scores, labels, groups : arrays of shape [n]
        Validation rows.
    roc_points : array of shape [G, 2]
        (FPR, TPR) for each group in sorted order, such as :attr:`BinnedRule.roc_points`.

    Raises
    ------
    InputError
        For points outside 0 to 1 or another number of them than groups, and as
        :func:`labs.lab3_fairness.postprocessing.group_curves`.
    """
    curves = group_curves(scores, isotonic_labels(scores, labels, groups), groups)
    points = np.asarray(roc_points, dtype=float)
    require(
        points.shape == (len(curves), 2), "roc_points", points.shape, f"must be [{len(curves)}, 2]"
    )
    require(bool(((points >= 0) & (points <= 1)).all()), "roc_points", points, "must be 0 to 1")
    truth, members = np.asarray(labels), np.asarray(groups)
    return BandRule(
        {
            name: _band(curve, float(truth[members == name].mean()), *map(float, point))
            for (name, curve), point in zip(curves.items(), points)
        }
    )


def hashed_coin(features: pd.DataFrame, salt: str) -> Array:
    """A number from 0 to 1 for each row that depends on nothing but the row and the salt.

    BLAKE2b of the row as text. Equal rows have equal numbers; other rows, or another salt, have
    unrelated ones.

    Parameters
    ----------
    features
        The rows, n of them. Whoever can change a column can toss again.
    salt
        Secret, or everybody can compute the outcome beforehand.

    Returns
    -------
    float64 array of shape [n]
    """
    require(bool(salt), "salt", salt, "must not be empty", "draw one, and keep it secret")
    rows = map("\x1f".join, zip(*(features[column].astype(str) for column in features)))
    key = salt.encode()[:64]
    words = [hashlib.blake2b(row.encode(), digest_size=7, key=key).digest() for row in rows]
    return np.array([int.from_bytes(word, "big") for word in words], dtype=float) / 2.0**56


def decide_by_hash(positive: ArrayLike, features: pd.DataFrame, salt: str) -> Array:
    """0 or 1 for each row: the coin of a randomised rule, tossed once and for all.

    Parameters
    ----------
    positive : array of shape [n]
        P(Ŷ=1) by the randomised rule.
    features, salt
        As for :func:`hashed_coin`.
    """
    chances = np.asarray(positive, dtype=float)
    if chances.shape != (len(features),):
        raise InputError(f"positive {chances.shape} must be [{len(features)}], one a row")
    outside = np.flatnonzero(~((chances >= 0) & (chances <= 1)))
    if outside.size:
        raise InputError(
            f"positive[{outside[0]}] = {chances[outside[0]]} is no probability, 0 to 1; "
            "no coin can decide about the row"
        )
    decided = (chances >= 1).astype(float)
    loose = np.flatnonzero((chances > 0) & (chances < 1))
    decided[loose] = hashed_coin(features.iloc[loose], salt) < chances[loose]
    return decided


def rounded(rule: BinnedRule) -> BinnedRule:
    """Accept a bin where the rule accepts at least half of it, and nobody elsewhere.

    No group's rate moves by more than half the shares of its bins that were fractional: little
    after :func:`labs.lab3_fairness.relaxed_odds.relaxed_odds`, whose vertex has at most three, and
    without limit after the monotone programme, which has one chance in a wide zone.
    """
    accept: NDArray[np.float64] = (rule.accept >= 0.5).astype(float)
    positives, negatives = rule.bins.positives, rule.bins.negatives
    correct = negatives.sum() + (accept * (positives - negatives)).sum()
    gaps = [float(np.ptp(rate)) for rate in bin_rates(accept, positives, negatives)]
    return replace(
        rule,
        accept=accept,
        accuracy=float(correct / (positives.sum() + negatives.sum())),
        dp_diff=gaps[0],
        eo_diff=max(gaps[1:]),
    )


def _band(curve: GroupCurve, base_rate: float, fpr: float, tpr: float) -> Band:
    selected = base_rate * tpr + (1 - base_rate) * fpr
    share = np.linspace(0, 1, STEPS + 1)

    def tpr_at(accepted: Array | float) -> Array:
        return np.asarray(np.interp(np.asarray(accepted), curve.selection, curve.tpr))

    def score_at(accepted: float) -> float:
        # The threshold that accepts at most this share: several people can have one score.
        index = int(np.searchsorted(curve.selection, accepted + 1e-9, side="right")) - 1
        return float(curve.thresholds[index])

    threshold = score_at(selected)
    best = Band(threshold, threshold, threshold, 0.0)
    if float(tpr_at(selected)) <= tpr + NEAR:
        return best
    passed_over = np.inf
    for top in np.linspace(0, selected, TRIES, endpoint=False):
        width = selected - top
        starts = share[(share >= top) & (share <= 1 - width)]
        # TPR that a band of this width adds, falling as it moves down the scores.
        added = tpr_at(starts + width) - tpr_at(starts)
        reached = np.flatnonzero(added <= tpr - tpr_at(top))
        if not reached.size:
            continue
        high = float(starts[reached[0]])
        if high - top < passed_over:
            passed_over = high - float(top)
            best = Band(score_at(float(top)), score_at(high), score_at(high + width), passed_over)
    return best
