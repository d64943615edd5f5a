"""Ranking metrics over the full catalogue; sampled metrics are not comparable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError

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

    Raises
    ------
    RunError
        For a score that is not finite, or a target that is masked: either would look like rank 0.

    Notes
    -----
    Ties count for the target, as in the published figures: items of equal score rank behind it.
    Among models that tie much (popularity) that flatters; scores of the others hardly ever tie.
    """
    if not np.isfinite(scores[~masked]).all():
        raise RunError("a score of an item that may be recommended is not finite")
    rows = np.arange(len(targets))
    if masked[rows, targets].any():
        raise RunError("a target is masked: it could never be recommended")
    scores = np.where(masked, -np.inf, scores)
    return (scores > scores[rows, targets][:, None]).sum(axis=1)


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
