"""Logged propensities are the frequencies that the draw has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import exploration
from common.errors import InputError

SIX = np.array([0.35, 0.25, 0.2, 0.1, 0.06, 0.04])


def shown_everywhere(weights, k, slots):
    """P(item at place) of every item, by every way the draw can go: {item: [k]}.

    Items are ``("ranked", r)`` and ``("pool", i)``.
    """
    chance: dict[tuple[str, int], np.ndarray] = {}
    places = list(itertools.combinations(range(1, k), slots))
    for drawn in itertools.permutations(range(len(weights)), slots):
        probability, left = 1.0, 1.0
        for item in drawn:
            probability *= weights[item] / left
            left -= weights[item]
        for position in places:
            ranked = iter(range(k))
            pool = iter(drawn)
            for place in range(k):
                item = ("pool", next(pool)) if place in position else ("ranked", next(ranked))
                chance.setdefault(item, np.zeros(k))[place] += probability / len(places)
    return chance


def items_of(shown, k):
    """What stands at each place, named as in :func:`shown_everywhere`."""
    ranked, slots = iter(range(k)), dict(zip(shown.position.tolist(), shown.drawn.tolist()))
    return [("pool", slots[j]) if j in slots else ("ranked", next(ranked)) for j in range(k)]


@pytest.mark.exercise("7.8")
@pytest.mark.parametrize(("k", "slots"), [(5, 1), (6, 2), (6, 3), (4, 3)])
def test_propensities_are_the_sums_over_all_that_could_have_happened(k: int, slots: int) -> None:
    """Every choice of places and every order of draws, each with its probability: a click divided
    by anything else than this sum makes an off-policy estimate biased."""
    expected = shown_everywhere(SIX, k, slots)
    rng = np.random.default_rng(0)
    for _ in range(20):
        shown = exploration.draw(SIX, k, slots, rng)
        found = exploration.propensities(shown, SIX, k)
        wanted = [expected[item][place] for place, item in enumerate(items_of(shown, k))]
        assert np.allclose(found, wanted, rtol=1e-6), (
            f"slots {shown.position.tolist()} with {shown.drawn.tolist()}: "
            f"logged {np.round(found, 5).tolist()}, true {np.round(wanted, 5).tolist()}"
        )


@pytest.mark.exercise("7.8")
@settings(derandomize=True, deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(3, 7), st.integers(1, 3), st.sampled_from([0.0, 1.0, 3.0]))
def test_the_frequency_of_an_item_at_a_place_is_its_logged_propensity(
    seed: int, k: int, slots: int, sharpness: float
) -> None:
    """The log is honest if, over many draws for one request, what was logged for an item at a place
    is how often it stood there. Each count must lie within five standard errors."""
    slots, draws = min(slots, k - 1), 1500
    rng = np.random.default_rng(seed)
    weights = exploration.pool_weights(rng.random(5), sharpness)
    counts: dict[tuple[int, tuple[str, int]], int] = {}
    logged: dict[tuple[int, tuple[str, int]], float] = {}
    for _ in range(draws):
        shown = exploration.draw(weights, k, slots, rng)
        found = exploration.propensities(shown, weights, k)
        for place, item in enumerate(items_of(shown, k)):
            counts[place, item] = counts.get((place, item), 0) + 1
            logged[place, item] = float(found[place])
    for key, count in counts.items():
        p = logged[key]
        error = 5 * np.sqrt(max(p * (1 - p), 1e-9) / draws) + 2 / draws
        assert abs(count / draws - p) <= error, (
            f"{key[1]} at place {key[0]}: logged {p:.4f}, shown in {count / draws:.4f} of the draws"
        )


@pytest.mark.exercise("7.8")
def test_a_ranked_item_has_a_propensity_because_slots_move_it() -> None:
    """Three places, one slot at place 1 or 2: the second-best item stands at place 2 or 1, each
    half of the time, and the best always first."""
    uniform = np.full(4, 0.25)
    first = exploration.propensities(
        exploration.Exploration(np.array([1]), np.array([3])), uniform, 3
    )
    assert np.allclose(first, [1, 0.125, 0.5]), f"logged {first.tolist()}, not [1, 0.125, 0.5]"
    second = exploration.propensities(
        exploration.Exploration(np.array([2]), np.array([0])), uniform, 3
    )
    assert np.allclose(second, [1, 0.5, 0.125]), f"logged {second.tolist()}, not [1, 0.5, 0.125]"


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 30), st.sampled_from([0.0, 0.5, 3.0, 10.0]))
def test_draw_probabilities_agree_with_lab_6(seed: int, n: int, sharpness: float) -> None:
    """Lab 6 integrates Plackett-Luce numerically, for any number of places."""
    from labs.lab6_online_eval.plackett_luce import placement_probabilities

    weights = exploration.pool_weights(np.random.default_rng(seed).random(n), sharpness)
    slots = min(3, n - 1)
    expected = placement_probabilities(np.log(weights)[None], slots, nodes=200)[0]
    found = exploration.draw_probabilities(weights, slots)
    assert np.allclose(found, expected, atol=2e-4)
    assert np.allclose(found.sum(axis=0), 1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_pool_as_small_as_the_slots_is_drawn_whole(n: int) -> None:
    """Then every item stands at some slot, with certainty over the slots."""
    weights = exploration.pool_weights(np.arange(n, dtype=float), 4.0)
    found = exploration.draw_probabilities(weights, n)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found.sum(axis=0), 1)


def test_the_first_place_is_never_a_slot_and_every_other_sometimes_is() -> None:
    """The first place gets most of the attention; it is the one that exploration costs most."""
    rng = np.random.default_rng(0)
    found = {int(place) for _ in range(300) for place in exploration.draw(SIX, 8, 2, rng).position}
    assert found == set(range(1, 8))


def test_sharpness_bounds_the_rarest_item() -> None:
    """No item is rarer than exp(-sharpness) / n, whatever the scale of the values."""
    value = np.random.default_rng(0).lognormal(0, 3, 40)
    for sharpness in (0.0, 1.0, 4.0):
        weights = exploration.pool_weights(1e-6 * value, sharpness)
        assert weights.sum() == pytest.approx(1)
        assert weights.min() >= np.exp(-sharpness) / 40
        assert np.allclose(weights, exploration.pool_weights(value, sharpness))
    assert np.allclose(exploration.pool_weights(np.full(5, 2.0), 3.0), 0.2)


@pytest.mark.parametrize(
    ("n", "k", "slots", "message"),
    [(9, 9, 4, "must be 1 to 3"), (9, 2, 2, "must be < 2"), (1, 9, 2, "must be <= 1")],
)
def test_slots_without_room_are_refused(n: int, k: int, slots: int, message: str) -> None:
    """More slots than exact chances, than places behind the first, or than items to draw."""
    with pytest.raises(InputError, match=message):
        exploration.draw(np.full(n, 1 / n), k, slots, np.random.default_rng(0))
    with pytest.raises(InputError, match="sharpness"):
        exploration.pool_weights(np.ones(3), -1.0)
