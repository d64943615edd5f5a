import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db.ranking_metrics import in_rank_order, mrr_at_k, ndcg_at_k, success_at_k


def test_one_known_item_at_rank_r_has_ndcg_one_over_log2_of_r_plus_one():
    found = np.array([[7, 1, 2], [1, 7, 2], [1, 2, 7], [1, 2, 3]])
    true = np.full((4, 1), 7)
    np.testing.assert_allclose(
        ndcg_at_k(found, true), [1.0, 1 / math.log2(3), 1 / math.log2(4), 0.0]
    )
    np.testing.assert_allclose(mrr_at_k(found, true), [1.0, 1 / 2, 1 / 3, 0.0])
    np.testing.assert_allclose(success_at_k(found, true, k=2), [1, 1, 0, 0])


def test_graded_relevance_is_used_as_it_is():
    found = np.array([[5, 6, 9]])
    ndcg = ndcg_at_k(found, np.array([[6, 5, 8]]), gains=np.array([[3.0, 1.0, 2.0]]))
    dcg = 1 / math.log2(2) + 3 / math.log2(3)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(ndcg, [dcg / ideal])


def test_what_stands_behind_the_cut_off_counts_nothing_and_ideal_is_cut_as_well():
    true = np.arange(20)[None, :]
    assert ndcg_at_k(true, true, k=10)[0] == pytest.approx(1.0)
    assert ndcg_at_k(np.array([[99] * 10 + [3]]), np.array([[3]]), k=10)[0] == 0


def test_a_repeated_id_counts_once():
    """Otherwise a ranking of one relevant document ten times over would exceed 1."""
    ndcg = ndcg_at_k(np.array([[3, 3, 3]]), np.array([[3, 4]]))
    assert ndcg[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_an_empty_slot_matches_no_padding():
    found, true = np.array([[-1, 2]]), np.array([[2, -1]])
    assert ndcg_at_k(found, true)[0] == pytest.approx(1 / math.log2(3))
    assert mrr_at_k(found, true)[0] == 0.5


def test_equal_scores_stand_in_the_order_of_their_ids():
    """A metric that depends on how a sort breaks ties differs from machine to machine."""
    scores = np.array([[0.5, np.nan, 0.9, 0.5]])
    ordered, ids = in_rank_order(scores, np.array([[8, -1, 4, 2]]))
    assert ids.tolist() == [[4, 2, 8, -1]]
    np.testing.assert_array_equal(ordered, [[0.9, 0.5, 0.5, np.nan]])


@pytest.mark.parametrize(
    ("found", "true", "how", "message"),
    [
        (np.array([1]), np.array([[1]]), {}, "found_ids.shape"),
        (np.array([[1]]), np.array([1]), {}, "true_ids.shape"),
        (np.array([[1]]), np.array([[1], [2]]), {}, "as many rows"),
        (np.array([[1]]), np.array([[-1]]), {}, "must hold an id"),
        (np.array([[1]]), np.array([[1]]), {"k": 0}, "k = 0"),
        (np.array([[1]]), np.array([[1]]), {"gains": np.array([[0.0]])}, "gains"),
        (np.array([[1]]), np.array([[1]]), {"gains": np.array([1.0])}, "gains.shape"),
    ],
)
def test_ids_that_do_not_belong_together_are_refused(found, true, how, message):
    with pytest.raises(InputError, match=message):
        ndcg_at_k(found, true, **how)


ids = st.lists(st.integers(-1, 12), min_size=5, max_size=5)
relevant = st.lists(st.integers(0, 12), min_size=3, max_size=3, unique=True)


@settings(derandomize=True, deadline=None)
@given(ids, relevant, st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=3, max_size=3))
def test_metrics_equal_their_definition_in_plain_python(found, true, gains):
    worth = dict(zip(true, gains))
    seen: set[int] = set()
    dcg, first = 0.0, 0
    for rank, name in enumerate(found, start=1):
        if name in worth and name not in seen:
            dcg += worth[name] / math.log2(rank + 1)
            first = first or rank
        seen.add(name)
    best = sorted(gains, reverse=True)
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, start=1))
    arrays = np.array([found]), np.array([true])
    ndcg = ndcg_at_k(*arrays, gains=np.array([gains]))[0]
    assert ndcg == pytest.approx(dcg / ideal)
    assert 0 <= ndcg <= 1 + 1e-12
    assert mrr_at_k(*arrays)[0] == (1 / first if first else 0)
    assert success_at_k(*arrays)[0] == (first > 0)
