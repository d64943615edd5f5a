"""Ranking metrics over the full catalogue; sampled metrics are not comparable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ranks(
    scores: NDArray[np.floating], targets: NDArray[np.int64], masked: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """0-based rank of each user's target among the items that may be recommended.

    Parameters
    ----------
    scores : [n_users, n_items + 1]
    targets : [n_users]
        Item ids; a target must not be masked.
    masked : [n_users, n_items + 1]
        True where an item must not be recommended.

    Notes
    -----
    A tie counts against nobody: the target ranks before items of equal score, as in a stable
    argsort that meets the target first. Popularity has many ties, all at zero.
    """
    scores = np.where(masked, -np.inf, scores)
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    return (scores > own).sum(axis=1)


def ndcg(rank: NDArray[np.int64], k: int = 10) -> Floats:
    """NDCG@k of one relevant item at each 0-based rank: 1 / log2(rank + 2) if rank < k, else 0.

    Järvelin & Kekäläinen (2002); with one relevant item the ideal DCG is 1.
    """
    return np.where(rank < k, 1 / np.log2(rank + 2.0), 0.0)


def hit_rate(rank: NDArray[np.int64], k: int = 10) -> Floats:
    """HR@k: 1 where the target is among the first k."""
    return (rank < k).astype(float)


def list_ndcg(lists: NDArray[np.int64], targets: NDArray[np.int64]) -> Floats:
    """NDCG of ranked lists [n_users, k] against one target each."""
    found = lists == targets[:, None]
    return np.where(found.any(axis=1), 1 / np.log2(found.argmax(axis=1) + 2.0), 0.0)
