"""Minimum exposure of a group of creators, through lab 3's fair ranking.

Every prefix of the feed holds at least ``floor(share * i)`` items of the protected creators, as
long as the candidates have so many; otherwise the order stays as it was. The guarantee is on
places. What attention the places bring is measured by :mod:`capstone.fairness_audit`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from capstone.catalogue import Catalogue
from common.errors import require

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def small_creators(catalogue: Catalogue, audience: Ints, share: float = 0.2) -> tuple[int, ...]:
    """The (simulated) creators of the smallest audience, who together make a share of the films.

    Parameters
    ----------
    audience : [n_items + 1]
        Interactions of each item in the training data.
    share
        At most this share of the visible catalogue is theirs; above 0, below 1.

    Returns
    -------
    Their numbers, rising.
    """
    require(0 < share < 1, "share of the catalogue", share, "must be above 0 and below 1")
    creator = catalogue.creator[catalogue.visible]
    films = np.bincount(creator, minlength=int(catalogue.creator.max()) + 1)
    fans = np.bincount(creator, audience[catalogue.visible], len(films))
    known = np.flatnonzero(films)
    known = known[np.argsort(fans[known], kind="stable")]
    within = np.cumsum(films[known]) <= share * films.sum()
    return tuple(sorted(int(number) for number in known[within]))


@lru_cache(maxsize=8)
def _table(protected: tuple[int, ...]) -> Bools:
    table = np.zeros(max(protected, default=0) + 2, dtype=bool)
    table[list(protected)] = True
    table.setflags(write=False)
    return table


def is_protected(creator: Ints, protected: tuple[int, ...]) -> Bools:
    """Whether each creator is one of the protected: [n]."""
    table = _table(protected)
    return np.asarray(table[np.minimum(creator, len(table) - 1)])


@lru_cache(maxsize=64)
def prefix_targets(k: int, share: float) -> Ints:
    """Lab 3's targets, remembered: at least ``floor(share * i)`` among the first i, [k].

    Raises
    ------
    InputError
        For k below 1, or a share outside 0 to 1.
    """
    from labs.lab3_fairness.fair_ranking import proportional_targets  # with all of scipy.stats

    targets = proportional_targets(k, share)
    targets.setflags(write=False)
    return targets


def with_minimum_exposure(protected: Bools, k: int, share: float) -> NDArray[np.intp]:
    """The first k places of an order, changed as little as the minimum asks.

    Parameters
    ----------
    protected : [n]
        Whether each item is of a protected creator, best item first.
    k
        Places, at most n.
    share
        Of every prefix; 0 to 1. Where fewer are protected than it asks, all of them are shown.

    Returns
    -------
    [k] positions of the given order, new order first to last.
    """
    from labs.lab3_fairness.fair_ranking import fair_top_k

    # The order itself is the score: it is what diversity and decay have made of the values.
    scores = -np.arange(len(protected), dtype=np.float64)
    targets = np.minimum(prefix_targets(k, share), int(protected.sum()))
    return fair_top_k(scores, protected, targets)
