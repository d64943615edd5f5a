"""**Simulated** impressions for training: any number of them, none of them stored.

A shard is a pure function of (configuration, shard number), so every rank of any number of ranks
draws its own, a run can go on with another number of ranks, and 100 million rows need no disk. The
people and items are those of :class:`capstone.world.World`, its millions included.

The logging policy fills a list position by position, without replacement, from a mixture of what
suits the user, what is popular and what is new, and leans to taste at the top. So position and
quality are confounded in the log, as they are in production, and each row carries the propensity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from capstone.counter_hash import hash64, uniform
from capstone.data import Ints, prepare
from capstone.logging_policy import LIFE_SHARPNESS, Floats, Groups, LoggingPolicy, copies, item_of
from capstone.world import ACTIVITY_IN_CLICKS, World, build_world, draw
from common.data import load
from common.errors import require

COLD_SHARE, COLD_EVENTS = 0.1, 4
"""Share of the generated users that are new, and the most events that they bring along."""
EVENTS_A_DAY = 2
"""Events by which a history grows each day."""
EVENING = 20
"""Hour of the day at which most people come."""
REACTIONS = ("click", "long_view", "share", "hide")
"""Codes 1 to 4 in a history; 0 is padding."""
_BLOCK = 128
"""Users whose histories are made at once: they fit the processor's cache."""
_LIFE, _PAST, _RATED = 11, 12, 13
Small = NDArray[np.int8]


@dataclass(frozen=True)
class ImpressionConfig:
    """What to generate.

    Attributes
    ----------
    n_users, n_items, n_impressions
        Sizes; the users and items are at least the real ones (943 and 1,682).
    history_length
        Newest events of a user that a row carries.
    list_length
        Positions of a list; the rows of one list follow each other.
    shard_lists
        Lists of a shard.
    n_days
        Days over which the log runs, in the order of the shards.
    new_items
        Share of the generated items that appear during the first four weeks.
    seed
        Of the world and the log.
    """

    n_users: int = 100_000
    n_items: int = 50_000
    n_impressions: int = 1_000_000
    history_length: int = 50
    list_length: int = 10
    shard_lists: int = 4096
    n_days: int = 28
    new_items: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("history_length", "shard_lists", "n_days"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(
            2 <= self.list_length <= 100, "list_length", self.list_length, "must be from 2 to 100"
        )
        require(
            self.n_impressions >= self.list_length and self.n_impressions % self.list_length == 0,
            "n_impressions", self.n_impressions, f"must be a multiple of {self.list_length}",
        )  # fmt: skip
        require(0 <= self.new_items < 1, "new_items", self.new_items, "must be in [0, 1)")

    @property
    def n_shards(self) -> int:
        return ceil(self.n_impressions / (self.shard_lists * self.list_length))

    def day_of(self, number: int) -> int:
        """The day of a shard: the log runs through the days in order."""
        return number * self.n_days // self.n_shards


@dataclass(frozen=True)
class Impressions:
    """Rows of a simulated log; those of one list follow each other, top first.

    Attributes
    ----------
    user : int32 [n]
        From 0. Users 0..942 have the tastes of MovieLens users.
    history, reaction : int32 and int8 [n, L]
        The user's past items, oldest first behind zeros, and what came of each:
        1 click, 2 long view, 3 share, 4 hide; 0 padding. All rows of a list share one.
    item : int32 [n]
        From 1.
    position : int8 [n]
        From 0.
    day, hour : int16 and int8 [n]
    creator : int16 [n]
        Simulated creator of the item.
    age : float32 [n]
        Days since the item appeared.
    propensity : float32 [n]
        P(this item at this position | user, items above it) under the logging policy: exact.
    click, long_view, hide, share : bool [n]
    """

    user: NDArray[np.int32]
    history: NDArray[np.int32]
    reaction: Small
    item: NDArray[np.int32]
    position: Small
    day: NDArray[np.int16]
    hour: Small
    creator: NDArray[np.int16]
    age: NDArray[np.float32]
    propensity: NDArray[np.float32]
    click: NDArray[np.bool_]
    long_view: NDArray[np.bool_]
    hide: NDArray[np.bool_]
    share: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return len(self.user)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


def shard(config: ImpressionConfig, number: int) -> Impressions:
    """Shard ``number`` of 0..n_shards-1: a pure function of its arguments.

    Raises
    ------
    InputError
        For a number outside.
    """
    require(
        0 <= number < config.n_shards,
        "shard number", number, f"must be from 0 to {config.n_shards - 1}",
    )  # fmt: skip
    return generate(config, world_of(config), number)


def stream(
    config: ImpressionConfig, rank: int, world_size: int, start_shard: int = 0
) -> Iterator[Impressions]:
    """The shards of one rank: ``start_shard + rank``, then every ``world_size``-th.

    Every rank gets equally many, so that none waits for another at the end; up to ``world_size -
    1`` last shards are left out. To go on after ``s`` rounds, with any number of ranks, start at
    ``start_shard + s * world_size``.
    """
    require(world_size >= 1, "world_size", world_size, "must be at least 1")
    require(0 <= rank < world_size, "rank", rank, f"must be from 0 to {world_size - 1}")
    require(
        0 <= start_shard <= config.n_shards,
        "start_shard", start_shard, f"must be from 0 to {config.n_shards}",
    )  # fmt: skip
    for turn in range((config.n_shards - start_shard) // world_size):
        yield shard(config, start_shard + turn * world_size + rank)


@lru_cache(maxsize=4)
def world_of(config: ImpressionConfig) -> World:
    """The world of a configuration, fitted to the *training* interactions only.

    A model that learns from these impressions may be tested on the held-out films of MovieLens; a
    world that knows them would tell it.
    """
    return scaled_world(config.n_users, config.n_items, config.new_items, config.seed)


@lru_cache(maxsize=4)
def scaled_world(n_users: int, n_items: int, new_items: float, seed: int) -> World:
    """A world of this size, fitted to the training interactions."""
    small = _real_size(seed)
    require(n_users >= small.n_users, "n_users", n_users, f"must be at least {small.n_users}")
    require(n_items >= small.n_items, "n_items", n_items, f"must be at least {small.n_items}")
    return small.resized(n_users, n_items, int(new_items * (n_items - small.n_items)))


@lru_cache(maxsize=4)
def _real_size(seed: int) -> World:
    feed = prepare(load("ml-100k"))
    return build_world(feed, sequences=feed.train, seed=seed)


def generate(config: ImpressionConfig, world: World, number: int) -> Impressions:
    """Shard ``number`` of a given world; see :func:`shard`."""
    k = config.list_length
    start = number * config.shard_lists
    n = min(config.shard_lists, config.n_impressions // k - start)
    rng = np.random.default_rng([config.seed, number])
    day = config.day_of(number)
    users = visitors(world, n, rng)
    groups = groups_of(world)
    policy = LoggingPolicy.of(world, groups, day, k)
    lists, propensity = policy.draw(users, rng)
    answers = draw(world.probabilities(users, lists, day), world.examination(k), rng)
    history, reaction = histories(world, groups, users, day, config.history_length)
    hour = np.clip(np.round(rng.normal(EVENING, 4.0, n)), 0, None).astype(np.int64) % 24
    flat = lists.ravel()
    return Impressions(
        user=np.repeat(users.astype(np.int32), k),
        history=np.repeat(history, k, axis=0),
        reaction=np.repeat(reaction, k, axis=0),
        item=flat.astype(np.int32),
        position=np.tile(np.arange(k, dtype=np.int8), n),
        day=np.full(n * k, day, dtype=np.int16),
        hour=np.repeat(hour.astype(np.int8), k),
        creator=world.creators(flat).astype(np.int16),
        age=(day - world.appeared(flat)).astype(np.float32),
        propensity=propensity.ravel().astype(np.float32),
        click=answers.clicks.ravel(),
        long_view=answers.long_views.ravel(),
        hide=answers.hides.ravel(),
        share=answers.shares.ravel(),
    )


@lru_cache(maxsize=8)
def groups_of(world: World) -> Groups:
    """The groups of a world's films, once."""
    return Groups.of(world)


def visitors(world: World, n: int, rng: np.random.Generator) -> Ints:
    """``n`` users who open the feed: more often those whose real model has watched much."""
    models = len(world.people)
    model = np.searchsorted(visit_edges(world), rng.random(n), side="right")
    return model + models * (rng.random(n) * copies(model, world.n_users, models)).astype(np.int64)


def past_events(world: World, users: Ints, day: int) -> Ints:
    """Events that each user has behind them at the start of ``day``: int [n]."""
    models = len(world.people)
    bits = hash64(world.seed, _PAST, users)
    made = users >= models
    factor = np.where(made, 0.5 + uniform(bits), 1.0)
    events = (world.activity[users % models] * factor).astype(np.int64)
    new = made & (uniform(bits, 1) < COLD_SHARE)
    events[new] = (uniform(bits, 2)[new] * (COLD_EVENTS + 1)).astype(np.int64)
    return events + EVENTS_A_DAY * day


def histories(
    world: World, groups: Groups, users: Ints, day: int, length: int
) -> tuple[NDArray[np.int32], Small]:
    """The newest ``length`` events of each user before ``day``: items and reactions [n, length].

    Event t of a user is a function of (seed, user, t), so a user who comes back brings the same
    history and what was added. It follows the user's taste, and is not made of the clicks of this
    log: those are in other shards. Reactions have the law of the real ratings: 5 a share, 4 a long
    view, 3 a click, at most 2 a hide.
    """
    choice = groups.choice(world, world.traits(users), LIFE_SHARPNESS)
    past = past_events(world, users, day)
    items = np.empty((len(users), length), dtype=np.int32)
    reaction = np.empty((len(users), length), dtype=np.int8)
    for start in range(0, len(users), _BLOCK):
        part = slice(start, start + _BLOCK)
        items[part], reaction[part] = _lives(
            world, groups, users[part], past[part], choice[part], length
        )
    return items, reaction


def _lives(
    world: World, groups: Groups, users: Ints, past: Ints, choice: Floats, length: int
) -> tuple[Ints, Ints]:
    films = len(world.films)
    number = past[:, None] - length + np.arange(length)
    key = (users[:, None] << 24) + np.maximum(number, 0)
    bits = hash64(world.seed, _LIFE, key)
    film = groups.films(choice, uniform(bits, 0), uniform(bits, 1))
    items = item_of(film, uniform(bits, 2), world.items_on(-1), films)
    dislike, like, love = world.ratings(users, items)
    at = uniform(hash64(world.seed, _RATED, key))
    reaction = np.where(at < like, np.where(at < love, 3, 2), np.where(at >= 1 - dislike, 4, 1))
    known = number >= 0
    return items * known, reaction * known


@lru_cache(maxsize=8)
def visit_edges(world: World) -> NDArray[np.float64]:
    """Cumulative share of the visits of each real user and those made of it [943]."""
    models = len(world.people)
    weight = world.activity ** (1 - ACTIVITY_IN_CLICKS)
    weight = weight * copies(np.arange(models), world.n_users, models)
    edges = np.cumsum(weight)
    edges /= edges[-1]
    edges[-1] = 1.0
    return edges
