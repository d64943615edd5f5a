"""What the **simulated** world and its log look like: one study, for the report and the lesson."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capstone.baselines import ease, popularity
from capstone.data import Feed, Ints
from capstone.impressions import ImpressionConfig, Impressions, shard, stream
from capstone.rank_metrics import ndcg, ranks
from capstone.world import World, build_world, draw
from capstone.world_fit import recent_profile
from capstone.world_statistics import WorldStatistics, compare, debiased_ctr, real_size
from labs.lab6_online_eval.position_bias import (
    ClickLog,
    Examination,
    SwapLog,
    by_click_through,
    by_random_swaps,
)

Floats = NDArray[np.float64]
IMPRESSIONS = 300_000
SWAP_SESSIONS = 60_000
POOL, EXPLORED = 300, 5
"""Popular items that the lists of :func:`explored_last` are drawn from; every fifth is explored."""
DAYS = (0, 1, 2, 4, 7, 10, 14, 18, 22, 28)
DRIFT_USERS = 200
LARGE = ImpressionConfig(n_users=1_000_000, n_items=1_000_000, n_impressions=100_000_000)


@dataclass(frozen=True)
class PositionStudy:
    """Position bias in the simulated log.

    Attributes
    ----------
    truth : float [k]
        Examination relative to the first position.
    click_through, swaps : Examination
        What clicks by position suggest, and what random swaps of two positions find (lab 6).
    naive, debiased : float
        Quality of explored items, which stand at the end of the lists, over that of the others,
        divided by the true ratio: by clicks per row, and by :func:`debiased_ctr`. 1 is fair.
    """

    truth: Floats
    click_through: Examination
    swaps: Examination
    naive: float
    debiased: float


@dataclass(frozen=True)
class DriftStudy:
    """True clicks a session by day [n]: of the best list of day 0, and of each day's best list.

    ``overlap`` is the share of the day's best list that was in day 0's.
    """

    days: tuple[int, ...]
    stale: Floats
    current: Floats
    overlap: Floats


@dataclass(frozen=True)
class RankerInWorld:
    """A ranker's NDCG@10 on the real test films, and its true simulated counts a session."""

    name: str
    ndcg: float
    clicks: float
    utility: float


@dataclass(frozen=True)
class GeneratorCost:
    """Of shards of :data:`LARGE`: rows a CPU second, and bytes of a row."""

    rows_per_cpu_second: float
    bytes_per_row: float
    shards: int


@dataclass(frozen=True)
class WorldStudy:
    """Everything of the study. ``same_for_any_ranks``: one, two and three ranks drew equal rows."""

    statistics: WorldStatistics
    position: PositionStudy
    drift: DriftStudy
    rankers: tuple[RankerInWorld, ...]
    cost: GeneratorCost
    same_for_any_ranks: bool


def study_world(feed: Feed, seed: int = 0, *, shards: int = 3) -> WorldStudy:
    """Statistics against the real ones, position bias, drift, rankers and the generator's cost.

    The cost is measured on so many ``shards``.
    """
    world = build_world(feed, seed=seed)
    log = real_size(world, impressions=IMPRESSIONS, seed=seed)
    scores = rankers(feed)
    lists = {name: top(each, feed) for name, each in scores.items()}
    return WorldStudy(
        statistics=compare(world, feed, log, seed=seed),
        position=position_bias(world, log, lists["EASE"], seed=seed),
        drift=drift(world),
        rankers=tuple(
            _in_world(name, each, lists[name], feed, world) for name, each in scores.items()
        ),
        cost=generator_cost(replace(LARGE, seed=seed), shards),
        same_for_any_ranks=same_for_any_ranks(seed),
    )


def rankers(feed: Feed) -> dict[str, Floats]:
    """Scores [n_users, n_items + 1] of three rankers that know the training data only."""
    weights = ease(feed.matrix(feed.train), 500.0)
    everybody = np.tile(popularity(feed.matrix(feed.train)), (feed.n_users, 1))
    return {
        "popularity": everybody,
        "EASE": feed.matrix(feed.test_history) @ weights,
        "EASE, recent films first": recent_profile(feed, feed.test_history) @ weights,
    }


def top(scores: Floats, feed: Feed, k: int = 10) -> Ints:
    """The k best unseen items of each user: int [n_users, k]."""
    unseen = np.where(feed.seen, -np.inf, scores)
    return np.argsort(-unseen, axis=1, kind="stable")[:, :k]


def position_bias(world: World, log: Impressions, lists: Ints, *, seed: int) -> PositionStudy:
    """Examination by two methods, and item quality with and without it."""
    truth = world.examination(int(log.position.max()) + 1)
    clicks = log.click.reshape(-1, len(truth))
    swaps = by_random_swaps(swapped_log(world, lists, SWAP_SESSIONS, seed))
    people = log.user[:: len(truth)].astype(np.int64)
    shown = log.item.astype(np.int64).reshape(clicks.shape)
    naive, debiased = explored_last(world, seed=seed)
    return PositionStudy(
        truth=truth / truth[0],
        click_through=by_click_through(ClickLog(people, shown, clicks)),
        swaps=swaps,
        naive=naive,
        debiased=debiased,
    )


def explored_last(
    world: World, *, sessions: int = 30_000, k: int = 10, seed: int = 0
) -> tuple[float, float]:
    """How items look that a feed explores at the end of its lists, against what they are worth.

    Lists of k random items of the :data:`POOL` most popular; every fifth of these is explored and
    sinks to the end.

    Returns
    -------
    (naive, debiased)
        Rate of the explored items over that of the others, divided by the true ratio.
    """
    rng = np.random.default_rng([seed, sessions])
    users = rng.integers(0, len(world.people), sessions)
    popular = 1 + np.argsort(-world.count, kind="stable")[:POOL]
    lists = popular[rng.random((sessions, POOL), dtype=np.float32).argpartition(k, axis=1)[:, :k]]
    explored = np.zeros(world.n_items + 1, dtype=np.int64)
    explored[popular[::EXPLORED]] = 1
    lists = np.take_along_axis(lists, np.argsort(explored[lists], axis=1, kind="stable"), axis=1)
    chance = world.probabilities(users, lists)
    click = draw(chance, world.examination(k), rng).clicks.ravel()
    kind = 1 + explored[lists].ravel()
    true = np.bincount(kind, chance["click"].ravel()) / np.maximum(np.bincount(kind), 1)
    naive = np.bincount(kind, click) / np.maximum(np.bincount(kind), 1)
    fair = debiased_ctr(kind, np.tile(np.arange(k), sessions), click, world.examination(k), 2)
    ratios = [float(rate[2] / rate[1] / (true[2] / true[1])) for rate in (naive, fair)]
    return ratios[0], ratios[1]


def swapped_log(world: World, lists: Ints, n: int, seed: int) -> SwapLog:
    """n sessions of random real users with ``lists`` [943, k], the first item swapped by a coin."""
    rng = np.random.default_rng([seed, n])
    people, k = rng.integers(0, len(lists), n), lists.shape[1]
    partner, swapped = rng.integers(1, k, n), rng.random(n) < 0.5
    chance = world.probabilities(np.arange(len(lists)), lists)["click"][people]
    order = np.tile(np.arange(k), (n, 1))
    rows = np.flatnonzero(swapped)
    order[rows, 0], order[rows, partner[rows]] = partner[rows], 0
    chance = np.take_along_axis(chance, order, axis=1) * world.examination(k)
    shown = np.take_along_axis(lists[people], order, axis=1)
    return SwapLog(ClickLog(people, shown, rng.random((n, k)) < chance), partner, swapped)


def drift(world: World, k: int = 10) -> DriftStudy:
    """How fast the best list of day 0 goes stale, for the first users of the world."""
    users = np.arange(DRIFT_USERS)
    items = np.tile(np.arange(1, len(world.films) + 1), (DRIFT_USERS, 1))
    first: Ints = np.empty((DRIFT_USERS, k), dtype=np.int64)
    stale, current, overlap = (np.zeros(len(DAYS)) for _ in range(3))
    for at, day in enumerate(DAYS):
        best = 1 + np.argsort(-world.probabilities(users, items, day)["click"], axis=1)[:, :k]
        if at == 0:
            first = best
        stale[at] = world.expected(first, day)["clicks"].mean()
        current[at] = world.expected(best, day)["clicks"].mean()
        overlap[at] = (best[:, :, None] == first[:, None, :]).any(axis=2).mean()
    return DriftStudy(DAYS, stale, current, overlap)


def generator_cost(config: ImpressionConfig, shards: int = 3) -> GeneratorCost:
    """CPU time of a few shards of ``config``, after one that warms up."""
    shard(config, 0)
    start = time.process_time()
    made = [shard(config, number) for number in range(1, shards + 1)]
    took = time.process_time() - start
    rows = sum(each.n for each in made)
    return GeneratorCost(rows / took, made[0].nbytes / made[0].n, shards)


def same_for_any_ranks(seed: int) -> bool:
    """Whether one, two and three ranks draw the same rows between them."""
    config = ImpressionConfig(n_impressions=6000, shard_lists=100, history_length=8, seed=seed)
    clicks = []
    for world_size in (1, 2, 3):
        parts: list[list[Impressions]] = [
            list(stream(config, rank, world_size)) for rank in range(world_size)
        ]
        rounds = [part[turn] for turn in range(len(parts[0])) for part in parts]
        clicks.append(np.concatenate([np.stack([r.user, r.item, r.click]) for r in rounds], axis=1))
    return all(np.array_equal(clicks[0], each) for each in clicks[1:])


def _in_world(name: str, scores: Floats, lists: Ints, feed: Feed, world: World) -> RankerInWorld:
    true = world.expected(lists)
    found = ndcg(ranks(scores, feed.test_items, feed.seen))
    return RankerInWorld(
        name, float(found.mean()), float(true["clicks"].mean()), float(true["utility"].mean())
    )
