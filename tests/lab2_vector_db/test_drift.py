import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db.drift import Profile, compare, measure
from labs.lab2_vector_db.index_building import new_index
from labs.lab2_vector_db.index_types import HNSW, IVF, OPQ, PQ, SQ, Exact, Flat, Recipe

D, LISTS = 16, 32


def cloud(n, *, centre=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (centre + rng.standard_normal((n, D))).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    index = new_index(D, Recipe(IVF(LISTS), PQ(8, 4), metric="l2"))
    index.train(cloud(4000))
    return index


def test_vectors_like_those_of_training_have_not_drifted(trained):
    drift = compare(measure(trained, cloud(4000)), measure(trained, cloud(3000, seed=1)))
    assert drift.error_ratio == pytest.approx(1, abs=0.1)
    assert drift.imbalance_ratio == pytest.approx(1, abs=0.2)
    assert not drift.retrain


def test_vectors_far_from_every_centroid_raise_the_error(trained):
    drift = compare(measure(trained, cloud(4000)), measure(trained, cloud(3000, centre=2.0)))
    assert drift.error_ratio > 2
    assert drift.retrain


def test_vectors_that_crowd_into_few_lists_raise_the_imbalance(trained):
    centroids = trained.quantizer.reconstruct_n(0, LISTS)
    crowd = np.repeat(centroids[:2], 1000, axis=0) + 0.01 * cloud(2000)
    profile = measure(trained, crowd.astype(np.float32))
    assert profile.imbalance == pytest.approx(LISTS / 2, rel=0.05)
    drift = compare(measure(trained, cloud(4000)), profile)
    assert drift.error_ratio < 1
    assert drift.retrain


def test_the_imbalance_of_a_small_sample_is_that_of_a_large_one(trained):
    """sum (c_i / m)^2 would say 1.32 times as much for 100 vectors in 32 lists."""
    large = measure(trained, cloud(16_000)).imbalance
    small = np.mean([measure(trained, cloud(100, seed=seed)).imbalance for seed in range(200)])
    assert small == pytest.approx(large, rel=0.06)


def test_a_few_vectors_are_no_drift(trained):
    assert not compare(measure(trained, cloud(4000)), measure(trained, cloud(50, centre=2))).retrain


@pytest.mark.parametrize(
    ("recipe", "drifts"),
    [
        (Recipe(HNSW(8)), False),
        (Recipe(Flat()), False),
        (Recipe(HNSW(8), SQ(8)), True),
        (Recipe(Flat(), SQ(8), refine=Exact()), True),
        (Recipe(IVF(LISTS), PQ(8, 4), rotation=OPQ(8, niter=2), refine=SQ(8)), True),
    ],
)
def test_only_what_learns_from_vectors_can_drift(recipe, drifts):
    index = new_index(D, recipe)
    index.train(cloud(4000))
    far = faiss.rand((2000, D), 3) * 40
    profiles = [measure(index, each) for each in (cloud(2000), far)]
    if not drifts:
        assert profiles == [None, None]
    else:
        assert compare(*profiles).retrain


def test_one_vector_says_nothing(trained):
    with pytest.raises(InputError, match="at least 2"):
        measure(trained, cloud(1))
    assert compare(Profile(0.0, 1.0, 2), Profile(0.0, 1.0, 2)).error_ratio == 0
