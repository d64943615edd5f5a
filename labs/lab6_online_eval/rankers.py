"""The rankers that the lab compares: each learns from what was seen, and fills a list of k films.

Scores are float [n_users, n_items]; higher is better. `top_k` turns them into lists, without the
films that a user has seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.errors import require
from labs.lab6_online_eval.world import Floats, Interactions, Ints

Ranker = Callable[[Interactions], Floats]


def popularity(data: Interactions) -> Floats:
    """Everybody gets what most people have watched."""
    return np.tile(data.seen.sum(axis=0).astype(float), (len(data.seen), 1))


def item_neighbours(data: Interactions) -> Floats:
    """Cosine similarity of films by who watched them, summed over a user's history.

    Sarwar et al. (2001), Item-based Collaborative Filtering Recommendation Algorithms, WWW.
    """
    seen = data.seen.astype(float)
    norm = np.maximum(np.sqrt(seen.sum(axis=0)), 1.0)
    similarity = (seen.T @ seen) / np.outer(norm, norm)
    np.fill_diagonal(similarity, 0.0)
    return np.asarray(seen @ similarity)


def ease(data: Interactions, *, regularisation: float = 500.0) -> Floats:
    """EASE: the linear item-to-item model with a closed form, ``B = I - P / diag(P)``.

    Steck (2019), Embarrassingly Shallow Autoencoders for Sparse Data, WWW, equation 8.
    """
    seen = data.seen.astype(float)
    gram = seen.T @ seen
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(seen @ weights)


def discovery(data: Interactions, *, power: float = 0.5, base: Floats | None = None) -> Floats:
    """EASE, divided by the popularity of each film to a power: less of what people know already.

    The inverse-propensity idea of Schnabel et al. (2016), Recommendations as Treatments, ICML:
    what was watched less often for want of exposure counts for more. ``base`` are the scores of
    `ease`, where they are at hand already.
    """
    require(0 <= power <= 2, "power", power, "must be from 0 to 2", "try 0.5")
    watched = np.maximum(data.seen.sum(axis=0), 5).astype(float)
    scores = ease(data) if base is None else base
    return np.asarray(scores / watched**power)


RANKERS: dict[str, Ranker] = {
    "popularity": popularity,
    "item_neighbours": item_neighbours,
    "ease": ease,
    "discovery": discovery,
}


def top_k(scores: Floats, data: Interactions, k: int = 10) -> Ints:
    """The k unseen films of the highest score for each user, best first: int [n_users, k].

    Ties go to the lower film number, so that a list never depends on the machine.
    """
    require(1 <= k <= scores.shape[1], "k", k, f"must be from 1 to {scores.shape[1]}")
    unseen = np.where(data.seen, -np.inf, scores)
    return np.asarray(np.argsort(-unseen, axis=1, kind="stable")[:, :k], dtype=np.int64)
