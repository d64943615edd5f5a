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
from capstone.world import World, build_world
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
SHOWN_OFTEN = 200
"""Impressions an item needs to be in the comparison of click rates."""
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
        How many times better the third of the items that stood highest looks against the third
        that stood lowest, over how many times better it truly is: by click-through, and by
        :func:`debiased_ctr` with the examination that the swaps found. 1 is fair.
    items : int
        Items shown at least :data:`SHOWN_OFTEN` times, of which these are thirds.
    """

    truth: Floats
    click_through: Examination
    swaps: Examination
    naive: float
    debiased: float
    items: int


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


def study_world(feed: Feed, seed: int = 0) -> WorldStudy:
    """Statistics against the real ones, position bias, drift, rankers and the generator's cost."""
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
        cost=generator_cost(replace(LARGE, seed=seed)),
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
    item, position = log.item.astype(np.int64), log.position.astype(np.int64)
    people = log.user[:: len(truth)].astype(np.int64)
    chance = world.probabilities(people, item.reshape(clicks.shape), int(log.day[0]))["click"]
    size = world.n_items + 1
    shown = np.bincount(item, minlength=size)
    often = np.flatnonzero(shown >= SHOWN_OFTEN)
    looks = np.bincount(item, truth[position], size)[often]
    true = np.bincount(item, (chance * truth).ravel(), size)[often] / looks
    naive = np.bincount(item, log.click, size)[often] / shown[often]
    fair = debiased_ctr(item, position, log.click, swaps.relative, world.n_items)[often]
    by_height = np.argsort(looks / shown[often])
    low, high = by_height[: len(often) // 3], by_height[-len(often) // 3 :]

    def favour(estimate: Floats) -> float:
        looked = estimate[high].mean() / estimate[low].mean()
        return float(looked / (true[high].mean() / true[low].mean()))

    return PositionStudy(
        truth=truth / truth[0],
        click_through=by_click_through(ClickLog(people, item.reshape(clicks.shape), clicks)),
        swaps=swaps,
        naive=favour(naive),
        debiased=favour(fair),
        items=len(often),
    )


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
