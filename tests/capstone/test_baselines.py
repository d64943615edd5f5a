"""The published numbers of the baselines, reproduced on the frozen split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.baselines import ease, logistic_regression_scores, popularity
from capstone.data import Feed, ranking_set
from capstone.measure import auc, auc_difference, auc_interval
from capstone.rank_metrics import hit_rate, list_ndcg, ndcg, ranks
from common.errors import RunError

TOLERANCE = 0.0005


def test_popularity_reproduces_its_published_numbers(feed: Feed) -> None:
    scores = np.tile(popularity(feed.matrix(feed.train)), (feed.n_users, 1))
    rank = ranks(scores, feed.test_items, feed.seen)
    assert hit_rate(rank).mean() == pytest.approx(0.0859, abs=TOLERANCE)
    assert ndcg(rank).mean() == pytest.approx(0.0450, abs=TOLERANCE)


def test_ease_reproduces_its_published_numbers(feed: Feed) -> None:
    scores = feed.matrix(feed.test_history) @ ease(feed.matrix(feed.train), 500.0)
    rank = ranks(scores, feed.test_items, feed.seen)
    assert hit_rate(rank).mean() == pytest.approx(0.1410, abs=TOLERANCE)
    assert ndcg(rank).mean() == pytest.approx(0.0735, abs=TOLERANCE)


def test_ease_weights_solve_the_constrained_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    train = (rng.random((40, 6)) < 0.4).astype(float)
    weights = ease(train, 3.0)
    assert np.allclose(np.diag(weights), 0)
    # At the optimum the gradient vanishes everywhere but on the constrained diagonal.
    gradient = train.T @ (train @ weights - train) + 3.0 * weights
    assert np.allclose(gradient - np.diag(np.diag(gradient)), 0, atol=1e-9)


def test_logistic_regression_separates_likes_from_dislikes(feed: Feed) -> None:
    rows = ranking_set(feed)
    scores = logistic_regression_scores(feed, rows)
    low, high = auc_interval(rows.liked, scores, rows.user, n_boot=200, seed=0)
    assert low < auc(rows.liked, scores) < high
    assert auc(rows.liked, scores) > 0.77


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_the_auc_equals_scikit_learns_with_ties(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.5
    labels[:2] = (True, False)
    scores = rng.normal(size=60).round(1)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_a_model_gains_nothing_over_itself() -> None:
    rng = np.random.default_rng(0)
    labels, scores, users = rng.random(80) < 0.5, rng.normal(size=80), np.arange(80) // 2
    value, interval = auc_difference(labels, scores, scores, users, n_boot=100, seed=0)
    assert (value, interval) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_numbers_are_refused(bad: float) -> None:
    """NaN is greater than nothing, so a broken model would get a perfect NDCG."""
    scores = np.array([[0.0, bad, 1.0]])
    masked = np.array([[True, False, False]])
    with pytest.raises(RunError, match="not finite"):
        ranks(scores, np.array([2]), masked)
    with pytest.raises(RunError, match="masked"):
        ranks(np.ones((1, 3)), np.array([0]), masked)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.permutations(range(1, 13)), st.integers(0, 11))
def test_a_rank_is_the_number_of_better_items(order: list[int], position: int) -> None:
    scores = np.zeros((1, 13))
    scores[0, order] = np.arange(12, 0, -1)
    masked = np.zeros((1, 13), dtype=bool)
    masked[0, 0] = True
    target = np.array([order[position]])
    rank = ranks(scores, target, masked)
    assert rank[0] == position
    top = np.array([order[:10]])
    assert list_ndcg(top, target)[0] == ndcg(rank)[0]


def test_masked_items_do_not_push_a_target_down() -> None:
    scores = np.array([[0.0, 9.0, 8.0, 1.0]])
    masked = np.array([[True, True, True, False]])
    assert ranks(scores, np.array([3]), masked)[0] == 0
