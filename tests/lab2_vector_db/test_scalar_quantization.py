import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import scalar_quantization as sq
from labs.lab2_vector_db.product_quantization import pack_codes


@pytest.fixture(scope="module")
def words():
    """3,000 real word vectors, 296 components (a multiple of 8)."""
    vectors = load("word-vectors").array("vectors")
    rows = np.random.default_rng(0).permutation(len(vectors))[:3000]
    return np.ascontiguousarray(vectors[rows, :296], dtype=np.float32)


def plain_rabitq(dimension, seed):
    """A random rotation around the origin."""
    start = np.zeros((1, dimension), dtype=np.float32)
    return sq.new_rabitq(start, seed=seed)


def pairs_at(cosine, dimension, n, seed=0):
    """n pairs of random unit vectors with this inner product."""
    rng = np.random.default_rng(seed)
    first, other = rng.standard_normal((2, n, dimension))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other -= (other * first).sum(axis=1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    second = cosine * first + np.sqrt(1 - cosine**2) * other
    return first.astype(np.float32), second.astype(np.float32)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_ranges_codes_and_reconstruction_are_those_of_faiss(words, bits):
    index = faiss.IndexScalarQuantizer(296, sq.FAISS_TYPES[bits], faiss.METRIC_L2)
    index.train(words)
    quantizer = sq.train_scalar(words, bits)
    ranges = np.concatenate([quantizer.low, quantizer.width])
    np.testing.assert_array_equal(ranges, faiss.vector_to_array(index.sq.trained))
    codes = sq.encode_scalar(words, quantizer)
    theirs = index.sa_encode(words)
    np.testing.assert_array_equal(pack_codes(codes, bits), theirs)
    decoded = sq.decode_scalar(codes, quantizer)
    np.testing.assert_allclose(decoded, index.sa_decode(theirs), atol=1e-6)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), bits=st.sampled_from([4, 6, 8]), scale=st.floats(1e-3, 1e3))
def test_no_component_is_off_by_more_than_half_an_interval(seed, bits, scale):
    vectors = np.random.default_rng(seed).uniform(-scale, scale, (40, 5)).astype(np.float32)
    quantizer = sq.train_scalar(vectors, bits)
    decoded = sq.decode_scalar(sq.encode_scalar(vectors, quantizer), quantizer)
    half = quantizer.width / (2**bits - 1) / 2
    assert (np.abs(decoded - vectors) <= half * 1.001).all()


def test_the_error_is_that_of_even_intervals():
    vectors = np.random.default_rng(0).uniform(-1, 1, (5000, 8)).astype(np.float32)
    quantizer = sq.train_scalar(vectors, 4)
    decoded = sq.decode_scalar(sq.encode_scalar(vectors, quantizer), quantizer)
    measured = ((decoded - vectors) ** 2).mean()
    assert measured == pytest.approx((2 / 15) ** 2 / 12, rel=0.05)


def test_a_value_outside_the_trained_range_is_clipped():
    quantizer = sq.train_scalar(np.array([[0.0, 5], [1, 5]]), 8)
    codes = sq.encode_scalar(np.array([[-3.0, 5], [7, 5]]), quantizer)
    assert codes[:, 0].tolist() == [0, 255]
    np.testing.assert_allclose(sq.decode_scalar(codes, quantizer)[:, 1], 5)


def test_hamming_distances_are_those_of_the_binary_index_of_faiss(words):
    codes = sq.sign_codes(words)
    queries, stored = codes[:20], codes[20:]
    index = faiss.IndexBinaryFlat(296)
    index.add(stored)
    theirs, ids = index.search(queries, 10)
    ours = sq.hamming_distances(queries, stored)
    np.testing.assert_array_equal(np.sort(ours, axis=1)[:, :10], theirs)
    np.testing.assert_array_equal(np.take_along_axis(ours, ids, axis=1), theirs)


def test_the_share_of_differing_signs_is_the_angle():
    first, second = pairs_at(0.5, 512, 200)
    codes = (sq.sign_codes(side) for side in (first, second))
    differing = np.diag(sq.hamming_distances(*codes)) / 512
    assert differing.mean() == pytest.approx(np.arccos(0.5) / np.pi, abs=0.01)


def test_a_threshold_at_the_mean_makes_every_bit_count():
    vectors = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32) + 4
    assert sq.hamming_distances(sq.sign_codes(vectors[:1]), sq.sign_codes(vectors)).mean() < 0.1
    mean = vectors.mean(axis=0)
    apart = sq.hamming_distances(sq.sign_codes(vectors[:1], mean), sq.sign_codes(vectors, mean))
    assert apart[0, 1:].mean() == pytest.approx(8, abs=1)


def test_rabitq_estimates_the_distances_that_faiss_estimates(words):
    """IndexRaBitQ over the rotated vectors, with whole queries (qb = 0); it rotates nothing."""
    quantizer = sq.new_rabitq(words)
    ours = sq.rabitq_distances(words[:10], sq.encode_rabitq(words, quantizer), quantizer)
    index = faiss.IndexRaBitQ(296, faiss.METRIC_L2)
    index.qb = 0
    rotated = words @ quantizer.rotation.T
    index.train(rotated)
    index.add(rotated)
    theirs, ids = index.search(rotated[:10], 3000)
    np.testing.assert_allclose(np.take_along_axis(ours, ids, axis=1), theirs, atol=1e-4)


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.5, 0.95])
def test_the_estimator_is_unbiased_over_rotations(cosine):
    """The mean over 400 rotations is the truth to 4 standard errors; without <ō, o> it is not."""
    vector, query = pairs_at(cosine, 64, 1)
    estimates, uncorrected = [], []
    for seed in range(400):
        quantizer = plain_rabitq(64, seed)
        codes = sq.encode_rabitq(vector, quantizer)
        estimates.append(sq.rabitq_products(query, codes, quantizer)[0, 0])
        uncorrected.append(estimates[-1] * codes.alignment[0])
    error = np.std(estimates) / np.sqrt(400)
    assert abs(np.mean(estimates) - cosine) < 4 * error, (np.mean(estimates), error)
    assert np.mean(uncorrected) == pytest.approx(0.8 * cosine, abs=0.04)


def test_the_error_falls_as_one_over_the_root_of_the_dimension():
    """Four times the dimension, half the error, and as large as the theory says."""
    scaled = []
    for dimension in (32, 128, 512):
        vectors, queries = pairs_at(0.5, dimension, 600)
        quantizer = plain_rabitq(dimension, seed=1)
        codes = sq.encode_rabitq(vectors, quantizer)
        estimates = np.diag(sq.rabitq_products(queries, codes, quantizer))
        scaled.append(np.sqrt(((estimates - 0.5) ** 2).mean()) * np.sqrt(dimension))
    theory = np.sqrt(np.pi / 2 - 1) * np.sqrt(1 - 0.5**2)
    np.testing.assert_allclose(scaled, theory, rtol=0.12)


def test_the_error_bound_holds_for_the_share_it_promises(words):
    """1.9 standard deviations: about 6 in 100 estimates lie outside."""
    quantizer = sq.new_rabitq(words)
    codes = sq.encode_rabitq(words[100:], quantizer)
    estimates = sq.rabitq_products(words[:100], codes, quantizer)
    moved = words - quantizer.centre
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    outside = np.abs(estimates - moved[:100] @ moved[100:].T) > sq.rabitq_error_bound(codes, 296)
    assert 0.03 < outside.mean() < 0.08, outside.mean()


def test_the_centre_itself_can_be_coded():
    vectors = np.array([[1.0, 1], [3, 3], [2, 2]])
    quantizer = sq.new_rabitq(vectors)
    distances = sq.rabitq_distances(vectors, sq.encode_rabitq(vectors, quantizer), quantizer)
    assert np.isfinite(distances).all()
    np.testing.assert_allclose(distances[:, 2], [2, 2, 0], atol=1e-5)


def test_what_cannot_be_coded_is_refused(words):
    with pytest.raises(InputError, match="bits = 5"):
        sq.train_scalar(words, 5)
    with pytest.raises(InputError, match="multiple of 8"):
        sq.sign_codes(words[:, :12])
    with pytest.raises(InputError, match=r"\[n, 296\]"):
        sq.encode_scalar(words[:, :8], sq.train_scalar(words))
    with pytest.raises(InputError, match="NaN"):
        sq.encode_rabitq(np.full((1, 296), np.nan), sq.new_rabitq(words))


def test_more_bits_lose_less_and_find_more(words):
    scores = sq.evaluate(words[200:], words[:200])
    eight, six, four, signs, rabitq = scores
    assert eight.relative_error < six.relative_error < four.relative_error
    assert eight.recall_at_10 > four.recall_at_10 > rabitq.recall_at_10 > signs.recall_at_10
    assert [score.bytes_per_vector for score in scores] == [296, 222, 148, 37, 45]
