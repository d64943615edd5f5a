"""Offline metrics, against scikit-learn where it computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import offline_metrics


def random_case(seed: int, n: int = 20, items: int = 30, k: int = 5):
    """scores, lists and relevant films; every user has at least one."""
    rng = np.random.default_rng(seed)
    scores = rng.random((n, items))
    relevant = rng.random((n, items)) < rng.uniform(0.05, 0.5)
    relevant[np.arange(n), rng.integers(0, items, n)] = True
    return scores, np.argsort(-scores, axis=1)[:, :k], relevant


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn(seed: int, k: int) -> None:
    """The production tool and the formula agree to 1e-9, so ours can be read in its place."""
    from sklearn.metrics import ndcg_score

    scores, lists, relevant = random_case(seed, k=k)
    ours = float(offline_metrics.ndcg(lists, relevant).mean())
    theirs = ndcg_score(relevant.astype(float), scores, k=k)
    assert ours == pytest.approx(theirs, abs=1e-9), f"ours {ours}, sklearn {theirs}"


def test_a_list_of_all_held_out_films_is_perfect() -> None:
    """Two held out, both at the top: NDCG 1 although the list has room for more."""
    relevant = np.array([[True, True, False, False]])
    lists = np.array([[1, 0, 3]])
    assert offline_metrics.ndcg(lists, relevant) == pytest.approx([1.0])
    assert offline_metrics.recall(lists, relevant) == pytest.approx([1.0])
    assert offline_metrics.reciprocal_rank(np.array([[3, 2, 0]]), relevant) == pytest.approx(
        [1 / 3]
    )


def test_no_hit_is_zero_everywhere() -> None:
    """argmax of no hit is position 0: a reciprocal rank of 1 would reward the worst list."""
    relevant = np.array([[True, False, False, False]])
    found = offline_metrics.evaluate(np.array([[1, 2], [0, 1]]), np.vstack([relevant, relevant]))
    assert offline_metrics.reciprocal_rank(np.array([[1, 2]]), relevant) == pytest.approx([0.0])
    assert found.mrr.mean == pytest.approx(0.5)
    assert found.coverage == pytest.approx(3 / 4)
    assert found.ndcg.low < found.ndcg.mean < found.ndcg.high


def test_a_hit_on_what_everybody_knows_can_be_worth_nothing() -> None:
    """With weights 1 - popularity the hit on a film that all have seen adds nothing."""
    relevant = np.array([[True, True, False]])
    lists = np.array([[0, 1]])
    value = offline_metrics.weighted_hits(lists, relevant, np.array([0.0, 1.0, 1.0]))
    assert value == pytest.approx([1 / np.log2(3)])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[0, 0], [0, 1]], "lists that hold an item twice = 1 must be 0"),
        ([[0, 1], [0, 9]], "highest item = 9 must be below 3"),
        ([[0, -1], [0, 1]], "lowest item = -1 must be at least 0"),
        ([[0, 1]], r"shape of relevant = \(2, 3\) must be \[1, n_items\]"),
    ],
)
def test_lists_that_are_no_lists_are_refused(lists: list[list[int]], message: str) -> None:
    relevant = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=message):
        offline_metrics.ndcg(np.array(lists), relevant)


def test_a_user_without_held_out_films_is_named_not_counted_as_zero() -> None:
    relevant = np.array([[True, False], [False, False]])
    with pytest.raises(ValueError, match="users without a held-out item = 1"):
        offline_metrics.recall(np.array([[0, 1], [0, 1]]), relevant)
