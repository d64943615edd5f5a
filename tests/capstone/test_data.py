"""The frozen split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import data
from capstone.data import Feed, pad, ranking_set, split_hash
from common.data import load
from common.errors import RunError


def test_the_split_is_the_frozen_one(feed: Feed) -> None:
    assert feed.n_users == 943
    assert feed.n_items == 1682
    assert sum(len(s.items) for s in feed.sequences) == 100_000
    assert sum(len(s.items) for s in feed.train) == 100_000 - 2 * 943


def test_every_user_holds_out_the_newest_two_interactions(feed: Feed) -> None:
    for whole, train, known in zip(feed.sequences, feed.train, feed.test_history, strict=True):
        assert np.array_equal(train.items, whole.items[:-2])
        assert np.array_equal(known.items, whole.items[:-1])
    assert np.array_equal(feed.test_items, [s.items[-1] for s in feed.sequences])


def test_the_test_item_is_never_masked_as_seen(feed: Feed) -> None:
    rows = np.arange(feed.n_users)
    assert not feed.seen[rows, feed.test_items].any()
    assert feed.seen[:, 0].all()


def test_time_order_keeps_ties_in_file_order() -> None:
    table = load("ml-100k").table("interactions")
    ordered = table.sort_values(["user_id", "timestamp"], kind="stable")
    within = ordered.groupby("user_id")
    same = (within["timestamp"].diff() == 0).to_numpy()
    file_order = ordered.index.to_series().groupby(ordered["user_id"]).diff().to_numpy()
    shared = ordered.duplicated(["user_id", "timestamp"], keep=False).mean()
    assert shared == pytest.approx(0.758, abs=0.001), "most interactions have a tie"
    assert (file_order[same] > 0).all()


def test_another_tie_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load("ml-100k")
    by_item = dataset.table("interactions").sort_values(
        ["user_id", "timestamp", "item_id"], kind="stable"
    )
    assert split_hash(by_item) != data.SPLIT_SHA256
    monkeypatch.setattr(data, "SPLIT_SHA256", split_hash(by_item))
    with pytest.raises(RunError, match="no figure would be comparable"):
        data.prepare(dataset)


def test_the_hash_changes_with_a_single_rating() -> None:
    table = pd.DataFrame({"user_id": [1], "item_id": [2], "rating": [3], "timestamp": [4]})
    assert split_hash(table) != split_hash(table.assign(rating=4))


def test_the_ranking_set_holds_only_interactions_no_model_was_fitted_on(feed: Feed) -> None:
    rows = ranking_set(feed)
    assert len(rows.item) == 2 * 943
    for user, item, held_out in zip(rows.user, rows.item, rows.held_out, strict=True):
        assert item not in feed.train[user].items or held_out <= 2
        assert item == feed.sequences[user].items[-held_out]
    assert 0.4 < rows.liked.mean() < 0.7


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 1682), max_size=60), st.integers(1, 50))
def test_padding_keeps_the_newest_values_at_the_right(values: list[int], length: int) -> None:
    padded = pad(np.array(values, dtype=np.int64), length)
    kept = values[-length:]
    assert len(padded) == length
    assert padded[length - len(kept) :].tolist() == kept
    assert not padded[: length - len(kept)].any()
