"""Neighbours of an item: what goes with it in other people's histories.

Three ways to say "goes with", from the same training interactions: the cosine of the items' users,
visits that follow one another, and the weights of a regression (EASE), which asks what an item
still explains when the others are known. Which of them is served is chosen on validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.baselines import ease
from capstone.data import Ints, Sequence
from common.errors import require

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """For each item the strongest others.

    Attributes
    ----------
    ids : int32 [n_items + 1, m]
        Strongest first; 0 where there are fewer.
    weights : float32 [n_items + 1, m]
        > 0; 0 at padding.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    def dense(self) -> NDArray[np.float32]:
        """[n_items + 1, n_items + 1], zero where two items are no neighbours."""
        n = len(self.ids)
        table = np.zeros((n, n), dtype=np.float32)
        np.put_along_axis(table, self.ids.astype(np.int64), self.weights, axis=1)
        table[:, 0] = 0
        return table


def strongest(weights: Floats, m: int) -> Neighbours:
    """The ``m`` largest positive weights of each row; ties in order of the id.

    Parameters
    ----------
    weights : [n_items + 1, n_items + 1]
        Row i: how much each item goes with item i. Row and column 0 and the diagonal are ignored.
    """
    require(1 <= m < len(weights), "m", m, f"must be from 1 to {len(weights) - 1}, the other items")
    kept = np.where(weights > 0, weights, 0.0)
    np.fill_diagonal(kept, 0)
    kept[0], kept[:, 0] = 0, 0
    order = np.argsort(-kept, axis=1, kind="stable")[:, :m]
    chosen = np.take_along_axis(kept, order, axis=1)
    ids = np.where(chosen > 0, order, 0)
    return Neighbours(ids.astype(np.int32), chosen.astype(np.float32))


def cosine(train: Floats, *, shrinkage: float) -> Floats:
    """Cosine of the items' users, shrunk: ``n_ij / (sqrt(n_i n_j) + shrinkage)``.

    Two items that one and the same person watched have cosine 1. The shrinkage asks for evidence:
    with few common users the weight is near 0 (Bell & Koren 2007, section 3, shrink alike).

    Parameters
    ----------
    train : [n_users, n_items + 1]
        Binary.
    shrinkage
        >= 0, in users.
    """
    require(shrinkage >= 0, "shrinkage", shrinkage, "must be >= 0", "try 20")
    return _normalised(train.T @ train, train.sum(axis=0), shrinkage)


def co_visitation(
    train: tuple[Sequence, ...], n_items: int, *, window: int, shrinkage: float
) -> Floats:
    """Visits of j at most ``window`` steps after i, near ones counting more, shrunk like cosine.

    A visit d steps later counts 1 / d. The order is kept: j after i is not i after j, which is
    what a cosine cannot say (an episode leads to the next one, not back).
    """
    require(window >= 1, "window", window, "must be >= 1", "try 10")
    require(shrinkage >= 0, "shrinkage", shrinkage, "must be >= 0", "try 20")
    counts = np.zeros((n_items + 1) ** 2)
    visits = np.zeros(n_items + 1)
    for sequence in train:
        visits += np.bincount(sequence.items, minlength=n_items + 1)
    for distance in range(1, window + 1):
        pairs = [s.items[:-distance] * (n_items + 1) + s.items[distance:] for s in train]
        counts += np.bincount(np.concatenate(pairs), minlength=len(counts)) / distance
    return _normalised(counts.reshape(n_items + 1, -1), visits, shrinkage)


def ease_weights(train: Floats, *, regularisation: float) -> Floats:
    """The item-item weights of EASE; the feed keeps the positive ones of each item's row."""
    return ease(train, regularisation)


def history_weights(
    known: tuple[Sequence, ...], n_items: int, *, recent: int, half_life: float
) -> Floats:
    """What each item of each history counts: [n_users, n_items + 1].

    ``2^(-age / half_life)`` for the newest ``recent`` items, age 0 for the newest, as in
    :func:`capstone.sources.item_to_item`; an item that is there twice counts twice.
    """
    weights = np.zeros((len(known), n_items + 1))
    for user, sequence in enumerate(known):
        items: Ints = sequence.items[-recent:]
        age = np.arange(len(items) - 1, -1, -1)
        np.add.at(weights[user], items, np.exp2(-age / half_life))
    return weights


def _normalised(counts: Floats, visits: Floats, shrinkage: float) -> Floats:
    norms = np.sqrt(np.outer(visits, visits)) + shrinkage
    return np.divide(counts, norms, out=np.zeros_like(norms), where=norms > 0)
