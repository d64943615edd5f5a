import tracemalloc

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import product_quantization as pq

METRICS = ["l2", "inner_product"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Many short k-means runs: threads would mostly wait for each other."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def words():
    """2,000 real word vectors, the first 120 components."""
    vectors = load("word-vectors").array("vectors")
    rows = np.random.default_rng(0).permutation(len(vectors))[:2000]
    return np.ascontiguousarray(vectors[rows, :120], dtype=np.float32)


def faiss_quantizer(vectors, segments, bits):
    quantizer = faiss.ProductQuantizer(vectors.shape[1], segments, bits)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(vectors)
    return quantizer


def faiss_index(codebooks, metric, vectors):
    """faiss's own index over the vectors, with our codebooks in it."""
    segments, k, width = codebooks.shape
    which = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexPQ(segments * width, segments, k.bit_length() - 1, which)
    faiss.copy_array_to_vector(codebooks.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add(vectors)
    return index


def lost(vectors, codebooks):
    """Mean squared distance between vectors and what their codes stand for."""
    codes = pq.encode(vectors, codebooks)
    return float(((vectors - pq.decode(codes, codebooks)) ** 2).sum(axis=1).mean())


@pytest.mark.exercise("2.4")
def test_one_round_moves_each_centroid_to_the_mean_of_its_points():
    """Two segments of one column, two centroids each: small enough to do on paper.

    Each segment has centroids of its own, learned from its own columns and from nothing else.
    """
    vectors = np.array([[0, 9], [1, 5], [10, 1], [14, 0]], dtype=np.float32)
    start = np.array([[[0], [9]], [[0], [9]]], dtype=np.float32)
    codebooks = pq.train_codebooks(vectors, 2, 1, iterations=1, initial=start)
    np.testing.assert_allclose(codebooks, [[[0.5], [12]], [[0.5], [7]]])
    assert start.ravel().tolist() == [0, 9, 0, 9], f"`initial` was changed to {start.ravel()}"


@pytest.mark.exercise("2.4")
@pytest.mark.parametrize(("segments", "bits"), [(12, 4), (40, 4), (4, 6)])
def test_the_error_is_that_of_faiss_within_a_few_per_cent(words, segments, bits):
    """On real vectors our codebooks lose as much as faiss's own training does, to 3 %.

    Codebooks that are a little wrong raise nothing: the search answers, with a lower recall that
    is then blamed on the number of bits.
    """
    ours = lost(words, pq.train_codebooks(words, segments, bits))
    theirs = lost(words, pq.from_faiss(faiss_quantizer(words, segments, bits)))
    assert ours < 1.03 * theirs, f"squared error {ours:.4f}; faiss {theirs:.4f}, expected <= +3 %"


@pytest.mark.exercise("2.4")
def test_no_centroid_stays_unused():
    """900 of 1,000 rows are equal, as with missing values: 57 of 64 starting points coincide.

    An unused centroid is a code that is never written. You pay for 6 bits and get 3.
    """
    rng = np.random.default_rng(3)
    vectors = np.concatenate([np.zeros((900, 4)), rng.standard_normal((100, 4)) + 8])
    codebooks = pq.train_codebooks(vectors.astype(np.float32), 1, 6)
    assert np.isfinite(codebooks).all(), "a centroid is not finite: the mean of no points"
    used = len(np.unique(pq.encode(vectors, codebooks)))
    assert used == 64, f"centroids in use: expected 64 of 64, got {used}"


@pytest.mark.exercise("2.4")
def test_the_start_is_drawn_from_all_rows():
    """With no iterations the codebooks are rows: K different ones, other ones for another seed.

    Data comes sorted by date or by customer. Started from the first rows, k-means has to carry
    its centroids across the space, and mostly does not get there.
    """
    vectors = np.repeat(np.arange(1000, dtype=np.float32)[:, None], 2, axis=1)
    drawn = [pq.train_codebooks(vectors, 1, 4, iterations=0, seed=s)[0, :, 0] for s in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1], err_msg="the same seed, another start")
    assert len(set(drawn[0])) == 16, f"expected 16 different rows, got {sorted(set(drawn[0]))}"
    assert set(drawn[0]) != set(drawn[2]), "seeds 0 and 1 start from the same rows"
    assert drawn[0].max() > 500, f"no row of the second half was drawn: {sorted(drawn[0])}"


@pytest.mark.exercise("2.4")
@settings(derandomize=True, deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), bits=st.integers(1, 4), segments=st.sampled_from([1, 2, 3, 6]))
def test_more_rounds_never_raise_the_error(seed, bits, segments):
    """Assignment and update each lower the squared error or leave it; so must many rounds."""
    vectors = np.random.default_rng(seed).standard_normal((60, 6)).astype(np.float32)
    errors = [
        lost(vectors, pq.train_codebooks(vectors, segments, bits, iterations=rounds, seed=seed))
        for rounds in (0, 1, 2, 5, 15)
    ]
    assert (np.diff(errors) <= 1e-5).all(), f"squared error after 0, 1, 2, 5, 15 rounds: {errors}"


def coded(n=400, dimension=24, segments=6, bits=4, queries=9):
    """Random codebooks, codes and queries: nothing here has to be trained."""
    rng = np.random.default_rng(n)
    shape = (segments, 2**bits, dimension // segments)
    codebooks = rng.standard_normal(shape).astype(np.float32)
    codes = rng.integers(2**bits, size=(n, segments)).astype(np.uint8)
    return rng.standard_normal((queries, dimension)).astype(np.float32), codes, codebooks


@pytest.mark.exercise("2.5")
def test_the_example_of_the_docstring():
    """One segment, two centroids at 0 and 1, the query at 3."""
    codebooks = np.array([[[0.0], [1.0]]], dtype=np.float32)
    query, codes = np.array([[3.0]], dtype=np.float32), np.array([[0], [1]], dtype=np.uint8)
    np.testing.assert_allclose(pq.asymmetric_distances(query, codes, codebooks, "l2"), [[9, 4]])
    products = pq.asymmetric_distances(query, codes, codebooks, "inner_product")
    np.testing.assert_allclose(products, [[0, 3]])


@pytest.mark.exercise("2.5")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [4, 8])
def test_table_sums_equal_scores_against_the_decoded_vectors(metric, bits):
    """The tables are a shortcut and no approximation: the query itself against what is stored.

    The query is whole. Coding it too is another, worse estimate that looks just as plausible.
    """
    queries, codes, codebooks = coded(bits=bits)
    decoded = codebooks[np.arange(6), codes].reshape(400, 24)
    if metric == "l2":
        expected = ((queries[:, None] - decoded) ** 2).sum(axis=2)
    else:
        expected = queries @ decoded.T
    scores = pq.asymmetric_distances(queries, codes, codebooks, metric)
    assert np.shape(scores) == (9, 400), f"expected shape (9, 400), got {np.shape(scores)}"
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("2.5")
@pytest.mark.parametrize("metric", METRICS)
def test_scores_equal_those_of_faiss_with_the_same_codebooks(metric):
    """faiss's IndexPQ, given our codebooks, scores every vector as we do, to 1e-4."""
    queries, codes, codebooks = coded()
    decoded = codebooks[np.arange(6), codes].reshape(400, 24)
    theirs, ids = faiss_index(codebooks, metric, decoded).search(queries, 400)
    ours = pq.asymmetric_distances(queries, codes, codebooks, metric)
    np.testing.assert_allclose(np.take_along_axis(ours, ids, 1), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("2.5")
def test_the_vectors_are_never_decoded():
    """100,000 codes of 8 bytes stand for 100 MB of vectors: the peak has to stay far below.

    Decoding gives the same scores, and no reason to have coded: the memory and the d
    multiplications a vector are back.
    """
    queries, codes, codebooks = coded(n=100_000, dimension=256, segments=8, bits=8, queries=1)
    tracemalloc.start()
    pq.asymmetric_distances(queries, codes, codebooks, "l2")
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert peak < 40, f"peak memory: expected < 40 MB, got {peak:.0f} MB (decoded: 102 MB)"


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_faiss_byte_for_byte(words, bits):
    quantizer = faiss_quantizer(words, 30, bits)
    codes = pq.encode(words, pq.from_faiss(quantizer))
    packed = pq.pack_codes(codes, bits)
    np.testing.assert_array_equal(packed, quantizer.compute_codes(words))
    np.testing.assert_array_equal(pq.unpack_codes(packed, 30, bits), codes)
    decoded = pq.decode(codes, pq.from_faiss(quantizer))
    np.testing.assert_allclose(decoded, quantizer.decode(packed), atol=1e-6)


def test_faiss_encodes_with_our_codebooks_as_we_do(words):
    codebooks = pq.train_codebooks(words, 20, 4, iterations=3)
    packed = pq.to_faiss(codebooks).compute_codes(words)
    np.testing.assert_array_equal(pq.pack_codes(pq.encode(words, codebooks), 4), packed)


@pytest.mark.parametrize("metric", METRICS)
def test_search_finds_what_faiss_finds(words, metric):
    codebooks = pq.from_faiss(faiss_quantizer(words, 30, 4))
    queries, stored = words[:100], words[100:]
    theirs, their_ids = faiss_index(codebooks, metric, stored).search(queries, 10)
    ours, our_ids = pq.adc_search(queries, pq.encode(stored, codebooks), codebooks, 10, metric)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    differ = our_ids != their_ids
    gap = np.abs(np.diff(theirs, axis=1)).min()
    assert differ.mean() < 0.01, f"{differ.sum()} ids differ (least gap of scores {gap:.2g})"


def test_equal_scores_come_in_the_order_of_rows():
    codebooks = np.array([[[0.0], [1.0]]], dtype=np.float32)
    codes = np.array([[1], [0], [1], [0], [1]], dtype=np.uint8)
    _, ids = pq.adc_search(np.zeros((1, 1), np.float32), codes, codebooks, 4)
    assert ids.tolist() == [[1, 3, 0, 2]]


def test_coding_the_query_as_well_costs_recall(words):
    """Symmetric distances carry two errors: fewer of the true neighbours come out on top."""
    queries, stored = words[:200], words[200:]
    codebooks = pq.from_faiss(faiss_quantizer(stored, 30, 4))
    codes = pq.encode(stored, codebooks)
    _, true = faiss.knn(queries, stored, 10)
    whole = pq.asymmetric_distances(queries, codes, codebooks)
    both = pq.symmetric_distances(pq.encode(queries, codebooks), codes, codebooks)
    recalls = [
        np.mean([len(set(f) & set(t)) / 10 for f, t in zip(pq.best(scores, 10, "l2")[1], true)])
        for scores in (whole, both)
    ]
    assert recalls[0] > recalls[1] + 0.05, recalls


def test_points_far_from_the_origin_keep_their_nearest_centroid():
    points = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32) + 1000
    cells, errors = pq.nearest(points, points[:32])
    exact = ((points[:, None].astype(float) - points[:32]) ** 2).sum(axis=2)
    np.testing.assert_allclose(errors, exact.min(axis=1), rtol=1e-3, atol=1e-3)
    assert (cells == exact.argmin(axis=1)).mean() > 0.99


@settings(derandomize=True, deadline=None, max_examples=30)
@given(bits=st.integers(1, 8), segments=st.integers(1, 9), seed=st.integers(0, 99))
def test_packing_loses_nothing(bits, segments, seed):
    codes = np.random.default_rng(seed).integers(2**bits, size=(7, segments)).astype(np.uint8)
    packed = pq.pack_codes(codes, bits)
    assert packed.shape == (7, -(-segments * bits // 8))
    np.testing.assert_array_equal(pq.unpack_codes(packed, segments, bits), codes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segments": 5}, r"use one of \[1, 2, 3, 4, 6, 12\]"),
        ({"bits": 9}, "bits = 9"),
        ({"bits": 7}, "must be >= 128"),
        ({"vectors": np.full((100, 12), np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, says):
    arguments = {"vectors": np.ones((100, 12)), "segments": 4, "bits": 4, **change}
    with pytest.raises(InputError, match=says):
        pq.check_training(**arguments)


def test_a_search_that_does_not_fit_is_refused():
    queries, codes, codebooks = coded()
    with pytest.raises(InputError, match="k = 401"):
        pq.adc_search(queries, codes, codebooks, 401)
    with pytest.raises(InputError, match=r"\[n, 24\]"):
        pq.adc_search(queries[:, :12], codes, codebooks, 5)


def test_the_comparison_has_our_quantizer_and_that_of_faiss(words):
    scores = pq.evaluate(words[100:1100], words[:100], segments=30, bits=4)
    ours, symmetric, theirs = scores
    assert [score.bytes_per_vector for score in scores] == [15, 15, 15]
    assert ours.relative_error == pytest.approx(theirs.relative_error, rel=0.05)
    assert ours.recall_at_10 > symmetric.recall_at_10
