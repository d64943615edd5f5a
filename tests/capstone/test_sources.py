"""Candidates from several sources: who placed them, who may see them, and that there are enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import sources
from capstone.sources import Quotas, SourceTables, gather
from common.errors import InputError

N = 30


def tables(seed: int = 0, *, n_items: int = N, popular: int = 12) -> SourceTables:
    rng = np.random.default_rng(seed)
    neighbours = rng.integers(0, n_items + 1, (n_items + 1, 4)).astype(np.int32)
    weights = np.where(neighbours > 0, rng.random(neighbours.shape), 0).astype(np.float32)
    neighbours[0], weights[0] = 0, 0
    order = rng.permutation(np.arange(1, n_items + 1)).astype(np.int32)
    return SourceTables(
        neighbours, weights, order[:popular], order[::-1][:5].copy(), Quotas(4, 3, 2, 1), 6, 3.0
    )


def masks(n_items: int = N) -> tuple[np.ndarray, np.ndarray]:
    visible = np.ones(n_items + 1, dtype=bool)
    visible[0] = False
    return np.zeros(n_items + 1, dtype=bool), visible


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def line(popular: tuple[int, ...] = (), fresh: tuple[int, ...] = ()) -> SourceTables:
    """Item i has the one neighbour i + 1."""
    neighbours = np.arange(1, N + 2, dtype=np.int32)[:, None]
    neighbours[[0, N]] = 0
    weights = (neighbours > 0).astype(np.float32)
    return SourceTables(neighbours, weights, np.array(popular, np.int32), np.array(fresh, np.int32))


@st.composite
def requests(draw: st.DrawFn) -> dict[str, object]:
    item = st.integers(-1, N + 3)
    limit = draw(st.integers(1, N + 5))
    quota = st.integers(0, limit // 4)
    hidden = draw(st.lists(st.integers(1, N), max_size=N))
    seen, visible = masks()
    history = ids(*draw(st.lists(item, max_size=12)))
    seen[hidden[::2]] = True
    visible[hidden[1::2]] = False
    return {
        "nearest_ids": ids(*draw(st.lists(item, max_size=N))),
        "history": history,
        "tables": tables(draw(st.integers(0, 3)), popular=draw(st.integers(0, N))),
        "limit": limit,
        "quotas": Quotas(*(draw(quota) for _ in range(4))),
        "seen": seen | sources.mask_of(history, N),
        "visible": visible,
    }


@settings(derandomize=True, deadline=None, max_examples=60)
@given(requests())
def test_there_are_always_enough_candidates_and_none_twice_seen_or_hidden(request: dict) -> None:
    """A short list starves the ranker; a seen or withdrawn item in it reaches the user."""
    found = gather(**request)
    allowed = request["visible"] & ~request["seen"]
    assert len(found.ids) == min(request["limit"], allowed.sum())
    assert len(set(found.ids.tolist())) == len(found.ids)
    assert allowed[found.ids].all(), f"not allowed: {found.ids[~allowed[found.ids]]}"
    assert (found.source > 0).all(), "every candidate says where it comes from"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(requests())
def test_the_same_request_gives_the_same_candidates(request: dict) -> None:
    """An experiment's arms differ by their models only if all else is deterministic."""
    first, second = gather(**request), gather(**request)
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.source, second.source)


def test_each_source_places_its_quota_and_the_nearest_fill_the_rest() -> None:
    seen, visible = masks()
    found = gather(
        np.arange(1, 21), ids(24, 26), line((28, 29, 1, 2), (30,)),
        limit=8, quotas=Quotas(2, 1, 1, 1), seen=seen, visible=visible,
    )  # fmt: skip
    assert found.ids.tolist() == [1, 2, 25, 28, 30, 3, 4, 5]


def test_an_item_that_two_sources_offer_is_one_candidate_with_both_bits() -> None:
    """Without all bits a source's contribution looks smaller than it is."""
    seen, visible = masks()
    found = gather(
        ids(5, 6, 7), ids(4), line((6, 9)),
        limit=4, quotas=Quotas(1, 1, 1, 0), seen=seen, visible=visible,
    )  # fmt: skip
    assert found.ids.tolist() == [5, 6, 7, 9]
    assert found.sources_of(0) == ("nearest", "item_to_item")
    assert found.sources_of(1) == ("nearest", "popular")
    assert found.sources_of(2) == ("nearest",)


def test_the_newest_item_of_the_history_counts_most_with_a_half_life() -> None:
    base = line()
    plain = sources.item_to_item(ids(8, 8, 3), base)
    assert plain.tolist() == [9, 4]
    decayed = SourceTables(base.neighbours, base.weights, base.popular, base.fresh, half_life=0.5)
    assert sources.item_to_item(ids(8, 8, 3), decayed).tolist() == [4, 9]


def test_a_user_without_history_gets_popular_and_fresh_items_only() -> None:
    """The query of an empty history is a constant vector: its neighbours are nobody's taste."""
    seen, visible = masks()
    for history in (ids(), ids(0, 0)):
        found = gather(
            np.arange(1, 21), history, line(tuple(range(20, 10, -1)), (30, 29)),
            limit=6, quotas=Quotas(3, 1, 1, 1), seen=seen, visible=visible,
        )  # fmt: skip
        assert found.ids.tolist() == [20, 30, 19, 18, 17, 16]
        names = {name for row in range(6) for name in found.sources_of(row)}
        assert names == {"popular", "fresh"}


def test_what_no_source_offers_is_marked_as_backfill() -> None:
    seen, visible = masks()
    found = gather(
        ids(), ids(), line((5,)), limit=3, quotas=Quotas(0, 0, 1, 0), seen=seen, visible=visible
    )
    assert found.ids.tolist() == [5, 1, 2]
    assert [found.sources_of(row) for row in range(3)] == [
        ("popular",), ("backfill",), ("backfill",),
    ]  # fmt: skip


def test_tables_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    written = tables()
    written.save(tmp_path / "sources.npz")
    read = SourceTables.load(tmp_path / "sources.npz")
    for name in ("neighbours", "weights", "popular", "fresh"):
        assert np.array_equal(getattr(read, name), getattr(written, name)), name
        assert getattr(read, name).dtype == getattr(written, name).dtype, name
    assert (read.quotas, read.recent, read.half_life) == (Quotas(4, 3, 2, 1), 6, 3.0)


def test_bad_limits_quotas_and_masks_are_refused_by_name() -> None:
    seen, visible = masks()
    request = {"nearest_ids": ids(), "history": ids(), "tables": tables(), "seen": seen,
               "visible": visible}  # fmt: skip
    with pytest.raises(InputError, match="sum of the quotas = 12 must be at most 10"):
        gather(**request, limit=10, quotas=Quotas(12))
    with pytest.raises(InputError, match="limit = 0"):
        gather(**request, limit=0, quotas=Quotas(0))
    with pytest.raises(InputError, match=r"visible\.shape"):
        gather(**request | {"visible": visible[:-1]}, limit=10, quotas=Quotas(0))
    with pytest.raises(InputError, match="quota of popular = -1"):
        Quotas(popular=-1)
    with pytest.raises(InputError, match="greatest id"):
        line(popular=(N + 1,))
