"""The random 8:1:1 split, and the set ranker that is trained on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from capstone import random_split, random_split_study
from capstone.data import Feed
from capstone.random_split import TEST, TRAIN, VALIDATION, SetRanker, split_randomly
from capstone.random_split_study import SetRecipe, fit_set_ranker, set_logits


def test_the_split_is_the_one_whose_hash_is_committed(feed: Feed) -> None:
    """A figure on another split is another figure."""
    split = split_randomly(feed)
    assert split.sha256 == random_split.RANDOM_SPLIT_SHA256
    assert [len(split.rows(part)) for part in (TRAIN, VALIDATION, TEST)] == [80_000, 10_000, 10_000]


def test_the_split_does_not_depend_on_the_order_of_rows(feed: Feed) -> None:
    turned = replace(
        feed,
        sequences=tuple(
            replace(sequence, items=sequence.items[::-1], ratings=sequence.ratings[::-1])
            for sequence in feed.sequences
        ),
    )
    assert split_randomly(turned).sha256 == split_randomly(feed).sha256


def test_another_seed_gives_another_split(feed: Feed) -> None:
    one, other = split_randomly(feed), split_randomly(feed, seed=1)
    same = float((one.part == other.part).mean())
    assert same == pytest.approx(0.8**2 + 2 * 0.1**2, abs=0.01), "parts of two seeds are unrelated"


@pytest.fixture(scope="module")
def small(feed: Feed) -> Feed:
    return replace(feed, sequences=feed.sequences[:40])


def test_a_prediction_never_reads_a_rating_that_was_held_out(small: Feed) -> None:
    """Change every held-out rating: no logit may move, or the AUC would be that of a leak."""
    split = split_randomly(small)
    recipe = SetRecipe(width=16, max_length=20, draws=1)
    torch.manual_seed(0)
    model = SetRanker(
        torch.from_numpy(small.genres), small.n_users, 16, 20, layers=1, dropout=0.0
    ).eval()
    rows = split.rows(TEST)
    turned = np.where(split.part == TRAIN, split.rating, 6 - split.rating)
    before = set_logits(model, split, rows, recipe, seed=0)
    after = set_logits(model, replace(split, rating=turned), rows, recipe, seed=0)
    np.testing.assert_array_equal(before, after)
    spoiled = np.where(split.part == TRAIN, 6 - split.rating, split.rating)
    moved = set_logits(model, replace(split, rating=spoiled), rows, recipe, seed=0)
    assert np.abs(before - moved).max() > 1e-3, "training ratings must matter"


def test_a_target_is_not_in_the_history_before_it(small: Feed) -> None:
    """The history of a training row is the user's other ratings; with itself it is an answer."""
    split = split_randomly(small)
    order = np.random.default_rng(0).permutation(split.rows(TRAIN)[:30])
    history, ratings, nexts, next_ratings = random_split_study._batch(split, [order], 40)
    for at in torch.nonzero(nexts[0]).flatten().tolist():
        assert nexts[0, at] not in history[0, : at + 1]
    assert torch.equal((history > 0), (ratings > 0))
    assert torch.equal((nexts > 0), (next_ratings > 0))


def test_the_set_ranker_learns(small: Feed) -> None:
    """A few epochs must explain the training rows better than no model does."""
    split = split_randomly(small)
    recipe = SetRecipe(width=16, max_length=30, draws=1)
    rows = split.rows(TRAIN)

    def area(epochs: int) -> float:
        model = fit_set_ranker(small, split, recipe, epochs=epochs, seed=0)
        return random_split_study.measure.auc(
            split.liked[rows], set_logits(model, split, rows, recipe, seed=0)
        )

    untrained, trained = area(1), area(25)
    assert trained > max(0.6, untrained), (
        f"AUC {trained:.3f} on training rows, after one epoch {untrained:.3f}"
    )
