"""Diversity of a feed: maximal marginal relevance, and the most probable set of a DPP.

Both pick one item after another, and both trade relevance against likeness to what was picked. MMR
looks at the *nearest* picked item; a determinantal point process at the volume that the vectors
span, so it also sees that an item lies between two that are there already.

Vectors are compared by cosine: a longer vector is no more alike than a short one, and in learned
embeddings length is mostly popularity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises.marker import exercise

Floats = NDArray[np.float64]
LEAST_VOLUME = 1e-10
"""Below it an item adds nothing to the volume; the floor keeps its logarithm finite."""


@dataclass(frozen=True)
class Picks:
    """What was picked, in order.

    Attributes
    ----------
    rows : [k]
        Row numbers of the candidates.
    penalty : [k]
        What likeness to the earlier picks took off each relevance, >= 0, in units of relevance.
    """

    rows: NDArray[np.intp]
    penalty: Floats


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Rows of length 1, [n, D]; a row of zeros stays zero."""
    rows = np.asarray(vectors, dtype=np.float64)
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.asarray(rows / np.where(length > 0, length, 1.0)[:, None])


def check_diversity(relevance: Floats, vectors: NDArray[np.floating], weight: float) -> None:
    """Refuse arguments outside the limits of :func:`mmr` and :func:`dpp`."""
    require(0 <= weight < 1, "diversity weight", weight, "must be at least 0 and below 1")
    require(
        len(vectors) == len(relevance),
        "vectors", len(vectors), f"must be {len(relevance)}, one a candidate",
    )  # fmt: skip


@exercise(
    "7.7",
    points=8,
    title="Maximal marginal relevance",
    hint="Keep, for every candidate, its largest similarity to anything picked so far; one pick "
    "changes it by one maximum. What is that similarity before anything is picked?",
)
def mmr(relevance: Floats, vectors: NDArray[np.floating], k: int, weight: float) -> Picks:
    """Greedy maximal marginal relevance.

    Each step picks, of the candidates left, the one with the largest

        (1 - weight) * relevance_i - weight * max(0, max over picked j of cos(v_i, v_j))

    so an item that points away from all that is picked earns no bonus. Ties go to the earlier row.
    The penalty of a pick is ``weight / (1 - weight)`` times that similarity: what it took off the
    relevance. ``unit`` gives vectors of length 1, ``check_diversity`` checks the arguments.

    Parameters
    ----------
    relevance : [n]
        Higher is better; on a scale on which 1 is the best (see ``reranking``).
    vectors : [n, D]
        Of any length; a vector of zeros is like nothing.
    k
        How many to pick; more than n gives n.
    weight
        0 (order of relevance) to below 1. The paper's lambda is ``1 - weight``.

    Raises
    ------
    InputError
        For a weight outside its limits, or vectors that are not one a candidate.

    References
    ----------
    Carbonell and Goldstein: The Use of MMR, Diversity-Based Reranking, SIGIR 1998.
    """
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    rows, directions = np.empty(k, dtype=np.intp), unit(vectors)
    penalty = np.empty(k)
    price = weight / (1 - weight)
    left = np.array(relevance, dtype=np.float64)
    nearest = np.zeros(len(left))
    for step in range(k):
        row = int((left - price * nearest).argmax())
        rows[step], penalty[step] = row, price * nearest[row]
        left[row] = -np.inf
        np.maximum(nearest, directions @ directions[row], out=nearest)
    return Picks(rows, penalty)


def dpp(relevance: Floats, vectors: NDArray[np.floating], k: int, weight: float) -> Picks:
    """Greedy most probable set of a determinantal point process, by an incremental Cholesky.

    The kernel is ``L_ij = q_i S_ij q_j`` with ``S_ij = (1 + cos(v_i, v_j)) / 2``, in 0 to 1 and
    positive semi-definite, and ``log q_i^2 = (1 - weight) / weight * relevance_i``. A step picks
    the item that raises ``log det L`` most; divided by the price of diversity that is

        relevance_i + weight / (1 - weight) * log d_i^2,

    where d_i^2, the squared distance of i from the span of what is picked, is what each step
    updates in O(n) per picked item: O(n k^2) in all, not O(n k^4).

    Parameters, result and errors as for :func:`mmr`; the penalty is
    ``-weight / (1 - weight) * log d_i^2``. An item that adds no volume (a duplicate, or any once
    the space is exhausted) has d_i^2 = ``LEAST_VOLUME``, so k items always come back.

    References
    ----------
    Chen, Zhang, Zhou: Fast Greedy MAP Inference for Determinantal Point Process to Improve
    Recommendation Diversity, NeurIPS 2018, algorithm 1 and section 4.
    """
    check_diversity(relevance, vectors, weight)
    k = min(k, len(relevance))
    n = len(relevance)
    directions = unit(vectors)
    likeness = (1 + directions @ directions.T) / 2
    price = weight / (1 - weight)
    left = np.array(relevance, dtype=np.float64)
    rows, penalty = np.empty(k, dtype=np.intp), np.empty(k)
    factor = np.zeros((k, n))
    volume = np.ones(n)
    cost = np.zeros(n)
    for step in range(k):
        row = int((left - cost).argmax())
        rows[step], penalty[step] = row, cost[row]
        left[row] = -np.inf
        above = factor[:step]
        new = (likeness[row] - above[:, row] @ above) / np.sqrt(volume[row])
        factor[step] = new
        volume = np.maximum(volume - new * new, LEAST_VOLUME)
        cost = -price * np.log(volume)
    return Picks(rows, penalty)


def intra_list_diversity(lists: NDArray[np.int64], vectors: NDArray[np.floating]) -> Floats:
    """Mean of ``1 - cos`` over all pairs of each list: [n_users, k] item ids -> [n_users].

    Vectors are [n_items + 1, D]; k must be at least 2.

    References
    ----------
    Ziegler et al.: Improving Recommendation Lists Through Topic Diversification, WWW 2005.
    """
    k = lists.shape[1]
    require(k >= 2, "length of the lists", k, "must be >= 2", "one item has no pairs")
    rows = unit(vectors)[lists]
    # The sum over all pairs is the squared length of the sum, less the squared lengths.
    total = rows.sum(axis=1)
    squares = np.einsum("ukd,ukd->u", rows, rows)
    pairs = np.einsum("ud,ud->u", total, total) - squares
    return np.asarray(1 - pairs / (k * (k - 1)))
