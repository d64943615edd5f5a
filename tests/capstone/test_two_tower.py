"""The two towers, and what the objectives do to popular items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capstone import two_tower
from capstone.data import Feed
from capstone.two_tower import LogQStudy, Recipe, TwoTower, deciles, study_log_q


@pytest.fixture(scope="module")
def study(feed: Feed) -> LogQStudy:
    recipe = Recipe(width=16, max_length=15, epochs=3, dropout=0.0)
    return study_log_q(feed, recipe, n_seeds=1, seed=0)


def test_the_item_tower_adds_the_genres_to_the_embedding() -> None:
    """Two items of the same genres that nobody has seen have vectors that differ by the rest."""
    torch.manual_seed(0)
    genres = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1]])
    model = TwoTower(genres, 16, 5, layers=1, dropout=0.0)
    vectors = model.items()
    assert vectors.shape == (4, 16)
    assert not vectors[0].any(), "padding has a vector"
    columns = model.genre.weight.T
    assert torch.allclose(vectors[3] - model.user.items.weight[3], columns[1] + columns[2])
    with torch.no_grad():
        model.user.items.weight[1:] = 0
    assert torch.allclose(model.items()[1], model.items()[2])
    assert not torch.allclose(model.items()[1], model.items()[3])


def test_the_user_tower_reads_the_history_alone() -> None:
    """Were the candidates an input, no index could hold their vectors."""
    model = TwoTower(torch.zeros(9, 2), 16, 5, layers=1, dropout=0.0).eval()
    first = model(torch.tensor([[0, 0, 3, 4, 5]]))
    assert first.shape == (1, 5, 16)
    later = model(torch.tensor([[0, 0, 3, 4, 6]]))
    assert torch.allclose(first[:, :4], later[:, :4], atol=1e-6), "a state has seen the future"


def test_in_batch_with_everybody_as_a_negative_is_the_full_softmax() -> None:
    """Each item once in the batch, Q uniform: nothing is sampled, so nothing is lost."""
    torch.manual_seed(0)
    queries, vectors = torch.randn(6, 8), torch.randn(7, 8)
    targets = torch.randperm(6) + 1
    sampled = two_tower.in_batch(torch.zeros(7), group=6)(queries, vectors, targets)
    full = two_tower.full_softmax(queries, vectors, targets)
    assert float(sampled) == pytest.approx(float(full), rel=1e-5)


def test_without_the_correction_popular_items_disappear_and_with_it_they_come_back(
    study: LogQStudy,
) -> None:
    """The loss falls all the same: only a look at what is recommended shows it."""
    full, corrected, plain = (study.of(name) for name in two_tower.OBJECTIVES)
    assert plain.mean_popularity < 0.6 * full.mean_popularity, (plain, full)
    assert corrected.mean_popularity > 0.7 * full.mean_popularity, (corrected, full)
    assert study.ratio("in-batch, logQ") > study.ratio("in-batch, no correction") + 0.1


def test_the_deciles_of_the_study_add_up(study: LogQStudy, feed: Feed) -> None:
    assert sum(study.users_by_decile) == feed.n_users
    for each in study.objectives:
        assert sum(each.recommended_by_decile) == pytest.approx(1.0)
        weighted = np.dot(each.recall_by_decile, study.users_by_decile) / feed.n_users
        assert weighted == pytest.approx(each.recall)


def test_each_decile_has_a_tenth_of_the_interactions(feed: Feed) -> None:
    counts = feed.matrix(feed.train).sum(axis=0)
    decile = deciles(counts)
    share = np.bincount(decile, counts, minlength=10) / counts.sum()
    assert share == pytest.approx(np.full(10, 0.1), abs=0.01)
    assert counts[decile == 0].max() <= counts[decile == 9].min()
