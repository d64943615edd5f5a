"""How good a ranking is: nDCG, reciprocal rank and success, one number a query.

Every function takes ids in rank order. Ties are broken before: `in_rank_order` puts equal scores in
the order of their ids, so that a metric is one number and not a matter of the sort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import require


def in_rank_order(
    scores: NDArray[np.floating], ids: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Sort each row: higher scores first, equal scores by smaller id, empty slots last.

    Parameters
    ----------
    scores : float array of shape [q, r]
        NaN where ``ids`` is -1.
    ids : int64 array of shape [q, r]

    Returns
    -------
    (scores, ids)
        Of the same shapes; an empty slot has the score NaN.
    """
    require(scores.shape == ids.shape, "scores.shape", scores.shape, f"must be {ids.shape}")
    empty = ids < 0
    keys = np.where(empty, np.inf, -scores)
    order = np.lexsort((ids, keys, empty), axis=1)
    scores = np.where(empty, np.nan, scores)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def ndcg_at_k(
    found_ids: NDArray[np.int64],
    true_ids: NDArray[np.int64],
    *,
    gains: NDArray[np.floating] | None = None,
    k: int = 10,
) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of the first k results.

    ``DCG = Σ_{i=1..k} gain(i) / log2(i + 1)``, divided by the DCG of the best possible order of
    ``true_ids``: 1 when nothing better could be shown, 0 when nothing relevant is among the k.
    With one true id at rank r it is ``1 / log2(r + 1)``.

    Parameters
    ----------
    found_ids : int64 array of shape [q, r]
        Best first; -1 is an empty slot. An id given twice counts where it stands first.
    true_ids : int64 array of shape [q, m]
        The relevant ids, unique within a row; -1 where there are fewer than m.
    gains : float array of shape [q, m], optional
        What each is worth, > 0 (graded relevance, used as it is: linear gain, as trec_eval does);
        None for 1.
    k
        Results that count.

    Returns
    -------
    float64 array of shape [q]

    Raises
    ------
    InputError
        For shapes that do not fit, k below 1, a gain that is not above 0, or a query without a
        true id.

    References
    ----------
    Järvelin, Kekäläinen: Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, with the
    discount log2(i + 1) of Burges et al. 2005.
    """
    hits = _hits(found_ids, true_ids, k)
    real = true_ids >= 0
    worth = np.ones(true_ids.shape) if gains is None else np.asarray(gains, dtype=float)
    require(worth.shape == true_ids.shape, "gains.shape", worth.shape, f"must be {true_ids.shape}")
    require(bool((worth[real] > 0).all()), "gains", worth[real].min(), "must be > 0")
    worth = np.where(real, worth, 0.0)
    gained = (hits * worth[:, None, :]).sum(axis=2)
    ideal = -np.sort(-worth, axis=1)[:, :k]
    ndcg: NDArray[np.float64] = _discounted(gained) / _discounted(ideal)
    return ndcg


def mrr_at_k(
    found_ids: NDArray[np.int64], true_ids: NDArray[np.int64], *, k: int = 10
) -> NDArray[np.float64]:
    """1 / rank of the first relevant result, 0 when none is among the first k.

    Their mean is the mean reciprocal rank (Voorhees, TREC-8 question answering, 1999).

    Parameters and errors are those of `ndcg_at_k`; returns a float64 array of shape [q].
    """
    relevant = np.any(_hits(found_ids, true_ids, k), axis=2)
    first = relevant.argmax(axis=1)
    return np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0)


def success_at_k(
    found_ids: NDArray[np.int64], true_ids: NDArray[np.int64], *, k: int = 10
) -> NDArray[np.float64]:
    """1 when a relevant id is among the first k, else 0 (also called hit rate at k).

    Parameters and errors are those of `ndcg_at_k`; returns a float64 array of shape [q].
    """
    return np.any(_hits(found_ids, true_ids, k), axis=(1, 2)).astype(np.float64)


def _hits(found_ids: NDArray[np.int64], true_ids: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """[q, k, m]: whether the result at a rank is that true id, each true id at most once."""
    require(found_ids.ndim == 2, "found_ids.shape", found_ids.shape, "must be [q, r]")
    require(true_ids.ndim == 2, "true_ids.shape", true_ids.shape, "must be [q, m]")
    require(
        len(found_ids) == len(true_ids),
        "found_ids.shape",
        found_ids.shape,
        f"must have as many rows as true_ids {true_ids.shape}",
    )
    require(k >= 1, "k", k, "must be >= 1", "try 10")
    without = np.flatnonzero((true_ids < 0).all(axis=1))
    require(
        without.size == 0,
        "true_ids",
        f"row {without[:1]}",
        "must hold an id >= 0",
        "drop the query",
    )
    matches = found_ids[:, :k, None] == true_ids[:, None, :]
    matches &= (true_ids >= 0)[:, None, :]
    first: NDArray[np.bool_] = matches & (matches.cumsum(axis=1) == 1)
    return first


def _discounted(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = gains @ (1.0 / np.log2(np.arange(gains.shape[1]) + 2.0))
    return total
