"""Item-to-item neighbours: shrunk similarities on counts done by hand, and what is kept of them."""

from __future__ import annotations

import numpy as np
import pytest

from capstone import sources
from capstone.baselines import ease
from capstone.data import Feed, Sequence
from capstone.item_to_item import (
    co_visitation,
    cosine,
    ease_weights,
    history_weights,
    strongest,
)
from capstone.sources import SourceTables
from common.errors import InputError


def sequence(*items: int) -> Sequence:
    values = np.array(items, dtype=np.int64)
    return Sequence(values, np.full(len(values), 4))


def test_cosine_of_one_common_user_is_shrunk_and_that_of_many_hardly() -> None:
    """Unshrunk, two films that one person saw are a perfect match, and fill the neighbours."""
    train = np.zeros((100, 5))
    train[0, [1, 2]] = 1
    train[1:, 3] = 1
    train[1:91, 4] = 1
    plain, shrunk = cosine(train, shrinkage=0), cosine(train, shrinkage=10)
    assert plain[1, 2] == pytest.approx(1.0)
    assert shrunk[1, 2] == pytest.approx(1 / 11)
    assert shrunk[3, 4] == pytest.approx(90 / (np.sqrt(99 * 90) + 10))
    assert plain[1, 2] > plain[3, 4]
    assert shrunk[1, 2] < shrunk[3, 4]


def test_co_visitation_counts_what_came_after_and_near_visits_more() -> None:
    weights = co_visitation((sequence(1, 2, 3),), 4, window=2, shrinkage=0.0)
    assert weights[1, 2] == pytest.approx(1.0)
    assert weights[1, 3] == pytest.approx(0.5), "two steps later counts half"
    assert weights[2, 1] == 0, "the second does not lead back to the first"
    assert co_visitation((sequence(1, 2, 3),), 4, window=1, shrinkage=0.0)[1, 3] == 0


def test_the_strongest_are_positive_ordered_and_never_the_item_itself() -> None:
    weights = np.array(
        [[9.0, 9, 9, 9], [9, 9, 0.2, 0.5], [9, -1, 9, 0.3], [9, 0.4, 0.4, 9]]
    )  # fmt: skip
    found = strongest(weights, 2)
    assert found.ids.tolist() == [[0, 0], [3, 2], [3, 0], [1, 2]]
    assert found.weights[1].tolist() == pytest.approx([0.5, 0.2])
    dense = found.dense()
    assert dense[2].tolist() == pytest.approx([0, 0, 0, 0.3])
    assert not dense[:, 0].any()
    with pytest.raises(InputError, match="m = 4 must be from 1 to 3"):
        strongest(weights, 4)


def test_the_online_source_orders_items_as_the_dense_weights_do(feed: Feed) -> None:
    """The half-life is chosen on dense matrices; the service looks neighbours up. They agree."""
    known = feed.train[:40]
    train = feed.matrix(feed.train)
    found = strongest(cosine(train, shrinkage=20), 60)
    nothing = np.zeros(0, np.int32)
    tables = SourceTables(found.ids, found.weights, nothing, nothing, recent=20, half_life=5.0)
    dense = history_weights(known, feed.n_items, recent=20, half_life=5.0) @ found.dense()
    for user, each in enumerate(known):
        online = sources.item_to_item(each.items, tables)
        values = dense[user][online]
        assert len(online) == (dense[user] > 0).sum(), user
        assert (np.diff(values) <= 1e-9).all(), f"user {user}: not in order of the dense scores"


def test_with_every_neighbour_and_all_history_alike_ease_is_the_baseline(feed: Feed) -> None:
    """The source is the baseline's own weights, cut: nothing is fitted twice."""
    train = feed.matrix(feed.train)[:, :200]
    weights = ease_weights(train, regularisation=500.0)
    assert np.array_equal(weights, ease(train, 500.0))
    kept = strongest(weights, 199).dense()
    positive = np.where(weights > 0, weights, 0)
    positive[0], positive[:, 0] = 0, 0
    assert np.allclose(kept, positive, atol=1e-6)
