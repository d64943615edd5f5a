"""Position bias: two estimates that find the truth, and one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import position_bias
from labs.lab6_online_eval.position_bias import ClickLog
from labs.lab6_online_eval.world import World

K = 6


def world(seed: int = 0, n_users: int = 40, n_items: int = 30) -> World:
    rng = np.random.default_rng(seed)
    appeal = rng.uniform(0.05, 0.9, (n_users, n_items))
    seen = np.zeros((n_users, n_items), dtype=bool)
    return World(appeal, np.zeros(n_items), np.ones(n_users), seen)


def best_first(truth: World) -> np.ndarray:
    """A perfect ranker: films by how much they are liked."""
    return np.argsort(-truth.click, axis=1)[:, :K]


def shuffled_log(truth: World, n: int, seed: int = 1) -> ClickLog:
    """Each user's twelve best, six of them in random order."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, truth.n_users, n)
    order = np.argsort(rng.random((n, 2 * K)), axis=1)[:, :K]
    lists = np.argsort(-truth.click, axis=1)[people[:, None], order]
    return ClickLog(people, lists, truth.clicks(people, lists, rng))


def test_random_swaps_find_the_true_examination() -> None:
    """Whatever the ranker does: the same two films stood at both places, by a coin."""
    truth = world()
    swaps = position_bias.log_random_swaps(truth, best_first(truth), 60_000, seed=0)
    found = position_bias.by_random_swaps(swaps)
    expected = truth.examination(K)
    assert found.worst_error(expected) < 0.06, f"{found.relative} against {expected}"
    assert np.all((found.low <= expected) & (expected <= found.high) | (expected == 1))


def test_the_interval_of_the_swaps_holds_the_truth_about_as_often_as_it_says() -> None:
    """Twenty logs of five ratios each: 95 % would be 95 of 100; clicks that are not rare make the
    interval a little wide, never narrow."""
    truth = world()
    expected = truth.examination(K)[1:]
    held = []
    for seed in range(20):
        swaps = position_bias.log_random_swaps(truth, best_first(truth), 5_000, seed)
        found = position_bias.by_random_swaps(swaps)
        held.append((found.low[1:] <= expected) & (expected <= found.high[1:]))
    assert np.mean(held) >= 0.9, f"held the truth in {np.mean(held):.0%}"


def test_em_finds_the_true_examination_without_an_intervention() -> None:
    """The ranker randomises; the same film at different places is enough for the model."""
    truth = world()
    found = position_bias.by_em(shuffled_log(truth, 60_000), truth.n_items)
    assert found.worst_error(truth.examination(K)) < 0.05, f"{found.relative}"


def test_click_through_by_position_is_not_examination() -> None:
    """A good ranker puts what is liked higher, so clicks fall faster than attention does.

    Read as examination, the lowest place is thought to be seen far less than it is.
    """
    truth = world()
    log = position_bias.log_fixed_lists(truth, best_first(truth), 60_000, seed=0)
    found = position_bias.by_click_through(log)
    assert found.relative[-1] < 0.9 * truth.examination(K)[-1]


def test_em_refuses_fixed_lists() -> None:
    """With every film at one place only, any examination fits; EM would return its start."""
    truth = world()
    log = position_bias.log_fixed_lists(truth, best_first(truth), 1_000, seed=0)
    with pytest.raises(ValueError, match="seen at two or more positions = 0 must be at least 100"):
        position_bias.by_em(log, truth.n_items)


def test_em_refuses_a_log_with_few_rows_a_pair() -> None:
    """One attraction for each pair: with five rows each they fit the noise, and theta is off."""
    truth = world()
    with pytest.raises(ValueError, match=r"each pair of user and film = 5\.\d must be at least 10"):
        position_bias.by_em(shuffled_log(truth, 420), truth.n_items)


def test_too_few_clicks_are_refused() -> None:
    truth = world()
    swaps = position_bias.log_random_swaps(truth, best_first(truth), 30, seed=0)
    with pytest.raises(ValueError, match="clicks behind position 1"):
        position_bias.by_random_swaps(swaps)


def test_a_log_of_unequal_shapes_is_refused() -> None:
    lists = np.array([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="shape of clicks"):
        ClickLog(np.array([0, 1]), lists, np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="shape of people"):
        ClickLog(np.array([0]), lists, np.zeros((2, 2), dtype=bool))
    with pytest.raises(ValueError, match="type of clicks"):
        ClickLog(np.array([0, 1]), lists, np.zeros((2, 2)))
