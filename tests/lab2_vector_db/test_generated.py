import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import generated
from labs.lab2_vector_db.index_types import normalize


@pytest.fixture(scope="module")
def words():
    """Real vectors on 32 principal components."""
    vectors = normalize(load("word-vectors").array("vectors"))
    order = np.random.default_rng(0).permutation(len(vectors))[:4000]
    return generated.project(vectors[order], 32)[0]


@pytest.fixture(scope="module")
def fitted(words):
    return generated.fit(words, components=(128, 256), ranks=(4, 16), queries=300)


def test_the_fitted_mixture_is_about_as_hard_as_the_real_vectors(fitted):
    real, made = fitted.real, fitted.generated
    assert made.local_dimension == pytest.approx(real.local_dimension, rel=0.25)
    assert made.contrast == pytest.approx(real.contrast, rel=0.15)


def test_independent_gaussians_are_harder_than_real_vectors(words):
    """The mistake that the fit avoids: random vectors have neighbours in every direction."""
    real = generated.hardness(words[300:], words[:300])
    noise = normalize(np.random.default_rng(1).standard_normal((4000, 32)).astype(np.float32))
    made = generated.hardness(noise[300:], noise[:300])
    assert made.local_dimension > 1.3 * real.local_dimension
    assert made.contrast < 0.8 * real.contrast


def test_the_local_dimension_of_a_plane_is_two_whatever_the_space():
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (20_000, 2)) @ rng.standard_normal((2, 50))
    found = generated.hardness(plane[500:].astype(np.float32), plane[:500].astype(np.float32))
    assert found.local_dimension == pytest.approx(2, rel=0.15)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 150_000), st.integers(0, 150_000))
def test_a_slice_is_the_same_whoever_asks_for_it(fitted, a, b):
    start, stop = sorted((a, b))
    stop = min(stop, start + 3000)
    rows = generated.GeneratedVectors(fitted.mixture, 150_000)
    whole = generated.GeneratedVectors(fitted.mixture, 140_000)[start : min(stop, 140_000)]
    np.testing.assert_array_equal(rows[start:stop][: len(whole)], whole)
    assert rows[start:stop].shape == (stop - start, 32)


def test_rows_have_length_one_and_streams_differ(fitted):
    rows = generated.GeneratedVectors(fitted.mixture, 1000)[:]
    queries = generated.GeneratedVectors(fitted.mixture, 1000, stream=1)[:]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.isin(queries[:, 0], rows[:, 0]).any()


def test_the_fingerprint_names_everything_the_rows_depend_on(fitted):
    def mark(**changes):
        given = {"n": 10, "seed": 0, "stream": 0} | changes
        return generated.GeneratedVectors(fitted.mixture, given.pop("n"), **given).fingerprint

    marks = {mark(), mark(n=11), mark(seed=1), mark(stream=1)}
    assert len(marks) == 4


def test_projection_keeps_the_share_of_variance_it_says(words):
    projected, kept = generated.project(words, 32)
    assert kept == pytest.approx(1)
    cosine = (words[:50] @ words[:50].T) - (projected[:50] @ projected[:50].T)
    assert np.abs(cosine).max() < 1e-5
    assert generated.project(words, 8)[1] < 0.9


def test_a_file_of_rows_goes_on_where_it_was_stopped(fitted, tmp_path):
    """What a killed run left is kept up to the last whole block, and the file is the same."""
    source = generated.GeneratedVectors(fitted.mixture, 150_000)
    whole = generated.stored_vectors(source, tmp_path / "whole.f32")
    np.testing.assert_array_equal(whole, source[:])
    torn = whole.tobytes()[: generated.BLOCK * 32 * 4 + 1001]
    (tmp_path / "torn.f32.partial").write_bytes(torn)
    seen = []
    again = generated.stored_vectors(source, tmp_path / "torn.f32", progress=seen.append)
    np.testing.assert_array_equal(again, whole)
    assert seen == [2 * generated.BLOCK, 150_000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torn.f32", "whole.f32"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda words: generated.project(words, 33), "dimension = 33"),
        (lambda words: generated.fit(words[:100]), "number of vectors = 100"),
        (lambda words: generated.hardness(words[:20], words[:5]), "number of vectors = 20"),
    ],
)
def test_too_little_is_refused(words, call, says):
    with pytest.raises(InputError, match=says):
        call(words)
