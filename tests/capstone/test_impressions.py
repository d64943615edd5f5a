"""Simulated impressions: pure shards, exact propensities, nothing that leaks."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.data import Feed
from capstone.impressions import (
    EVENTS_A_DAY,
    ImpressionConfig,
    Impressions,
    generate,
    groups_of,
    histories,
    scaled_world,
    shard,
    stream,
    visitors,
    world_of,
)
from capstone.logging_policy import POLICY_SHARPNESS, LoggingPolicy
from common.errors import InputError

SMALL = ImpressionConfig(
    n_users=5000, n_items=6000, n_impressions=2400, history_length=6, shard_lists=20, new_items=0.2
)


def same(a: Impressions, b: Impressions) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_a_shard_is_a_pure_function_of_its_number() -> None:
    """Drawn again, in another order, it is the same; another number or seed is another shard."""
    first, second = shard(SMALL, 3), shard(SMALL, 4)
    assert same(second, shard(SMALL, 4))
    assert same(first, shard(SMALL, 3))
    assert not same(first, second)
    assert not same(first, generate(replace(SMALL, seed=1), world_of(SMALL), 3))


@settings(derandomize=True, deadline=None, max_examples=8)
@given(st.integers(1, 5), st.integers(0, 3))
def test_any_number_of_ranks_draws_the_same_log(world_size: int, start: int) -> None:
    """Ranks read disjoint shards, equally many each, and together the log in order."""
    read = [list(stream(SMALL, rank, world_size, start)) for rank in range(world_size)]
    rounds = {len(each) for each in read}
    assert rounds == {(SMALL.n_shards - start) // world_size}
    turns = [part for turn in zip(*read, strict=True) for part in turn]
    for number, part in enumerate(turns[:4]):
        assert same(part, shard(SMALL, start + number)), (number, world_size)


def test_a_run_goes_on_with_another_number_of_ranks() -> None:
    """Two rounds of four ranks, then two ranks from shard 8: no row twice, none left out."""
    before = [part for rank in range(4) for part in list(stream(SMALL, rank, 4))[:2]]
    later = [part for rank in range(2) for part in stream(SMALL, rank, 2, start_shard=8)]
    read = sorted(part.user.tobytes() for part in before + later)
    whole = sorted(shard(SMALL, number).user.tobytes() for number in range(SMALL.n_shards))
    assert read == whole, (len(read), len(whole))


@pytest.mark.parametrize("day", [3, 30, 60])
def test_the_propensities_of_a_position_add_up_to_one(day: int) -> None:
    """Over every item that could stand there: first at the top, then below a given item."""
    world = world_of(SMALL)
    policy = LoggingPolicy.of(world, groups_of(world), day, 3)
    choice = policy.groups.choice(world, world.traits(np.array([17])), POLICY_SHARPNESS)
    items = np.arange(1, policy.n_items + 1)
    top = policy.propensity(choice.repeat(len(items), axis=0), np.column_stack([items] * 3))[:, 0]
    assert top.sum() == pytest.approx(1, abs=1e-9), top.sum()
    rest = items[items != 50]
    pairs = np.column_stack([np.full(len(rest), 50), rest, rest])
    below = policy.propensity(choice.repeat(len(rest), axis=0), pairs)[:, 1]
    assert below.sum() == pytest.approx(1, abs=1e-9), below.sum()


def test_items_are_drawn_as_often_as_their_propensity_says() -> None:
    """The formula and the sampler are two programs; off-policy estimates need them to agree."""
    world = scaled_world(943, 1682, 0.0, 0)
    policy = LoggingPolicy.of(world, groups_of(world), 0, 4)
    lists, propensity = policy.draw(np.full(20_000, 11), np.random.default_rng(0))
    choice = policy.groups.choice(world, world.traits(np.array([11])), POLICY_SHARPNESS)
    first = np.bincount(lists[:, 0], minlength=1683)
    for item in np.argsort(-first)[:40]:
        p = policy.propensity(choice, np.full((1, 4), item))[0, 0]
        error = np.sqrt(20_000 * p * (1 - p))
        assert abs(first[item] - 20_000 * p) < 4.5 * error, (item, first[item], 20_000 * p)
    weighted = (lists[:, 3] <= 841) / propensity[:, 3]
    seen = (lists[:, :3] <= 841).sum(axis=1)
    assert weighted.mean() == pytest.approx((841 - seen).mean(), rel=0.15), "1/p counts the items"


def test_a_list_has_no_item_twice_and_none_that_has_not_appeared() -> None:
    """Without replacement, from the catalogue of the day."""
    world = world_of(SMALL)
    for number in (0, SMALL.n_shards - 1):
        part = shard(SMALL, number)
        lists = part.item.reshape(-1, SMALL.list_length)
        assert all(len(set(row)) == SMALL.list_length for row in lists.tolist())
        assert part.item.max() <= world.items_on(int(part.day[0]))
        assert (part.age >= 0).all()
        assert (part.propensity > 0).all()


def test_position_and_quality_are_confounded_in_the_log() -> None:
    """Clicks fall faster than looks do, because the policy puts what suits at the top."""
    config = ImpressionConfig(
        n_users=943, n_items=1682, n_impressions=60_000, history_length=1, shard_lists=6000
    )
    clicks = shard(config, 0).click.reshape(-1, 10).mean(axis=0)
    looks = world_of(config).examination(10)
    assert clicks[-3:].mean() / clicks[0] < 0.8 * looks[-3:].mean() / looks[0], clicks


def test_a_history_slides_on_by_the_events_of_a_day() -> None:
    """A returning user brings what they had: events are functions of (seed, user, number)."""
    world = world_of(SMALL)
    users = visitors(world, 50, np.random.default_rng(0))
    today, reacted = histories(world, groups_of(world), users, 9, 20)
    tomorrow, later = histories(world, groups_of(world), users, 10, 20)
    assert np.array_equal(today[:, EVENTS_A_DAY:], tomorrow[:, :-EVENTS_A_DAY])
    assert np.array_equal(reacted[:, EVENTS_A_DAY:], later[:, :-EVENTS_A_DAY])
    assert not ((today > 0) & (reacted == 0)).any()
    assert not (today[:, 1:] == 0)[today[:, :-1] > 0].any(), "zeros stand before all events"


def test_some_users_are_new() -> None:
    """Cold start is part of the log: a tenth of the generated users brings almost nothing."""
    world = world_of(SMALL)
    users = np.arange(943, 5000)
    length = (histories(world, groups_of(world), users, 0, 10)[0] > 0).sum(axis=1)
    assert 0.05 < (length <= 4).mean() < 0.15, (length <= 4).mean()


def test_the_world_of_the_log_has_not_seen_the_held_out_interactions(feed: Feed) -> None:
    """A model may train on this log and be tested on the real split."""
    counts = world_of(SMALL).count
    assert np.array_equal(counts, feed.matrix(feed.train).sum(axis=0)[1:])
    assert counts.sum() == 100_000 - 2 * 943


def test_a_row_is_small_and_every_column_has_its_length() -> None:
    """Six bytes for an event of history, and a few dozen for the rest."""
    part = shard(SMALL, 0)
    assert {len(getattr(part, f.name)) for f in fields(part)} == {200}
    assert part.history.shape == part.reaction.shape == (200, 6)
    assert part.nbytes / part.n <= 6 * SMALL.history_length + 32
    assert np.array_equal(part.history[::10].repeat(10, axis=0), part.history)
    assert part.position[:10].tolist() == list(range(10))


def test_the_last_shard_holds_what_is_left_and_the_days_are_in_order() -> None:
    """2,300 rows in shards of 200 are eleven and a half."""
    config = replace(SMALL, n_impressions=2300)
    assert config.n_shards == 12
    assert shard(config, 11).n == 100
    days = [config.day_of(number) for number in range(12)]
    assert days == sorted(days)
    assert days[0] == 0
    assert days[-1] < config.n_days


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_users": 10}, "n_users = 10 must be at least 943"),
        ({"n_items": 10}, "n_items = 10 must be at least 1682"),
        ({"n_impressions": 2401}, "must be a multiple of 10"),
        ({"list_length": 1}, "list_length = 1 must be from 2 to 100"),
        ({"new_items": 1.0}, "new_items"),
        ({"history_length": 0}, "history_length"),
    ],
)
def test_a_configuration_out_of_range_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shard(replace(SMALL, **change), 0)


def test_a_shard_or_rank_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="shard number = 12 must be from 0 to 11"):
        shard(SMALL, SMALL.n_shards)
    with pytest.raises(InputError, match="rank = 2 must be from 0 to 1"):
        next(stream(SMALL, 2, 2))
