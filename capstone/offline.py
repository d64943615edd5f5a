"""The feed computed without the service: what the models alone are worth.

The served feed must equal it; the load test checks that it does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from capstone.data import Feed, Ints
from capstone.rank_metrics import list_ndcg, ndcg, ranks
from capstone.value import Floats, ValueWeights

Score = Callable[[Ints, Ints, Ints], dict[str, Floats]]
"""(history [B, L], ratings [B, L], candidates [B, C]) -> for each of ``HEADS`` [B, C]."""


def candidates(scores: Floats, seen: NDArray[np.bool_], count: int) -> Ints:
    """The ``count`` best unseen items of each user, best first: [n_users, count]."""
    masked = np.where(seen, -np.inf, scores)
    top = np.argpartition(-masked, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(masked, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def feeds(
    feed: Feed,
    retrieved: Ints,
    history: tuple[Ints, Ints],
    score: Score,
    weights: ValueWeights,
    *,
    k: int = 10,
    batch: int = 128,
) -> Ints:
    """The first ``k`` items of every user's feed [n_users, k]."""
    lists = []
    for start in range(0, feed.n_users, batch):
        rows = slice(start, start + batch)
        value = weights.value(score(history[0][rows], history[1][rows], retrieved[rows]))
        order = np.argsort(-value, axis=1, kind="stable")[:, :k]
        lists.append(np.take_along_axis(retrieved[rows], order, axis=1))
    return np.concatenate(lists)


def retrieval_ndcg(scores: Floats, feed: Feed) -> Floats:
    """NDCG@10 of each user over the full catalogue."""
    return ndcg(ranks(scores, feed.test_items, feed.seen))


def feed_ndcg(lists: Ints, feed: Feed) -> Floats:
    """NDCG@10 of each user's feed."""
    return list_ndcg(lists, feed.test_items)
