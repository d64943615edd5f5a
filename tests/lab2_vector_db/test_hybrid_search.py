import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db import hybrid_search


def ids_of(*rankings, k=5, **how):
    """Fuse one query's rankings, given as plain lists; the ids as a list."""
    arrays = [np.array([ranking], dtype=np.int64) for ranking in rankings]
    return hybrid_search.reciprocal_rank_fusion(arrays, k, **how)[1][0].tolist()


def score_of(wanted, *rankings, k=8, **how):
    """The fused score of one id; NaN when it is not returned."""
    arrays = [np.array([ranking], dtype=np.int64) for ranking in rankings]
    scores, ids = hybrid_search.reciprocal_rank_fusion(arrays, k, **how)
    at = np.flatnonzero(ids[0] == wanted)
    assert len(at) <= 1, f"id {wanted} is returned {len(at)} times, expected once: {ids[0]}"
    return float(scores[0, at[0]]) if len(at) else float("nan")


@pytest.mark.exercise("2.7")
def test_the_first_place_has_rank_one():
    """A document that is first in one ranking scores 1 / (60 + 1).

    Counting from 0 shifts every constant you read about by one, and divides by zero at constant 0.
    """
    score = score_of(4, [4, 7, 9])
    assert score == pytest.approx(1 / 61), f"first of one ranking: expected 1/61, got {score}"
    score = score_of(7, [4, 7, 9], rank_constant=0.0)
    assert score == pytest.approx(1 / 2), f"second, constant 0: expected 1/2, got {score}"


@pytest.mark.exercise("2.7")
def test_what_two_searches_found_adds_up():
    """Two good places beat one excellent place: that is the whole idea.

    Document 8 is second for both searches, 1/62 + 1/62; the firsts have 1/61 each.
    """
    ids = ids_of([1, 8, 2], [3, 8, 4])
    assert ids == [8, 1, 3, 2, 4], f"expected [8, 1, 3, 2, 4], got {ids}"
    score = score_of(8, [1, 8, 2], [3, 8, 4])
    assert score == pytest.approx(2 / 62), f"expected 2/62, got {score}"


@pytest.mark.exercise("2.7")
def test_a_document_that_one_search_missed_is_kept_and_gets_nothing_for_it():
    """Hybrid search exists for what one side cannot find at all, so nothing is cut to the overlap.

    A missing document must not be given a rank either: rank 1 would let absence win.
    """
    ids = ids_of([5, 6], [6, 7])
    assert sorted(ids) == [-1, -1, 5, 6, 7], f"expected 5, 6, 7 and two empty slots, got {ids}"
    assert ids[0] == 6, f"only 6 is in both rankings: expected it first, got {ids}"
    score = score_of(7, [5, 6], [6, 7])
    assert score == pytest.approx(1 / 62), f"7 is second in one ranking: 1/62, got {score}"


@pytest.mark.exercise("2.7")
def test_an_empty_slot_is_no_document():
    """A filtered search returns -1 where it ran out. Two of those must not be fused into a hit.

    As a document, -1 would be in both rankings at once, and the best of all.
    """
    rankings = [3, -1, -1], [-1, 9, -1]
    ids = ids_of(*rankings)
    assert ids == [3, 9, -1, -1, -1], f"expected [3, 9, -1, -1, -1], got {ids}"
    scores, _ = hybrid_search.reciprocal_rank_fusion([np.array([r]) for r in rankings], 3)
    assert np.isnan(scores[0, 2]), f"an empty slot has the score NaN, got {scores[0, 2]}"
    score = score_of(9, *rankings)
    assert score == pytest.approx(1 / 62), f"9 stands second: expected 1/62, got {score}"


@pytest.mark.exercise("2.7")
def test_a_document_counts_once_in_each_ranking():
    """An index with an outdated copy, or two passages of one document, returns an id twice.

    Adding both places would rank copies, not relevance.
    """
    ids = ids_of([1, 2, 2, 2], [3, 1, 4])
    assert ids[:2] == [1, 3], f"1 is in both rankings, 2 in one only: expected 1, 3, got {ids}"
    score = score_of(2, [1, 2, 2, 2], [3, 1, 4])
    assert score == pytest.approx(1 / 62), f"2 counts where it stands first: 1/62, got {score}"
    score = score_of(2, [2, 1, 2])
    assert score == pytest.approx(1 / 61), f"2 counts where it stands first: 1/61, got {score}"


@pytest.mark.exercise("2.7")
def test_weights_say_how_much_a_ranking_counts():
    """With weight 0 a ranking says nothing; with 3 to 1 the first side's order wins."""
    arrays = [np.array([[1, 2]]), np.array([[2, 1]])]
    for weights, expected in (([3.0, 1.0], [1, 2]), ([1.0, 3.0], [2, 1]), ([0.0, 1.0], [2, 1])):
        _, ids = hybrid_search.reciprocal_rank_fusion(arrays, 2, weights=weights)
        assert ids[0].tolist() == expected, f"weights {weights}: expected {expected}, got {ids[0]}"
    score = score_of(1, [1, 2], [2, 1], weights=[3.0, 1.0])
    assert score == pytest.approx(3 / 61 + 1 / 62), f"expected 3/61 + 1/62, got {score}"


@pytest.mark.exercise("2.7")
def test_each_query_is_fused_alone_and_ties_go_to_the_smaller_id():
    """Ids of other queries must not leak in, and equal scores need one order on every machine."""
    rankings = [np.array([[9, 4, 1], [5, 6, 7]]), np.array([[4, 9], [8, -1]])]
    scores, ids = hybrid_search.reciprocal_rank_fusion(rankings, 3)
    assert ids.tolist() == [[4, 9, 1], [5, 8, 6]], f"expected [[4,9,1],[5,8,6]], got {ids.tolist()}"
    assert scores.shape == (2, 3), f"expected scores of shape (2, 3), got {scores.shape}"


rows = st.lists(st.integers(-1, 9), min_size=3, max_size=3)
queries = st.lists(st.tuples(rows, rows), min_size=1, max_size=4)


@pytest.mark.exercise("2.7")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(queries, st.integers(1, 8), st.sampled_from([0.0, 1.0, 60.0]))
def test_fusion_equals_the_formula_with_dictionaries(pairs, k, constant):
    """For any two rankings, -1 and repetitions included: the sum over rankings of 1/(c + rank)."""
    rankings = [np.array(side, dtype=np.int64) for side in zip(*pairs)]
    scores, ids = hybrid_search.reciprocal_rank_fusion(rankings, k, rank_constant=constant)
    for row, pair in enumerate(pairs):
        total = {}
        for ranking in pair:
            for name in {*ranking} - {-1}:
                total[name] = total.get(name, 0.0) + 1 / (constant + ranking.index(name) + 1)
        ordered = sorted(total.items(), key=lambda item: (-round(item[1], 12), item[0]))[:k]
        expected = [name for name, _ in ordered] + [-1] * (k - len(ordered))
        assert ids[row].tolist() == expected, (
            f"rankings {pair}, constant {constant}: expected {expected}, got {ids[row].tolist()}"
        )
        np.testing.assert_allclose(scores[row, : len(ordered)], [score for _, score in ordered])


@pytest.mark.parametrize(
    ("rankings", "k", "how", "message"),
    [
        ([], 3, {}, "number of rankings"),
        ([np.array([1, 2])], 3, {}, r"must be \[q, r\]"),
        ([np.array([[1]]), np.array([[1], [2]])], 3, {}, "must have 1 rows"),
        ([np.array([[1]])], 0, {}, "k = 0"),
        ([np.array([[1]])], 3, {"rank_constant": -1.0}, "rank_constant"),
        ([np.array([[1]])], 3, {"weights": [1.0, 2.0]}, "weights"),
        ([np.array([[1]])], 3, {"weights": [-1.0]}, "weights"),
    ],
)
def test_what_cannot_be_fused_is_refused(rankings, k, how, message):
    with pytest.raises(InputError, match=message):
        hybrid_search.reciprocal_rank_fusion(rankings, k, **how)


def test_normalized_scores_have_the_promised_range():
    scores = np.array([[9.0, 5.0, 1.0, np.nan], [2.0, 2.0, np.nan, np.nan], [np.nan] * 4])
    np.testing.assert_allclose(
        hybrid_search.min_max(scores), [[1, 0.5, 0, np.nan], [1, 1, np.nan, np.nan], [np.nan] * 4]
    )
    z = hybrid_search.z_score(scores)
    assert z[0, 2] == 0, "the last candidate has 0, as has one that was not found"
    assert z[0, 0] - z[0, 1] == pytest.approx(4 / np.std([9, 5, 1]))
    three = hybrid_search.three_sigma(scores)
    np.testing.assert_allclose(three[0, 1], 0.5)
    np.testing.assert_allclose(three[1, :2], 0.5)
    assert np.isnan(three[2]).all()


def test_scores_fuse_by_size_and_not_only_by_rank():
    dense = np.array([[0.9, 0.2, 0.1]]), np.array([[1, 2, 3]])
    sparse = np.array([[7.0, 6.9, 1.0]]), np.array([[2, 1, 4]])
    for normalize in hybrid_search.NORMALIZATIONS.values():
        scores, ids = hybrid_search.weighted_sum(
            [dense[0], sparse[0]], [dense[1], sparse[1]], 5, weights=[0.5, 0.5], normalize=normalize
        )
        assert ids[0, 0] == 1, "a narrow second and a clear first beat the reverse"
        assert ids[0, 4] == -1
        assert np.isnan(scores[0, 4])


def test_weighted_scores_refuse_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"scores\.shape"):
        hybrid_search.weighted_sum([np.ones((1, 2))], [np.array([[1, 2, 3]])], 2, weights=[1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hybrid_search.RankFusion(dense_weight=1.5), "dense_weight"),
        (lambda: hybrid_search.RankFusion(rank_constant=-1), "rank_constant"),
        (lambda: hybrid_search.ScoreFusion(depth=0), "depth"),
        (lambda: hybrid_search.ScoreFusion(normalization="softmax"), "must be one of min_max"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(queries)
def test_all_weight_on_one_side_gives_the_order_of_that_side(pairs):
    """The found documents of the other side come behind, with 0."""
    rankings = [np.array(side, dtype=np.int64) for side in zip(*pairs)]
    scores = [np.where(r < 0, np.nan, [[5.0, 3.0, 2.0]]) for r in rankings]
    for fusion in (hybrid_search.RankFusion(dense_weight=1.0, depth=3),):
        _, ids = fusion.fuse((scores[0], rankings[0]), (scores[1], rankings[1]), 6)
        for row, ranking in enumerate(rankings[0].tolist()):
            own = list(dict.fromkeys(name for name in ranking if name >= 0))
            assert ids[row, : len(own)].tolist() == own


TEXTS = [
    "sort an array of numbers",
    "array of strings in order of length",
    "gradient descent with momentum",
    "momentum of a moving body",
    "open a file for reading",
]
IDS = np.array([30, 10, 50, 20, 40])


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    from labs.lab2_vector_db.collection import Collection, Schema

    folder = tmp_path_factory.mktemp("hybrid") / "docs"
    schema = Schema(dimension=4, metric="cosine", fields={"library": "keyword"})
    vectors = np.eye(5, 4, dtype=np.float32) + np.float32(0.1)
    with Collection.create(folder, schema) as made:
        made.upsert(IDS, vectors, {"library": ["a", "a", "b", "b", "b"]})
        yield made


def test_a_filter_holds_for_both_sides_of_a_hybrid_search(collection):
    """A filter on the vectors alone lets the words bring back what was excluded."""
    from labs.lab2_vector_db.filters import Eq
    from labs.lab2_vector_db.sparse_search import BM25Index

    searcher = hybrid_search.HybridSearcher(collection, BM25Index(IDS, TEXTS))
    vector = np.eye(1, 4, dtype=np.float32)
    everything = searcher.search(vector, ["momentum"], 5)
    assert {20, 30, 50} <= set(everything.ids[0].tolist())
    hits = searcher.search(vector, ["array of numbers, momentum"], 5, filter=Eq("library", "b"))
    assert set(hits.ids[0].tolist()) == {20, 40, 50, -1}
    none = searcher.search(vector, ["momentum"], 3, filter=Eq("library", "c"))
    assert none.ids[0].tolist() == [-1, -1, -1]
    assert np.isnan(none.scores).all()


def test_a_query_without_known_words_is_answered_by_the_vectors(collection):
    from labs.lab2_vector_db.sparse_search import BM25Index

    searcher = hybrid_search.HybridSearcher(
        collection, BM25Index(IDS, TEXTS), fusion=hybrid_search.ScoreFusion()
    )
    hits = searcher.search(np.eye(1, 4, dtype=np.float32), ["zebra"], 2)
    assert hits.ids[0, 0] == 30


def test_each_vector_needs_its_text(collection):
    from labs.lab2_vector_db.sparse_search import BM25Index

    searcher = hybrid_search.HybridSearcher(collection, BM25Index(IDS, TEXTS))
    with pytest.raises(InputError, match="texts = 1 must be 2"):
        searcher.search(np.ones((2, 4), np.float32), ["one"], 3)
