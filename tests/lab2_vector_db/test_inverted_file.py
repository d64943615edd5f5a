import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import inverted_file as ivf

METRICS = ["l2", "inner_product"]
LISTS = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def words():
    """2,000 real word vectors of unit length."""
    vectors = load("word-vectors").array("vectors")
    rows = np.random.default_rng(0).permutation(len(vectors))[:2000]
    return np.ascontiguousarray(vectors[rows], dtype=np.float32)


def random_file(metric, n=600, dimension=8, seed=0):
    """Vectors of very different lengths around the origin, a few of them as centroids."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dimension)) * rng.uniform(0.2, 3, (n, 1))
    vectors = vectors.astype(np.float32)
    ids = 1000 + rng.permutation(n)
    return vectors, ids, ivf.build(vectors, vectors[:LISTS], ids=ids, metric=metric)


def asked(dimension=8):
    return np.random.default_rng(1).standard_normal((30, dimension)).astype(np.float32)


@pytest.mark.exercise("2.6")
def test_the_example_of_the_docstring():
    """Vectors 0, 1 and 10 in two lists: one list holds two vectors, and the row asks for three.

    -1 says that nothing was found there. Filled up with zeros the row would name vector 0.
    """
    vectors = np.array([[0.0], [1], [10]], dtype=np.float32)
    lists = ivf.build(vectors, vectors[[0, 2]], ids=np.array([5, 6, 7]))
    scores, ids = ivf.search(lists, np.array([[3.0]]), 3, 1)
    assert ids.tolist() == [[6, 5, -1]], f"expected [[6, 5, -1]], got {ids.tolist()}"
    np.testing.assert_allclose(scores, [[4, 9, np.inf]])


@pytest.mark.exercise("2.6")
@pytest.mark.parametrize("metric", METRICS)
def test_every_nprobe_finds_what_faiss_finds(metric):
    """Same centroids, same lists, same answer as IndexIVFFlat, from one list to all of them.

    Lengths differ much here: the lists must be chosen under the metric of the vectors. A search
    that chooses other lists answers without an error, with less recall than it should have.
    """
    _, _, lists = random_file(metric)
    theirs = ivf.to_faiss(lists)
    for nprobe in range(1, LISTS + 1):
        theirs.nprobe = nprobe
        expected, names = theirs.search(asked(), 10)
        scores, ids = ivf.search(lists, asked(), 10, nprobe)
        same = (ids == names).mean()
        assert same > 0.99, f"nprobe {nprobe}: {same:.1%} of the ids are those of faiss"
        real = names >= 0
        np.testing.assert_allclose(scores[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("2.6")
@pytest.mark.parametrize("metric", METRICS)
def test_all_lists_together_give_the_exact_answer(metric):
    """nprobe = n_lists leaves nothing out: recall 1, under the ids that were given."""
    vectors, given, lists = random_file(metric)
    which = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    expected, rows = faiss.knn(asked(), vectors, 10, metric=which)
    scores, ids = ivf.search(lists, asked(), 10, LISTS)
    same = (ids == given[rows]).mean()
    assert same > 0.99, f"expected the ids of the exact neighbours, {same:.1%} are"
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("2.6")
@pytest.mark.parametrize("metric", METRICS)
def test_empty_lists_are_visited_and_short_rows_filled_up(metric):
    """Three vectors in eight lists: k = 5 leaves places open, in each row, for every nprobe."""
    vectors = np.eye(3, 8, dtype=np.float32)
    lists = ivf.build(vectors, 2 * np.eye(8, dtype=np.float32), metric=metric)
    worst = np.inf if metric == "l2" else -np.inf
    for nprobe in range(1, 9):
        scores, ids = ivf.search(lists, np.ones((2, 8)), 5, nprobe)
        assert np.shape(ids) == (2, 5), f"expected shape (2, 5), got {np.shape(ids)}"
        assert ((ids == -1) == (scores == worst)).all(), (ids, scores)
        assert (ids[:, 3:] == -1).all(), f"only three vectors exist, got {ids.tolist()}"
    assert set(ids[0, :3]) == {0, 1, 2}, f"all lists: expected ids 0, 1, 2, got {ids.tolist()}"


@pytest.mark.exercise("2.6")
@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), k=st.integers(1, 20), metric=st.sampled_from(METRICS))
def test_more_lists_never_make_a_score_worse(seed, k, metric):
    """What one more list adds can only push something worse out, so each rank improves or stays.

    Rows come best first; a caller that takes the first of them relies on it.
    """
    _, _, lists = random_file(metric, n=60, seed=seed)
    sign = 1 if metric == "l2" else -1
    before = np.full((30, k), np.inf)
    for nprobe in (1, 2, 5, LISTS):
        distances = sign * ivf.search(lists, asked(), k, nprobe)[0]
        assert (distances[:, 1:] >= distances[:, :-1]).all(), "a row is not sorted best first"
        assert (distances <= before + 1e-5).all(), f"a score got worse at nprobe {nprobe}"
        before = distances


def test_the_lists_partition_the_vectors():
    vectors, ids, lists = random_file("l2")
    assert sorted(lists.ids) == sorted(ids)
    assert lists.offsets[0] == 0
    assert lists.offsets[-1] == len(vectors)
    order = {name: row for row, name in enumerate(ids)}
    np.testing.assert_array_equal(lists.stored, vectors[[order[name] for name in lists.ids]])
    numbers = np.repeat(np.arange(LISTS), np.diff(lists.offsets))
    np.testing.assert_array_equal(ivf.assign(lists.stored, lists.centroids, "l2"), numbers)


def test_equal_lists_have_imbalance_one_and_faiss_agrees_on_others():
    vectors = np.arange(12, dtype=np.float32)[:, None]
    assert ivf.imbalance(ivf.build(vectors, np.array([[1.0], [4], [7], [10]]))) == 1
    _, _, lists = random_file("l2")
    theirs = ivf.to_faiss(lists)
    assert ivf.imbalance(lists) == pytest.approx(theirs.invlists.imbalance_factor())


@pytest.mark.parametrize("metric", METRICS)
def test_coded_residuals_score_as_in_faiss(words, metric):
    """IndexIVFPQ trained by faiss; its centroids and codebooks in our file."""
    queries, stored = words[:50], words[50:]
    which = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    coarse = faiss.IndexFlat(300, which)
    theirs = faiss.IndexIVFPQ(coarse, 300, LISTS, 30, 4, which)
    theirs.train(stored)
    theirs.add(stored)
    centroids = coarse.reconstruct_n(0, LISTS)
    codebooks = faiss.vector_to_array(theirs.pq.centroids).reshape(30, 16, 10)
    lists = ivf.build_residual(stored, centroids, codebooks, metric=metric)
    for nprobe in (1, 4, LISTS):
        theirs.nprobe = nprobe
        expected, names = theirs.search(queries, 10)
        scores, ids = ivf.search(lists, queries, 10, nprobe)
        real = names >= 0
        np.testing.assert_allclose(scores[real], expected[real], rtol=1e-3, atol=1e-3)
        assert (ids == names).mean() > 0.95, nprobe


def test_residuals_are_coded_with_less_error_than_vectors(words):
    vectors = words[:, :60] + 3
    kmeans = faiss.Kmeans(60, LISTS, seed=1, min_points_per_centroid=1)
    kmeans.train(vectors)
    residuals = vectors - kmeans.centroids[ivf.assign(vectors, kmeans.centroids, "l2")]
    errors = []
    for data in (vectors, residuals):
        quantizer = faiss.ProductQuantizer(60, 6, 4)
        quantizer.train(data)
        errors.append(((data - quantizer.decode(quantizer.compute_codes(data))) ** 2).sum())
    assert errors[1] < 0.95 * errors[0], errors


def test_the_sweep_agrees_with_faiss_and_ends_at_the_exact_answer(words):
    scores = ivf.sweep(words[100:], words[:100], n_lists=LISTS, nprobes=(1, 4, LISTS))
    assert [score.nprobe for score in scores] == [1, 4, LISTS]
    assert min(score.same_as_faiss for score in scores) > 0.99
    recalls = [score.recall_at_10 for score in scores]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.999
    assert scores[-1].scanned == 1
    assert scores[0].scanned < 0.25


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k = 0"),
        ({"nprobe": 0}, "nprobe = 0"),
        ({"nprobe": LISTS + 1}, "from 1 to 16"),
        ({"queries": np.ones((1, 7))}, r"\[n, 8\]"),
        ({"queries": np.full((1, 8), np.nan)}, "NaN"),
    ],
)
def test_a_bad_search_is_refused(change, says):
    arguments = {"queries": asked(), "k": 5, "nprobe": 2, **change}
    with pytest.raises(InputError, match=says):
        ivf.check_search(random_file("l2")[2], **arguments)


def test_what_cannot_be_built_is_refused():
    vectors = np.ones((4, 3), dtype=np.float32)
    with pytest.raises(InputError, match="id 1"):
        ivf.build(vectors, vectors, ids=np.array([1, 1, 2, 3]))
    with pytest.raises(InputError, match=r"centroids.*\[n, 3\]"):
        ivf.build(vectors, np.ones((2, 4)))
    with pytest.raises(InputError, match="cosine"):
        ivf.build(vectors, vectors, metric="cosine")
