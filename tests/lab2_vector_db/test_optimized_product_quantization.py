import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import optimized_product_quantization as opq
from labs.lab2_vector_db.product_quantization import adc_search, decode, encode, relative_error


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def words():
    """2,000 real word vectors, the first 60 components."""
    vectors = load("word-vectors").array("vectors")
    rows = np.random.default_rng(0).permutation(len(vectors))[:2000]
    return np.ascontiguousarray(vectors[rows, :60], dtype=np.float32)


@pytest.fixture(scope="module")
def skewed():
    """Synthetic: 2,000 vectors of 32 components whose standard deviation falls as exp(-i / 5)."""
    scale = np.exp(-np.arange(32) / 5)
    return (np.random.default_rng(0).standard_normal((2000, 32)) * scale).astype(np.float32)


def share_lost(vectors, quantizer):
    rotated = opq.rotate(vectors, quantizer.rotation)
    decoded = decode(encode(rotated, quantizer.codebooks), quantizer.codebooks)
    return relative_error(rotated, decoded)


def test_procrustes_finds_the_rotation_that_was_applied():
    source = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    rotation = ortho_group.rvs(8, random_state=1).astype(np.float32)
    found = opq.procrustes(source, source @ rotation.T)
    np.testing.assert_allclose(found, rotation, atol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16))
def test_no_other_rotation_comes_nearer_than_procrustes(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.standard_normal((2, 30, 5)).astype(np.float32)
    best = opq.procrustes(source, target)
    np.testing.assert_allclose(best @ best.T, np.eye(5), atol=1e-5)
    other = ortho_group.rvs(5, random_state=seed)
    errors = [((source @ matrix.T - target) ** 2).sum() for matrix in (best, other)]
    assert errors[0] <= errors[1] + 1e-3, errors


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16), bits=st.integers(1, 4), segments=st.sampled_from([1, 2, 4]))
def test_the_error_never_rises_from_round_to_round(seed, bits, segments):
    vectors = np.random.default_rng(seed).standard_normal((100, 8)).astype(np.float32)
    errors = opq.train_opq(vectors, segments, bits, rounds=8, seed=seed).errors
    assert len(errors) == 9
    assert (np.diff(errors) <= 1e-5 * errors[0]).all(), errors


def test_on_real_vectors_it_loses_less_than_pq_and_no_more_than_faiss(words):
    plain = opq.train_opq(words, 15, 4, rounds=0)
    ours = opq.train_opq(words, 15, 4)
    theirs = opq.faiss_opq(words, 15, 4)
    shares = [share_lost(words, quantizer) for quantizer in (plain, ours, theirs)]
    assert shares[1] < 0.95 * shares[0], shares
    assert shares[1] < 1.04 * shares[2], shares
    assert (np.diff(ours.errors) <= 1e-6).all(), ours.errors


def test_with_all_the_variance_in_a_few_components_most_of_the_error_goes(skewed):
    """PQ spends as many bits on the last segments as on the first, where all the variance is."""
    start = opq.allocate_variance(skewed, 8)
    trained = {
        "PQ": opq.train_opq(skewed, 8, 4, rounds=0),
        "OPQ": opq.train_opq(skewed, 8, 4),
        "allocated": opq.train_opq(skewed, 8, 4, rounds=0, initial=start),
    }
    shares = {name: share_lost(skewed, quantizer) for name, quantizer in trained.items()}
    assert shares["OPQ"] < 0.6 * shares["PQ"], shares
    assert shares["allocated"] < 0.3 * shares["PQ"], shares


def test_allocation_gives_every_segment_the_same_product_of_variances(skewed):
    rotated = opq.rotate(skewed, opq.allocate_variance(skewed, 8))
    logs = np.log(rotated.var(axis=0)).reshape(8, 4).sum(axis=1)
    plain = np.log(skewed.var(axis=0)).reshape(8, 4).sum(axis=1)
    assert np.ptp(logs) < 0.2 * np.ptp(plain), (logs, plain)
    covariance = np.cov(rotated, rowvar=False)
    off = np.abs(covariance - np.diag(np.diag(covariance))).max()
    assert off < 1e-4 * covariance.max(), f"principal axes are uncorrelated, got {off}"


def test_a_component_that_is_constant_does_no_harm():
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    vectors[:, 2:5] = 1
    rotation = opq.allocate_variance(vectors, 4)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-5)
    trained = opq.train_opq(vectors, 4, 4, rounds=3, initial=rotation)
    assert np.isfinite(trained.errors).all()


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_faiss_searches_with_our_rotation_as_we_do(words, metric):
    """A rotation changes neither metric, so scores are comparable with those of other indexes."""
    queries, stored = words[:50], words[50:]
    quantizer = opq.train_opq(stored, 15, 4, rounds=3)
    theirs, their_ids = opq.to_faiss(quantizer, stored, metric).search(queries, 10)
    rotated, asked = (opq.rotate(side, quantizer.rotation) for side in (stored, queries))
    codes = encode(rotated, quantizer.codebooks)
    ours, our_ids = adc_search(asked, codes, quantizer.codebooks, 10, metric)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (our_ids == their_ids).mean() > 0.98


def test_a_matrix_that_is_no_rotation_is_refused(words):
    with pytest.raises(InputError, match="rotation"):
        opq.train_opq(words, 15, 4, initial=2 * np.eye(60))
    with pytest.raises(InputError, match=r"\[60\]"):
        opq.train_opq(words, 15, 4, initial=np.eye(59))


def test_the_comparison_ranks_the_starts(words):
    scores = opq.evaluate(words[100:1100], words[:100], segments=15, bits=4, rounds=5)
    lost = {score.name: score.relative_error for score in scores}
    assert lost["OPQ from allocated variance"] <= lost["OPQ, variance allocated"] < lost["PQ"]
    assert lost["OPQ"] < lost["PQ"]
