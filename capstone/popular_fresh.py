"""Two sources that need no history: what is popular now, and what is new.

Popular items are a hard baseline and the first feed of a new user. Fresh items are there for the
catalogue's sake: nothing else ever proposes what nobody has touched, so nobody would touch it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capstone.data import Ints
from common.errors import require

DAY = 86_400.0
HELD_OUT = 2
"""Newest interactions of each user that nothing is fitted on: validation and test item."""


def training_interactions(interactions: pd.DataFrame) -> tuple[Ints, Ints]:
    """Items and Unix times of the training interactions, in the order of the frozen split.

    Parameters
    ----------
    interactions
        Columns ``user_id``, ``item_id`` and ``timestamp``, in file order.
    """
    ordered = interactions.sort_values(["user_id", "timestamp"], kind="stable")
    from_newest = ordered.groupby("user_id").cumcount(ascending=False)
    train = ordered[from_newest >= HELD_OUT]
    return train["item_id"].to_numpy(np.int64), train["timestamp"].to_numpy(np.int64)


def decayed_popularity(
    items: Ints, times: Ints, n_items: int, *, half_life_days: float
) -> NDArray[np.float64]:
    """Interactions of each item, one that is ``half_life_days`` old counting half.

    ``pop(i) = sum over its interactions of 2^(-(now - t) / half life)``, with ``now`` the newest
    of the times; an infinite half-life counts.

    Returns
    -------
    float64 [n_items + 1]
    """
    require(half_life_days > 0, "half_life_days", half_life_days, "must be > 0", "try inf")
    age = (times.max() - times) / DAY
    weights = np.exp2(-age / half_life_days)
    return np.bincount(items, weights, minlength=n_items + 1).astype(np.float64)


def most_popular(
    popularity: NDArray[np.float64], visible: NDArray[np.bool_], count: int
) -> NDArray[np.int32]:
    """At most ``count`` visible items somebody has touched, most popular first; ties by id."""
    ids = np.flatnonzero(visible & (popularity > 0))
    return ids[np.argsort(-popularity[ids], kind="stable")][:count].astype(np.int32)


def freshest(
    first_seen: Ints, popularity: NDArray[np.float64], visible: NDArray[np.bool_], count: int
) -> NDArray[np.int32]:
    """At most ``count`` visible items, the newest first; of equally new ones the more popular.

    Parameters
    ----------
    first_seen : [n_items + 1]
        Unix time (``Catalogue.first_seen``); an item nobody has touched counts as newest.
    """
    ids = np.flatnonzero(visible)
    order = np.lexsort((ids, -popularity[ids], -first_seen[ids]))
    return ids[order][:count].astype(np.int32)
