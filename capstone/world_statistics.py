"""How the **simulated** world compares with the real ratings, and what its log hides.

A simulator is worth what its statistics are: popularity, activity, what people watch together, how
much they like it. They stand beside those of MovieLens with the same number of events in each
column, since most of them depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.data import Feed, Ints
from capstone.impressions import ImpressionConfig, Impressions, generate, groups_of, histories
from capstone.world import World
from common.errors import require
from common.exercises.marker import exercise

Floats = NDArray[np.float64]
HEAD, TAIL = 10, 300
"""Ranks between which the Zipf slope is fitted."""
WATCHED_TOGETHER = 200
"""Most popular items whose cosines are compared."""


@exercise(
    "7.1",
    points=5,
    title="Click-through without position bias",
    hint="An item shown ten times at a place that one person in ten looks at was looked at once.",
)
def debiased_ctr(
    item: Ints,
    position: Ints,
    click: NDArray[np.bool_],
    examination: Floats,
    n_items: int,
) -> Floats:
    """P(click | examined) of each item, from a log in which positions differ.

    The position-based model says ``P(click) = examination[position] * attraction[item]``, so an
    item's attraction is its clicks over the *looks* that it can have had,

        attraction_i = sum of click over its rows / sum of examination[position] over its rows.

    Parameters
    ----------
    item, position : int [n]
        Items from 1, positions from 0.
    click : bool [n]
    examination : float [k]
        P(look at a position), in (0, 1].
    n_items
        Items of the catalogue.

    Returns
    -------
    float64 [n_items + 1]
        NaN for padding and for items that were never shown.

    Notes
    -----
    Richardson, Dominowska & Ragno (2007), Predicting Clicks, WWW, section 2; the model: Craswell et
    al. (2008), WSDM. Weighting each click by ``1 / examination`` and dividing by the rows is
    unbiased as well, and noisier: one click far down counts for many.
    """
    clicks = np.bincount(item, click, n_items + 1)
    looks = np.bincount(item, np.asarray(examination)[position], n_items + 1)
    return np.where(looks > 0, clicks / np.where(looks > 0, looks, 1), np.nan)


@dataclass(frozen=True)
class Statistic:
    """One statistic: of the real ratings, of simulated histories, of the clicks of the log.

    NaN where a column has none.
    """

    name: str
    real: float
    history: float
    clicks: float


@dataclass(frozen=True)
class WorldStatistics:
    """Statistics of ``events`` events a column; ``click_rate`` and ``hide_rate`` of the log."""

    rows: tuple[Statistic, ...]
    events: int
    click_rate: float
    hide_rate: float

    def of(self, name: str) -> Statistic:
        """The statistic of that name."""
        return {row.name: row for row in self.rows}[name]

    def table(self) -> list[list[str]]:
        """Rows of text for the report and the data sheet, a header first."""
        header = ["statistic", "MovieLens", "simulated histories", "simulated clicks"]
        return [header] + [
            [row.name, *("" if np.isnan(v) else f"{v:.3f}" for v in values)]
            for row in self.rows
            for values in [(row.real, row.history, row.clicks)]
        ]


@dataclass(frozen=True)
class _Events:
    """Who had to do with what: [n] each; ``mark`` is 4, 5, 2 or 3 as a rating would be."""

    user: Ints
    item: Ints
    mark: Ints

    def sample(self, n: int, rng: np.random.Generator) -> _Events:
        kept = rng.permutation(len(self.user))[:n]
        return _Events(self.user[kept], self.item[kept], self.mark[kept])


def compare(world: World, feed: Feed, log: Impressions, *, seed: int = 0) -> WorldStatistics:
    """Statistics of the real interactions, of simulated histories and of the log's clicks.

    Parameters
    ----------
    world
        Of the real size: 943 users, 1,682 items.
    log
        Impressions of that world, with at least 5,000 clicks.
    seed
        Of the sampling of events down to the number of clicks.
    """
    require(
        (world.n_users, world.n_items) == (feed.n_users, feed.n_items),
        "size of the world", (world.n_users, world.n_items),
        f"must be {(feed.n_users, feed.n_items)} to be compared",
    )  # fmt: skip
    clicked = _click_events(log)
    n = len(clicked.user)
    require(
        n >= 5000,
        "pairs of user and clicked item in the log", n,
        "must be at least 5000", "generate more impressions",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    real = _Events(
        np.repeat(np.arange(feed.n_users), [len(s.items) for s in feed.sequences]),
        np.concatenate([s.items for s in feed.sequences]),
        np.concatenate([s.ratings for s in feed.sequences]),
    )
    columns = [
        _measure(each.sample(n, rng), feed) for each in (real, _history_events(world), clicked)
    ]
    rows = tuple(
        Statistic(name, *(column.get(name, float("nan")) for column in columns))
        for name in columns[0]
    )
    return WorldStatistics(rows, n, float(log.click.mean()), float(log.hide.mean()))


def gini(counts: Floats) -> float:
    """Gini coefficient of non-negative counts: 0 all alike, near 1 one has all."""
    ordered = np.sort(np.asarray(counts, dtype=float))
    n = len(ordered)
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * ordered).sum() / (n * ordered.sum()))


def zipf_slope(counts: Floats) -> float:
    """Slope of log count against log rank over the ranks :data:`HEAD` to :data:`TAIL`."""
    ordered = np.sort(counts)[::-1][HEAD - 1 : TAIL]
    rank = np.arange(HEAD, HEAD + len(ordered))
    return float(np.polyfit(np.log(rank), np.log(np.maximum(ordered, 1)), 1)[0])


def item_cosines(seen: NDArray[np.bool_], n: int = WATCHED_TOGETHER) -> Floats:
    """Cosines between the columns of the ``n`` most popular items: [n * (n - 1) / 2]."""
    popular = np.argsort(-seen.sum(axis=0), kind="stable")[:n]
    columns = seen[:, popular].astype(float)
    columns /= np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    return (columns.T @ columns)[np.triu_indices(len(popular), 1)]


def real_size(world: World, *, impressions: int, seed: int, list_length: int = 10) -> Impressions:
    """One shard of a log of the real 943 users and 1,682 items, over four weeks."""
    config = ImpressionConfig(
        n_users=world.n_users,
        n_items=world.n_items,
        n_impressions=impressions - impressions % list_length,
        history_length=1,
        list_length=list_length,
        shard_lists=impressions // list_length,
        n_days=1,
        seed=seed,
    )
    return generate(config, world, 0)


def _history_events(world: World) -> _Events:
    users = np.arange(world.n_users)
    longest = int(world.activity.max())
    items, reactions = histories(world, groups_of(world), users, 0, longest)
    user, at = np.nonzero(items)
    mark = np.array([0, 3, 4, 5, 2])[reactions[user, at]]
    return _once(user, items[user, at].astype(np.int64), mark)


def _click_events(log: Impressions) -> _Events:
    click = log.click
    mark = np.where(log.share, 5, np.where(log.long_view, 4, 3))[click]
    return _once(log.user[click].astype(np.int64), log.item[click].astype(np.int64), mark)


def _once(user: Ints, item: Ints, mark: Ints) -> _Events:
    """The first event of each pair: in MovieLens nobody rates a film twice."""
    first = np.unique(user << 32 | item, return_index=True)[1]
    return _Events(user[first], item[first], mark[first])


def _measure(events: _Events, feed: Feed) -> dict[str, float]:
    count = np.bincount(events.item, minlength=feed.n_items + 1)[1:].astype(float)
    activity = np.bincount(events.user, minlength=feed.n_users).astype(float)
    seen = np.zeros((feed.n_users, feed.n_items + 1), dtype=bool)
    seen[events.user, events.item] = True
    cosine = item_cosines(seen)
    top = np.sort(count)[::-1]
    found = {
        "popularity: Gini": gini(count),
        "popularity: Zipf slope, ranks 10 to 300": zipf_slope(count),
        "popularity: share of the 100 most popular": float(top[:100].sum() / top.sum()),
        "activity: Gini over users": gini(activity),
        "activity: events, 90 % quantile over median": float(
            np.quantile(activity, 0.9) / max(float(np.median(activity)), 1.0)
        ),
        "item-item cosine: mean": float(cosine.mean()),
        "item-item cosine: 95 % quantile": float(np.quantile(cosine, 0.95)),
        "share of ratings >= 4 (long views)": float((events.mark >= 4).mean()),
        "share of ratings of 5 (shares)": float((events.mark == 5).mean()),
    }
    disliked = float((events.mark <= 2).mean())
    return {**found, "share of ratings <= 2 (dislikes)": disliked} if disliked else found
