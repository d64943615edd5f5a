"""Popular and fresh items: what counts, from when on, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.data import Feed
from capstone.popular_fresh import (
    DAY,
    decayed_popularity,
    freshest,
    most_popular,
    training_interactions,
)
from common.data import load
from common.errors import InputError


def test_an_interaction_of_one_half_life_ago_counts_half() -> None:
    items = np.array([1, 1, 2])
    times = np.array([0, 10 * DAY, 10 * DAY]).astype(np.int64)
    decayed = decayed_popularity(items, times, 3, half_life_days=10.0)
    assert decayed.tolist() == pytest.approx([0, 1.5, 1, 0])
    assert decayed_popularity(items, times, 3, half_life_days=np.inf).tolist() == [0, 2, 1, 0]
    with pytest.raises(InputError, match="half_life_days = 0"):
        decayed_popularity(items, times, 3, half_life_days=0)


def test_the_popularity_is_of_the_training_interactions_alone(feed: Feed) -> None:
    """With the held-out interactions in it the table would know the answers."""
    items, times = training_interactions(load("ml-100k").table("interactions"))
    counted = decayed_popularity(items, times, feed.n_items, half_life_days=np.inf)
    assert np.array_equal(counted, feed.matrix(feed.train).sum(axis=0))


def test_popular_items_are_visible_and_touched_and_in_order() -> None:
    popularity = np.array([9.0, 1, 3, 0, 3, 5])
    visible = np.array([False, True, True, True, True, False])
    assert most_popular(popularity, visible, 10).tolist() == [2, 4, 1]
    assert most_popular(popularity, visible, 2).tolist() == [2, 4]


def test_fresh_items_are_the_newest_and_of_equally_new_ones_the_more_popular() -> None:
    first_seen = np.array([0, 5, 7, 7, 6, 9])
    popularity = np.array([0.0, 9, 1, 4, 9, 9])
    visible = np.array([False, True, True, True, True, False])
    assert freshest(first_seen, popularity, visible, 3).tolist() == [3, 2, 4]
