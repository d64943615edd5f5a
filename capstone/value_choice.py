"""The value's weights, chosen on the validation item and never on the test item.

A weight is a product decision, so the grid is small and its signs are fixed. NDCG of what people
came to next cannot see what a dislike costs them; weights that it cannot tell apart from the best
are therefore decided by what the first ten promise: more likes and fewer dislikes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from capstone import calibration
from capstone.calibration import Platt
from capstone.quality import TOP, Answers
from capstone.rank_metrics import list_ndcg
from capstone.value import ValueWeights

LIKES, LOVES, DISLIKES = (0.0, 1.0, 3.0), (0.0, 1.0), (0.0, -0.5, -1.0)
KEPT = 0.99
"""Share of the best validation NDCG below which no setting is considered."""


@dataclass(frozen=True)
class TriedWeights:
    """One setting on the validation items.

    Attributes
    ----------
    ndcg
        Mean NDCG@10.
    satisfaction
        Mean of P(like) - P(dislike) over the first ten, given that they are watched.
    """

    weights: ValueWeights
    ndcg: float
    satisfaction: float


def choose_weights(
    validation: Answers, maps: Mapping[str, Platt]
) -> tuple[ValueWeights, tuple[TriedWeights, ...]]:
    """The setting of the grid with the most satisfaction that keeps 99 % of the best NDCG.

    Parameters
    ----------
    validation
        :func:`capstone.quality.ask` with ``held_out=VALIDATION``.
    maps
        Calibration of each head; the value multiplies probabilities, so it needs them right.

    Returns
    -------
    (weights, tried)
        ``tried`` holds the whole grid, the chosen one first.
    """
    scores = calibration.calibrated(maps, validation.scores)
    pleased = np.asarray(scores["like"]) - np.asarray(scores["dislike"])
    tried = []
    for like, love, dislike in product(LIKES, LOVES, DISLIKES):
        weights = ValueWeights(1.0, like, love, dislike)
        order = np.argsort(-weights.value(scores), axis=1, kind="stable")[:, :TOP]
        lists = np.take_along_axis(validation.candidates, order, axis=1)
        tried.append(
            TriedWeights(
                weights,
                float(list_ndcg(lists, validation.target).mean()),
                float(np.take_along_axis(pleased, order, axis=1).mean()),
            )
        )
    least = KEPT * max(each.ndcg for each in tried)
    tried.sort(key=lambda each: (each.ndcg < least, -each.satisfaction))
    return tried[0].weights, tuple(tried)
