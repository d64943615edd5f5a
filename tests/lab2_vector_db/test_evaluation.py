import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db import evaluation


@pytest.mark.exercise("2.1")
def test_recall_is_the_share_of_true_ids_found_for_each_query():
    """Recall is a number a query: 3 of 4 found is 0.75, whatever other queries found.

    Only with one number a query can you give an interval, or see that a few queries lose all.
    """
    found = np.array([[4, 2, 9, 1], [5, 6, 7, 8]])
    true = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    recall = evaluation.recall_at_k(found, true)
    assert np.shape(recall) == (2,), f"expected one recall a query, shape (2,), got {recall!r}"
    np.testing.assert_allclose(recall, [0.75, 0.0])


@pytest.mark.exercise("2.1")
def test_recall_does_not_depend_on_the_order_inside_a_row():
    """A neighbour found at rank 3 in place of rank 1 is found.

    Comparing position by position measures whether the order agrees, and reads near 0 for a good
    index whose scores are only slightly off.
    """
    true = np.array([[10, 20, 30, 40]])
    recall = evaluation.recall_at_k(true[:, ::-1], true)
    assert recall[0] == 1.0, f"all four true ids are there, in reverse: expected 1, got {recall[0]}"


@pytest.mark.exercise("2.1")
def test_minus_one_is_nothing_found_and_never_a_match():
    """faiss fills a row with -1 when the visited lists run out; -1 on both sides is no hit.

    Counting it makes recall rise when the search returns less.
    """
    found = np.array([[3, -1, -1, -1]])
    true = np.array([[3, 5, -1, -1]])
    recall = evaluation.recall_at_k(found, true)
    assert recall[0] == 0.5, f"1 of the 2 real true ids was found: expected 0.5, got {recall[0]}"


@pytest.mark.exercise("2.1")
def test_an_id_found_twice_counts_once():
    """A broken index may return one id twice; that must not look like two neighbours found."""
    recall = evaluation.recall_at_k(np.array([[1, 1, 1, 1]]), np.array([[1, 2, 3, 4]]))
    assert recall[0] == 0.25, f"one of four true ids was found: expected 0.25, got {recall[0]}"


@pytest.mark.exercise("2.1")
def test_a_longer_result_list_is_measured_against_the_true_neighbours():
    """Recall divides by the number of true neighbours, not by how many were returned."""
    found = np.array([[1, 2, 3, 4, 5, 6, 7, 8]])
    recall = evaluation.recall_at_k(found, np.array([[1, 2]]))
    assert recall[0] == 1.0, f"both true ids are among the eight: expected 1, got {recall[0]}"


rows = st.integers(1, 6).flatmap(
    lambda k: st.lists(
        st.tuples(
            st.lists(st.integers(-1, 12), min_size=k, max_size=k),
            st.lists(st.integers(0, 12), min_size=k, max_size=k, unique=True),
        ),
        min_size=1,
        max_size=5,
    )
)


@pytest.mark.exercise("2.1")
@settings(derandomize=True, deadline=None)
@given(rows)
def test_recall_equals_set_arithmetic(pairs):
    """For any ids: |found ∩ true| / |true|, a query at a time, with Python's own sets."""
    found, true = (np.array(side) for side in zip(*pairs))
    expected = [len((set(f) - {-1}) & set(t)) / len(t) for f, t in pairs]
    np.testing.assert_allclose(evaluation.recall_at_k(found, true), expected)


def test_a_query_without_true_neighbours_is_refused():
    with pytest.raises(InputError, match="true_ids"):
        evaluation.check_id_rows(np.array([[1]]), np.array([[-1]]))


def test_rows_of_different_length_are_refused():
    with pytest.raises(InputError, match="as many rows"):
        evaluation.check_id_rows(np.zeros((2, 3), int), np.zeros((3, 3), int))


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_exact_search_agrees_with_numpy(metric):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 12)).astype(np.float32)
    queries = rng.standard_normal((7, 12)).astype(np.float32)
    scores, ids = evaluation.exact_search(vectors, queries, 5, metric)
    if metric == "l2":
        every = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2)
    else:
        every = -(queries @ vectors.T)
    expected = np.argsort(every, axis=1)[:, :5]
    np.testing.assert_array_equal(ids, expected)
    best = np.take_along_axis(every, expected, axis=1)
    np.testing.assert_allclose(scores, best if metric == "l2" else -best, rtol=1e-4)


def test_exact_search_refuses_more_neighbours_than_vectors():
    with pytest.raises(InputError, match="k = 4"):
        evaluation.exact_search(np.ones((3, 2)), np.ones((1, 2)), 4)


def test_latency_is_measured_once_a_query_on_one_thread():
    import faiss

    rng = np.random.default_rng(0)
    index = faiss.IndexFlatIP(8)
    index.add(rng.standard_normal((100, 8)).astype(np.float32))
    threads = faiss.omp_get_max_threads()
    summary = evaluation.measure_latency(index, rng.standard_normal((30, 8)), 3)
    assert summary.n == 30
    assert "one thread" in summary.how
    assert 0 < summary.p50_ms <= summary.p99_ms
    assert faiss.omp_get_max_threads() == threads, "the number of threads must be set back"


def test_anything_that_answers_can_be_timed():
    asked = []

    def answer(queries):
        asked.append(queries.shape)
        return np.zeros((len(queries), 1))

    summary = evaluation.measure_latency(answer, np.ones((7, 3)), warmup=2)
    assert summary.n == 7
    assert asked == [(1, 3)] * 9


def test_search_parameters_of_an_answer_are_refused_rather_than_ignored():
    with pytest.raises(InputError, match="nprobe = 8"):
        evaluation.measure_latency(lambda queries: None, np.ones((7, 3)), nprobe=8)


def test_the_collector_and_the_threads_are_set_back_after_an_error():
    import gc

    import faiss

    def answer(queries):
        assert not gc.isenabled()
        assert faiss.omp_get_max_threads() == 1
        raise RuntimeError("gone")

    threads = faiss.omp_get_max_threads()
    with pytest.raises(RuntimeError, match="gone"):
        evaluation.answer_serially(answer, np.ones((3, 2)))
    assert gc.isenabled()
    assert faiss.omp_get_max_threads() == threads


def test_the_measured_size_is_that_of_the_file():
    import faiss

    index = faiss.index_factory(8, "IVF4,Flat")
    vectors = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    expected = faiss.serialize_index(index).nbytes / 500
    assert evaluation.bytes_per_vector(index) == expected


def test_a_vector_as_near_as_the_kth_neighbour_counts_in_recall_with_ties():
    """Ids 5 and 6 are equally near: whichever the exact search named, the other is right too."""
    true_scores = np.array([[0.0, 1.0, 4.0]])
    found = np.array([[1, 2, 6]])
    recall = evaluation.recall_with_ties(found, np.array([[0.0, 1.0, 4.0]]), true_scores, "l2")
    assert recall[0] == 1.0
    assert evaluation.recall_at_k(found, np.array([[1, 2, 5]]))[0] == pytest.approx(2 / 3)
    farther = evaluation.recall_with_ties(found, np.array([[0.0, 1.0, 4.1]]), true_scores, "l2")
    assert farther[0] == pytest.approx(2 / 3)


def test_recall_with_ties_is_never_above_one_and_counts_an_id_once():
    true_scores = np.array([[2.0, 2.0]])
    many = np.array([[7, 3, 9, 4]])
    twice = np.array([[7, 7, -1, -1]])
    for ids, expected in ((many, 1.0), (twice, 0.5)):
        scores = np.where(ids >= 0, 2.0, np.nan)
        recall = evaluation.recall_with_ties(ids, scores, true_scores, "inner_product")
        assert recall[0] == expected


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_on_data_with_ties_recall_by_id_is_too_low(metric):
    """Two exact searches that settle ties differently: both are perfect, recall_at_k says not."""
    from labs.lab2_vector_db.ground_truth import exact_neighbours, exact_scores

    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 2, size=(500, 6)).astype(np.float32)
    queries = rng.integers(0, 2, size=(40, 6)).astype(np.float32)
    true_scores, true_ids = exact_neighbours(vectors, queries, 10, metric)
    backwards = exact_neighbours(vectors[::-1], queries, 10, metric).ids
    found = len(vectors) - 1 - backwards
    scores = exact_scores(vectors, queries, found, metric)
    by_distance = evaluation.recall_with_ties(found, scores, true_scores, metric)
    assert (by_distance == 1).all()
    assert evaluation.recall_at_k(found, true_ids).mean() < 0.8
