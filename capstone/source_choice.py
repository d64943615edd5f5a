"""What the sources are made of, chosen on the validation item: never on the test item.

Neighbours, half-lives and quotas are options like a learning rate. Everything is fitted on the
training interactions; each choice takes the highest validation recall at the size of the candidate
list. The fresh quota is a policy and not a choice: recall can only ever vote against it, since an
item nobody has touched is nobody's held-out item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capstone import item_to_item, popular_fresh, sources
from capstone.catalogue import Catalogue
from capstone.data import Feed, Ints, Sequence
from capstone.rank_metrics import ranks
from capstone.sources import Candidates, Quotas, SourceTables
from common.errors import require

NEIGHBOURS = 200
RECENT = 20
HALF_LIVES = (np.inf, 10.0, 5.0, 2.5)
HALF_LIVES_DAYS = (np.inf, 90.0, 60.0, 30.0)
ITEM_TO_ITEM_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
POPULAR_SHARES = (0.0, 0.05)
FRESH_SHARE = 0.02
POPULAR_ITEMS, FRESH_ITEMS = 1000, 200
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Moment:
    """What is known of every user, what is to be found, and how the encoder scores the items.

    Attributes
    ----------
    known : histories, one a user
    seen : bool [n_users, n_items + 1]
    targets : int64 [n_users]
    scores : [n_users, n_items + 1]
        Dot products of the encoder's queries with the item vectors.
    """

    known: tuple[Sequence, ...]
    seen: NDArray[np.bool_]
    targets: Ints
    scores: Floats


def before_validation(feed: Feed, scores: Floats) -> Moment:
    """Before the validation item; ``scores`` are from the training histories."""
    seen = feed.matrix(feed.train) > 0
    seen[:, 0] = True
    targets = np.array([sequence.items[-2] for sequence in feed.sequences])
    return Moment(feed.train, seen, targets, scores)


def before_test(feed: Feed, scores: Floats) -> Moment:
    """Before the test item; ``scores`` are from the test histories."""
    return Moment(feed.test_history, feed.seen, feed.test_items, scores)


@dataclass(frozen=True)
class Tried:
    """An option and its recall on the validation item."""

    name: str
    recall: float


@dataclass(frozen=True)
class Chosen:
    """The tables for the bundle, and what they were chosen from, best first."""

    tables: SourceTables
    neighbours: tuple[Tried, ...]
    popularity: tuple[Tried, ...]
    quotas: tuple[Tried, ...]


def choose(
    feed: Feed,
    interactions: pd.DataFrame,
    catalogue: Catalogue,
    at: Moment,
    *,
    limit: int = 200,
    regularisation: float = 500.0,
    fresh_share: float = FRESH_SHARE,
) -> Chosen:
    """Fit the sources on the training interactions and choose among them on validation.

    Parameters
    ----------
    interactions
        The whole table; the held-out interactions are dropped here.
    at
        :func:`before_validation`.
    limit
        Candidates of a request: recall is taken at this length.
    regularisation
        Of EASE, as in the baseline; twice as much is tried too.
    fresh_share
        Share of the candidates that fresh items place.
    """
    require(0 <= fresh_share < 1, "fresh_share", fresh_share, "must be from 0 to below 1")
    best, neighbours = _choose_neighbours(feed, at, limit, regularisation)
    items, times = popular_fresh.training_interactions(interactions)
    popularity = {
        days: popular_fresh.decayed_popularity(items, times, feed.n_items, half_life_days=days)
        for days in HALF_LIVES_DAYS
    }
    tried = {
        days: _recall(np.tile(values, (feed.n_users, 1)), at, limit)
        for days, values in popularity.items()
    }
    days = max(tried, key=lambda key: tried[key])
    tables = SourceTables(
        best[0].ids,
        best[0].weights,
        popular_fresh.most_popular(popularity[days], catalogue.visible, POPULAR_ITEMS),
        popular_fresh.freshest(
            catalogue.first_seen, popularity[days], catalogue.visible, FRESH_ITEMS
        ),
        recent=RECENT,
        half_life=best[1],
    )
    quotas = _choose_quotas(tables, at, catalogue.visible, limit, fresh_share)
    return Chosen(
        replace(tables, quotas=quotas[0][0]),
        neighbours,
        _best_first({f"half-life {days:g} days": recall for days, recall in tried.items()}),
        tuple(Tried(_text(each), recall) for each, recall in quotas),
    )


def offers_of_all(
    at: Moment, tables: SourceTables, visible: NDArray[np.bool_], *, limit: int
) -> list[list[Ints]]:
    """:func:`sources.offers` of every user, with the nearest items from the dense scores."""
    masked = np.where(at.seen | ~visible, -np.inf, at.scores)
    nearest = np.argsort(-masked, axis=1, kind="stable")[:, :limit].astype(np.int64)
    return [
        sources.offers(
            nearest[user], each.items, tables, limit=limit, allowed=visible & ~at.seen[user]
        )
        for user, each in enumerate(at.known)
    ]


def merge_all(
    offered: list[list[Ints]],
    at: Moment,
    visible: NDArray[np.bool_],
    quotas: Quotas,
    *,
    limit: int,
) -> Iterator[Candidates]:
    """The candidates of each user in turn, as a request of hers would get them."""
    for user, each in enumerate(offered):
        allowed = visible & ~at.seen[user]
        yield sources.merge(each, quotas, limit=limit, allowed=allowed)


def found(candidates: Iterator[Candidates], targets: Ints) -> NDArray[np.float64]:
    """1 where the target is among the candidates, else 0: [n_users]."""
    pairs = zip(candidates, targets, strict=True)
    return np.array([float((each.ids == target).any()) for each, target in pairs])


def _choose_neighbours(
    feed: Feed, at: Moment, limit: int, regularisation: float
) -> tuple[tuple[item_to_item.Neighbours, float], tuple[Tried, ...]]:
    train = feed.matrix(feed.train)
    weights = {
        half_life: item_to_item.history_weights(
            at.known, feed.n_items, recent=RECENT, half_life=half_life
        ).astype(np.float32)
        for half_life in HALF_LIVES
    }
    kinds = {
        f"EASE, lambda {regularisation:g}": lambda: item_to_item.ease_weights(
            train, regularisation=regularisation
        ),
        f"EASE, lambda {2 * regularisation:g}": lambda: item_to_item.ease_weights(
            train, regularisation=2 * regularisation
        ),
        "cosine, shrunk by 20 users": lambda: item_to_item.cosine(train, shrinkage=20),
        "co-visitation, 10 steps": lambda: item_to_item.co_visitation(
            feed.train, feed.n_items, window=10, shrinkage=20
        ),
    }
    tried: dict[str, float] = {}
    best: tuple[item_to_item.Neighbours, float] | None = None
    for name, make in kinds.items():
        neighbours = item_to_item.strongest(make(), min(NEIGHBOURS, feed.n_items))
        dense = neighbours.dense()
        for half_life, history in weights.items():
            recall = _recall(history @ dense, at, limit)
            if recall > max(tried.values(), default=-1.0):
                best = (neighbours, half_life)
            tried[f"{name}; half-life {half_life:g} items"] = recall
    assert best is not None
    return best, _best_first(tried)


def _choose_quotas(
    tables: SourceTables, at: Moment, visible: NDArray[np.bool_], limit: int, fresh_share: float
) -> list[tuple[Quotas, float]]:
    """Every combination with its recall, best first; of equal ones the most for the nearest."""
    fresh = round(fresh_share * limit)
    offered = offers_of_all(at, tables, visible, limit=limit)
    results = []
    for near in ITEM_TO_ITEM_SHARES:
        for popular in POPULAR_SHARES:
            first, second = round(near * limit), round(popular * limit)
            quotas = Quotas(limit - first - second - fresh, first, second, fresh)
            merged = merge_all(offered, at, visible, quotas, limit=limit)
            results.append((quotas, float(found(merged, at.targets).mean())))
    return sorted(results, key=lambda pair: (-pair[1], -pair[0].nearest))


def _recall(scores: Floats, at: Moment, limit: int) -> float:
    """Recall of one source alone; an item that it does not score is not found."""
    scored = scores[np.arange(len(at.targets)), at.targets] > 0
    return float((scored & (ranks(scores, at.targets, at.seen) < limit)).mean())


def _best_first(tried: dict[str, float]) -> tuple[Tried, ...]:
    return tuple(
        Tried(name, recall) for name, recall in sorted(tried.items(), key=lambda pair: -pair[1])
    )


def _text(quotas: Quotas) -> str:
    return ", ".join(f"{name} {value}" for name, value in quotas.as_json().items())
