"""The simulated world: fitted where it says so, deterministic, with a true effect that is true."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import world as world_module
from capstone.data import Feed
from capstone.impressions import scaled_world
from capstone.rank_metrics import ndcg, ranks
from capstone.world import ARRIVALS, COUNTS, HEADS, World, build_world, day_walk, draw
from capstone.world_fit import RANK
from capstone.world_study import rankers, top
from common.errors import InputError

EVERYBODY = np.arange(943)


@pytest.fixture(scope="module")
def world(feed: Feed) -> World:
    return build_world(feed, n_new_users=1000, n_new_items=280)


def everything(world: World, day: int = 0) -> dict[str, np.ndarray]:
    """Probabilities of all real users and films, [943, 1682]."""
    return world.probabilities(EVERYBODY, np.tile(np.arange(1, 1683), (943, 1)), day)


def test_probabilities_are_probabilities_and_padding_gets_nothing(world: World) -> None:
    """A short list is padded with 0; nobody can click on nothing."""
    found = world.probabilities(np.array([0, 1]), np.array([[5, 0], [0, 1900]]))
    assert set(found) == set(HEADS)
    for head, p in found.items():
        assert (p >= 0).all(), head
        assert (p <= 1).all(), head
        assert p[0, 1] == p[1, 0] == 0, (head, p)
        assert p[0, 0] > 0, head
    assert (found["click"] + found["hide"] <= 1).all()


def test_the_mean_satisfaction_of_real_viewers_is_that_of_the_ratings(
    world: World, feed: Feed
) -> None:
    """Long views, shares and dislikes are anchored: on what people chose, they are the ratings."""
    user = np.repeat(EVERYBODY, [len(s.items) for s in feed.sequences])
    item = np.concatenate([s.items for s in feed.sequences])
    rating = np.concatenate([s.ratings for s in feed.sequences])
    dislike, like, love = (p[:, 0] for p in world.ratings(user, item[:, None]))
    for name, p, real in (
        ("like", like, rating >= 4), ("love", love, rating == 5), ("dislike", dislike, rating <= 2)
    ):  # fmt: skip
        assert abs(p.mean() - real.mean()) < 0.002, (name, p.mean(), real.mean())
    assert np.corrcoef(like, rating)[0, 1] > 0.4, "and it knows who liked what"


def test_the_world_knows_the_held_out_films_and_the_training_world_does_not(
    world: World, feed: Feed
) -> None:
    """The judge must know more than the judged, and data to train on must not."""
    known = []
    for each in (world, scaled_world(943, 1682, 0.0, 0)):
        clicks = np.column_stack([np.zeros(943), everything(each)["click"]])
        known.append(float(ndcg(ranks(clicks, feed.test_items, feed.seen)).mean()))
    assert known[0] > 0.12, known
    assert known[1] < 0.10, known


def test_what_ranks_better_on_real_films_earns_more_simulated_clicks(
    world: World, feed: Feed
) -> None:
    """Else an experiment in this world would reward what the real data call worse."""
    found = [
        float(world.expected(top(scores, feed))["clicks"].mean())
        for scores in rankers(feed).values()
    ]
    assert found[0] < 0.7 * found[1] < 0.7 * found[2], found


def test_the_true_effect_is_what_many_sessions_come_to(world: World) -> None:
    """Experiments are judged by it, so it must be the mean of what ``respond`` draws."""
    rng = np.random.default_rng(0)
    clicks = everything(world, 3)["click"]
    good = 1 + np.argsort(-clicks, axis=1)[:, 40:46]
    other = rng.integers(1, 1683, good.shape)
    true = world.true_effect(other, good, day=3)
    users = np.tile(EVERYBODY, 12)
    after = world.respond(users, np.tile(good, (12, 1)), 3, rng).counts()
    before = world.respond(users, np.tile(other, (12, 1)), 3, rng).counts()
    for name in (*COUNTS, "utility"):
        seen = after[name].mean() - before[name].mean()
        error = np.sqrt((after[name].var() + before[name].var()) / len(users))
        assert abs(seen - true[name]) < 4 * error, (name, seen, true[name], error)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 0.95))
def test_reactions_are_consistent(seed: int, click: float) -> None:
    """No share without a long view, no long view without a click, no click on what is hidden."""
    shape = (200, 3)
    p = {"click": click, "long_view": 0.6, "hide": 0.9 * (1 - click), "share": 0.5}
    found = draw(
        {head: np.full(shape, value) for head, value in p.items()},
        World.examination(3),
        np.random.default_rng(seed),
    )
    assert not (found.shares & ~found.long_views).any()
    assert not (found.long_views & ~found.clicks).any()
    assert not (found.hides & found.clicks).any()


def test_drift_is_a_function_of_the_day_alone() -> None:
    """A process that starts on day 20 lives in the same world as one that came there by days."""
    alone = day_walk(4, 20, 50).copy()
    day_walk.cache_clear()
    for day in range(20):
        day_walk(4, day, 50)
    assert np.array_equal(alone, day_walk(4, 20, 50))
    assert not day_walk(4, 0, 50).any(), "day 0 is the world that was fitted"
    assert not np.allclose(alone, day_walk(5, 20, 50))


def test_drift_moves_by_steps_and_does_not_run_away() -> None:
    """Neighbouring days are alike, and the variance settles at 1."""
    found = [day_walk(0, day, 4000) for day in (99, 100)]
    assert np.corrcoef(found)[0, 1] > 0.9
    assert abs(found[1].std() - 1) < 0.05, found[1].std()


def test_a_new_item_gains_by_its_freshness(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without drift its probability is highest on the day that it appears."""
    monkeypatch.setattr(world_module, "POPULARITY_DRIFT", 0.0)
    monkeypatch.setattr(world_module, "TASTE_DRIFT", 0.0)
    item = np.full((943, 1), 1683)
    by_day = [world.probabilities(EVERYBODY, item, day)["click"].mean() for day in (0, 3, 60)]
    assert by_day[0] > by_day[1] > by_day[2], by_day


def test_items_appear_on_their_day(world: World) -> None:
    """``items_on`` and ``appeared`` are the same calendar, read in both directions."""
    assert world.items_on(-1) == 1682
    assert world.items_on(ARRIVALS - 1) == world.items_on(1000) == world.n_items
    items = np.arange(1683, world.n_items + 1)
    first = [next(d for d in range(ARRIVALS) if world.items_on(d) >= item) for item in items]
    assert np.array_equal(world.appeared(items), first)
    assert (world.appeared(np.arange(1, 1683)) <= 0).all()


def test_generated_people_and_items_have_the_law_of_the_real_ones(world: World) -> None:
    """Cold-start rows come from the fitted distribution: same means and spreads, no copies."""
    made, real = world.traits(np.arange(943, 1886)), world.people
    assert np.abs(made.mean(axis=0) - real.mean(axis=0)).max() < 0.12 * real.std(axis=0).max()
    assert np.abs(made.std(axis=0) / real.std(axis=0) - 1).max() < 0.15
    assert np.abs(made[:, :RANK] - real[:, :RANK]).min(axis=1).max() > 0


def test_a_generated_user_is_the_same_in_a_world_of_any_size(world: World) -> None:
    """Growing the population must not change who is there already."""
    large = replace(world, n_users=5_000_000, n_items=2_000_000)
    users, items = np.array([3, 1200]), np.array([[7, 1682]] * 2)
    for head, p in world.probabilities(users, items).items():
        assert np.array_equal(p, large.probabilities(users, items)[head]), head
    far = large.probabilities(np.array([4_999_999]), np.array([[2_000_000]]))
    assert 0 < far["click"][0, 0] < 1


def test_a_world_survives_pickling(world: World) -> None:
    """It travels to worker processes."""
    again = pickle.loads(pickle.dumps(world))
    lists = np.array([[1, 2, 1700]])
    assert np.array_equal(again.expected(lists, 5)["utility"], world.expected(lists, 5)["utility"])


@pytest.mark.parametrize(
    ("users", "lists", "message"),
    [
        ([1943], [[1]], "users.*1943.*must be from 0 to 1942"),
        ([-1], [[1]], "users"),
        ([0], [[1963]], "items.*1963.*must be from 0 to 1962"),
        ([0, 1], [[1]], "shapes of users and items"),
    ],
)
def test_an_id_that_is_not_of_this_world_is_refused(
    world: World, users: list[int], lists: list[list[int]], message: str
) -> None:
    """A silent wrap to another user would give an experiment a plausible wrong truth."""
    with pytest.raises(InputError, match=message):
        world.probabilities(np.array(users), np.array(lists))
