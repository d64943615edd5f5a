"""Offline metrics: how well lists predict the interactions that were held out.

One number a user first, then the mean with its interval: users are the units, offline as online.
What these metrics cannot see is in `offline_online`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.statistics import mean_ci
from labs.lab6_online_eval.world import Floats, Ints

Relevant = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its normal 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class OfflineMetrics:
    """Metrics at k of one ranker. ``coverage`` is of the whole set of lists, and has no interval:
    a count of distinct items is not a mean over users, and resampling users makes it smaller."""

    k: int
    ndcg: Estimate
    recall: Estimate
    mrr: Estimate
    coverage: float


def evaluate(lists: Ints, relevant: Relevant) -> OfflineMetrics:
    """NDCG, recall and MRR at k with intervals over users, and coverage.

    Parameters
    ----------
    lists
        Int [n_users, k]: what each user would be shown, best first.
    relevant
        Bool [n_users, n_items]: the held-out interactions.

    Raises
    ------
    InputError
        A user without held-out items, a film twice in a list, films out of range.
    """
    values = (ndcg(lists, relevant), recall(lists, relevant), reciprocal_rank(lists, relevant))
    gain, found, rank = (Estimate(*mean_ci(each)) for each in values)
    shown = coverage(lists, relevant.shape[1])
    return OfflineMetrics(lists.shape[1], ndcg=gain, recall=found, mrr=rank, coverage=shown)


def hits(lists: Ints, relevant: Relevant) -> NDArray[np.bool_]:
    """Which films of each list were held out: bool [n_users, k]; checks all input."""
    require(lists.ndim == 2, "shape of lists", lists.shape, "must be [n_users, k]")
    require(
        relevant.ndim == 2 and len(relevant) == len(lists),
        "shape of relevant",
        relevant.shape,
        f"must be [{len(lists)}, n_items], one row a user",
    )
    low, high = int(lists.min(initial=0)), int(lists.max(initial=0))
    n_items = relevant.shape[1]
    require(low >= 0, "lowest item", low, "must be at least 0")
    require(high < n_items, "highest item", high, f"must be below {n_items}, the number of items")
    ordered = np.sort(lists, axis=1)
    twice = int((ordered[:, 1:] == ordered[:, :-1]).any(axis=1).sum())
    require(twice == 0, "lists that hold an item twice", twice, "must be 0", "remove duplicates")
    empty = int((~relevant.any(axis=1)).sum())
    require(
        empty == 0,
        "users without a held-out item",
        empty,
        "must be 0: their metrics are not defined",
        "leave them out of every ranker alike, and report how many",
    )
    return np.take_along_axis(relevant, lists, axis=1)


def discounts(k: int) -> Floats:
    """``1 / log2(j + 2)`` for the positions j = 0 to k - 1, float [k]."""
    return np.asarray(1 / np.log2(np.arange(k) + 2.0))


def ndcg(lists: Ints, relevant: Relevant) -> Floats:
    """Normalised discounted cumulative gain at k with gains of 0 and 1, float [n_users].

        DCG = sum_j hit_j / log2(j + 2),     NDCG = DCG / DCG of the best possible list

    Notes
    -----
    Jarvelin & Kekalainen (2002), Cumulated gain-based evaluation of IR techniques, TOIS 20(4). The
    best list has min(k, number held out) hits, as in `sklearn.metrics.ndcg_score`.
    """
    found = hits(lists, relevant)
    weight = discounts(lists.shape[1])
    best = np.minimum(relevant.sum(axis=1), lists.shape[1])
    return np.asarray(found @ weight / np.cumsum(weight)[best - 1])


def recall(lists: Ints, relevant: Relevant) -> Floats:
    """Share of a user's held-out films that the list holds, float [n_users]; at most k / held."""
    return np.asarray(hits(lists, relevant).sum(axis=1) / relevant.sum(axis=1))


def reciprocal_rank(lists: Ints, relevant: Relevant) -> Floats:
    """One over the position of the first hit, counted from 1; 0 without one. Float [n_users]."""
    found = hits(lists, relevant)
    return np.where(found.any(axis=1), 1 / (found.argmax(axis=1) + 1.0), 0.0)


def coverage(lists: Ints, n_items: int) -> float:
    """Share of all films that at least one user is shown."""
    require(n_items >= 1, "n_items", n_items, "must be at least 1")
    return len(np.unique(lists)) / n_items


def weighted_hits(lists: Ints, relevant: Relevant, weight: Floats) -> Floats:
    """Discounted hits, each worth ``weight`` [n_items], float [n_users]: DCG that is not blind.

    With ``weight`` = 1 / propensity of an interaction to be observed this estimates the DCG of a
    world in which everything was seen; with 1 - awareness, what a list adds to what people find.

    Notes
    -----
    Schnabel et al. (2016), Recommendations as Treatments, ICML; Yang et al. (2018), Unbiased
    Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback, RecSys.
    """
    found = hits(lists, relevant) * weight[lists]
    return np.asarray(found @ discounts(lists.shape[1]))
