"""The composition: what it shows, why, and with which probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.api import Slot
from capstone.catalogue import Catalogue
from capstone.reranking import RerankConfig, Selection, rerank
from common.errors import InputError

N_ITEMS = 60
SMALL = (4, 5, 6)
EVERYTHING = RerankConfig("mmr", 0.3, 0.5, 0.25, 0.3, SMALL, 2, 12, 1.0)


def world(seed: int, count: int = 40):
    """Values, ids, catalogue with one withdrawn item in ten, and item vectors."""
    rng = np.random.default_rng(seed)
    visible = rng.random(N_ITEMS + 1) > 0.1
    visible[0] = False
    creator = rng.integers(1, 7, N_ITEMS + 1)
    empty = ((),) * (N_ITEMS + 1)
    catalogue = Catalogue(("",) * (N_ITEMS + 1), empty, creator, creator, visible)
    ids = rng.permutation(N_ITEMS)[:count] + 1
    return rng.exponential(size=count) ** 2, ids, catalogue, rng.normal(size=(N_ITEMS + 1, 8))


def chosen(config: RerankConfig, k: int = 10, seed: int = 0, draw: int = 0) -> Selection:
    return rerank(*world(seed), config, k, np.random.default_rng(draw))


def test_with_everything_off_it_is_a_stable_sort_by_value() -> None:
    """The feed without re-ranking is what the model said, ties in the order of the candidates."""
    value, ids, catalogue, vectors = world(1)
    value = np.round(value, 1)
    found = rerank(value, ids, catalogue, vectors, RerankConfig(), 10, np.random.default_rng(0))
    order = [row for row in np.argsort(-value, kind="stable") if catalogue.visible[ids[row]]]
    # No item is a backfill that the plain sort without the withdrawn would have had anyway.
    assert found.rows.tolist() == order[:10]
    assert set(found.slot) <= {Slot.RANKED, Slot.BACKFILL}
    assert found.propensity.tolist() == [1.0] * 10
    assert not found.creator_penalty.any()
    assert not found.diversity_penalty.any()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.integers(0, 999),
    st.sampled_from(["none", "mmr", "dpp"]),
    st.integers(1, 50),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.3]),
)
def test_a_feed_never_shows_an_item_twice_or_one_that_may_not_be_shown(
    seed: int, diversity: str, k: int, slots: int, share: float
) -> None:
    """With any composition, also where k is more than there are; then all come that may."""
    config = replace(EVERYTHING, diversity=diversity, exploration_slots=slots, min_exposure=share)  # type: ignore[arg-type]
    value, ids, catalogue, vectors = world(seed)
    found = rerank(value, ids, catalogue, vectors, config, k, np.random.default_rng(seed))
    assert len(set(found.rows.tolist())) == len(found.rows)
    assert len(found.rows) == min(k, catalogue.visible[ids].sum())
    assert catalogue.visible[ids[found.rows]].all()
    assert (found.value == value[found.rows]).all()
    assert (found.diversity_penalty >= 0).all()
    assert (found.creator_penalty >= 0).all()
    assert ((found.propensity > 0) & (found.propensity <= 1 + 1e-12)).all()
    assert len(found.slot) == len(found.rows)
    assert all(isinstance(slot, Slot) for slot in found.slot)
    assert found.slot.count(Slot.EXPLORATION) == min(slots, len(found.rows) - 1)
    assert found.slot[0] is not Slot.EXPLORATION


def test_the_same_seed_gives_the_same_feed_and_another_seed_another() -> None:
    """A request can be replayed from its log; exploration is all that differs."""
    first, again = chosen(EVERYTHING, draw=5), chosen(EVERYTHING, draw=5)
    assert first.rows.tolist() == again.rows.tolist()
    assert first.propensity.tolist() == again.propensity.tolist()
    assert any(
        chosen(EVERYTHING, draw=draw).rows.tolist() != first.rows.tolist() for draw in range(5)
    )
    still = replace(EVERYTHING, exploration_slots=0)
    assert chosen(still, draw=1).rows.tolist() == chosen(still, draw=2).rows.tolist()


def test_logged_propensities_are_frequencies_after_everything_else() -> None:
    """Decay, diversity, backfill and minimum exposure are fixed by the request, so what exploration
    logs is exact for the whole composition. Five standard errors, 2,000 feeds."""
    draws = 2000
    counts = np.zeros((40, 10))
    logged = np.zeros((40, 10))
    arguments, rng = world(3), np.random.default_rng(7)
    for _ in range(draws):
        found = rerank(*arguments, EVERYTHING, 10, rng)
        counts[found.rows, np.arange(10)] += 1
        logged[found.rows, np.arange(10)] = found.propensity
    shown = counts > 0
    error = 5 * np.sqrt(logged * (1 - logged) / draws) + 2 / draws
    assert (np.abs(counts / draws - logged) <= error)[shown].all()


def test_creator_decay_breaks_up_a_run_of_one_creator() -> None:
    """Nine items of creator 1 a little better than the others: without decay they are the feed."""
    value = np.concatenate([np.linspace(1, 0.9, 9), np.linspace(0.85, 0.7, 6)])
    creator = np.array([0, *[1] * 9, 2, 3, 4, 5, 6, 2])
    catalogue = Catalogue(("",) * 16, ((),) * 16, creator, creator, np.arange(16) > 0)
    shares = []
    for factor in (1.0, 0.5):
        config = RerankConfig(creator_factor=factor)
        found = rerank(
            value, np.arange(1, 16), catalogue, np.eye(16), config, 8, np.random.default_rng(0)
        )
        shares.append(float((creator[found.rows + 1] == 1).mean()))
    assert shares == [1.0, 0.25]


def test_moved_up_and_filled_in_items_say_so() -> None:
    """The page explains each place: three of creator 9 stand behind, and the minimum is half."""
    creator = np.array([0, 1, 1, 1, 1, 9, 9, 9])
    visible = np.array([False, True, False, True, True, True, True, True])
    catalogue = Catalogue(("",) * 8, ((),) * 8, creator, creator, visible)
    config = RerankConfig(min_exposure=0.5, protected_creators=(9,))
    ids, value = np.arange(1, 8), np.linspace(1, 0.4, 7)
    found = rerank(value, ids, catalogue, np.eye(8), config, 4, np.random.default_rng(0))
    assert ids[found.rows].tolist() == [1, 5, 3, 6]
    assert found.slot == (Slot.RANKED, Slot.EXPOSURE, Slot.RANKED, Slot.EXPOSURE)
    plain = rerank(value, ids, catalogue, np.eye(8), RerankConfig(), 4, np.random.default_rng(0))
    assert ids[plain.rows].tolist() == [1, 3, 4, 5]
    assert plain.slot == (Slot.RANKED, Slot.RANKED, Slot.RANKED, Slot.BACKFILL)


def test_items_that_this_user_may_not_see_are_left_out() -> None:
    """``allowed`` replaces the catalogue's view; with none left the feed is empty, not an error."""
    value, ids, catalogue, vectors = world(2)
    best = int(np.argmax(value))
    allowed = catalogue.visible[ids] & (np.arange(len(ids)) != best)
    rng = np.random.default_rng(0)
    assert (
        best
        not in rerank(value, ids, catalogue, vectors, EVERYTHING, 20, rng, allowed=allowed).rows
    )
    nobody = np.zeros(len(ids), dtype=bool)
    empty = rerank(value, ids, catalogue, vectors, EVERYTHING, 20, rng, allowed=nobody)
    assert empty.rows.tolist() == []
    assert empty.slot == ()
    assert empty.propensity.tolist() == []


def test_one_place_is_never_explored() -> None:
    """The first place is not a slot, so a feed of one has none."""
    found = chosen(EVERYTHING, k=1)
    assert found.propensity.tolist() == [1.0]
    assert found.slot != (Slot.EXPLORATION,)


def test_a_config_survives_json() -> None:
    """It is part of a bundle's manifest, and an experiment's arms differ in it."""
    import json

    assert RerankConfig.from_json(json.loads(json.dumps(EVERYTHING.as_json()))) == EVERYTHING
    assert RerankConfig.from_json({}) == RerankConfig()
    with pytest.raises(InputError, match="unknown key 'diversty'"):
        RerankConfig.from_json({"diversty": "mmr"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("diversity", "random"),
        ("diversity_weight", 1.0),
        ("diversity_weight", float("nan")),
        ("creator_factor", 0.0),
        ("creator_floor", 1.5),
        ("min_exposure", 1.2),
        ("protected_creators", ()),
        ("protected_creators", (0,)),
        ("exploration_slots", 4),
        ("exploration_pool", 0),
        ("exploration_sharpness", 11.0),
    ],
)
def test_a_config_outside_its_limits_is_refused(field: str, value: object) -> None:
    """A feed is not the place to find out; the message names the field."""
    with pytest.raises(InputError):
        replace(EVERYTHING, **{field: value})


def test_bad_values_are_refused() -> None:
    """A NaN among the values would sort anywhere."""
    value, ids, catalogue, vectors = world(0)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="must be finite"):
        rerank(value * np.nan, ids, catalogue, vectors, EVERYTHING, 5, rng)
    with pytest.raises(InputError, match=r"value \(39,\)"):
        rerank(value[1:], ids, catalogue, vectors, EVERYTHING, 5, rng)
    with pytest.raises(InputError, match="k = 0"):
        rerank(value, ids, catalogue, vectors, EVERYTHING, 0, rng)
