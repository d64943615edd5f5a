import dataclasses

import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import index_building
from labs.lab2_vector_db.index_types import (
    HNSW,
    IVF,
    OPQ,
    PQ,
    SQ,
    Exact,
    RaBitQ,
    RandomRotation,
    Recipe,
)

N, D, LISTS = 1200, 16, 12
CODED = Recipe(IVF(LISTS, nprobe=LISTS), PQ(8, 4), k_factor=20, metric="l2")
RECIPES = [
    Recipe(metric="l2"),
    Recipe(HNSW(8), metric="l2"),
    CODED,
    *(dataclasses.replace(CODED, refine=refine) for refine in (Exact(), SQ(8))),
]
BY_FACTORY = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other cost more than they bring on indexes this small."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors():
    """Twelve clusters far apart, one after the other."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((LISTS, D))
    return (np.repeat(centres, N // LISTS, axis=0) + rng.standard_normal((N, D))).astype(np.float32)


@pytest.mark.exercise("2.2")
@BY_FACTORY
def test_every_vector_is_stored_and_found_under_its_own_id(vectors, recipe):
    """An index of items must answer with item ids; row numbers are other items.

    Nothing fails when the ids are dropped: the search answers with ids that exist, of the wrong
    items.
    """
    ids = 10_000 + 7 * np.arange(N)
    index = index_building.build_index(vectors, recipe, ids=ids)
    assert index.ntotal == N, f"expected {N} stored vectors, got {index.ntotal}"
    _, found = index.search(vectors[:50], 10)
    own = (found == ids[:50, None]).any(axis=1).mean()
    assert own >= 0.9, f"own id among the ten nearest: expected >= 0.9 of queries, got {own}"


@pytest.mark.exercise("2.2")
@BY_FACTORY
def test_without_ids_the_rows_are_numbered_from_zero(vectors, recipe):
    """ids=None numbers the vectors in the order given."""
    index = index_building.build_index(vectors, recipe)
    _, found = index.search(vectors[600:620], 10)
    own = (found == np.arange(600, 620)[:, None]).any(axis=1).mean()
    assert own >= 0.9, f"own row among the ten nearest: expected >= 0.9 of queries, got {own}"


@pytest.mark.exercise("2.2")
@pytest.mark.parametrize("refine", [Exact(), SQ(8)], ids=str)
def test_a_refined_recipe_returns_nearly_exact_distances(vectors, refine):
    """Refinement scores candidates again with (nearly) exact vectors, so a stored one is at ~0.

    Without the layer the distance is the quantizer's error, and recall stops far below 1.
    """
    recipe = dataclasses.replace(CODED, refine=refine)
    index = index_building.build_index(vectors, recipe, ids=np.arange(N))
    distances, _ = index.search(vectors[:50], 1)
    worst = float(distances.max())
    assert worst < 0.5, f"squared distance of a vector to itself: expected < 0.5, got {worst:.3f}"


@pytest.mark.exercise("2.2")
def test_the_coarse_quantizer_learns_from_all_the_vectors(vectors):
    """Twelve clusters and twelve lists: no list may hold a third of everything.

    Real data comes sorted (by date, by customer). Centroids learned from the first rows leave
    everything later in a few long lists: slow, and with poor recall.
    """
    index = index_building.build_index(vectors, CODED)
    sizes = faiss.extract_index_ivf(index).invlists
    longest = max(sizes.list_size(number) for number in range(LISTS))
    assert longest < N / 3, f"longest list: expected < {N // 3} of {N} vectors, got {longest}"


@pytest.mark.exercise("2.2")
def test_vectors_are_stored_as_they_are_given(vectors):
    """Scores of a flat index are the plain squared distances to the vectors given.

    Normalising is the caller's decision, taken for queries and vectors alike.
    """
    index = index_building.build_index(vectors, Recipe(metric="l2"))
    distances, _ = index.search(vectors[:1], N)
    expected = np.sort(((vectors - vectors[0]) ** 2).sum(axis=1))
    np.testing.assert_allclose(distances[0], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.exercise("2.2")
def test_duplicate_ids_are_refused(vectors):
    """faiss accepts an id twice and then returns both vectors, the outdated one included."""
    ids = np.arange(N)
    ids[5] = 4
    with pytest.raises(InputError, match="id 4"):
        index_building.build_index(vectors, CODED, ids=ids)


PARTS = [
    Recipe(structure, code, rotation, metric="l2")
    for structure in (IVF(8), IVF(8, centroids="hnsw"), HNSW(8))
    for code in (Exact(), PQ(8, 4), SQ(6), RaBitQ(2))
    for rotation in (None, RandomRotation())
]


@pytest.mark.parametrize("recipe", PARTS, ids=lambda recipe: recipe.factory)
def test_every_part_goes_with_every_other(vectors, recipe):
    index = index_building.build_index(vectors, recipe, ids=5 + np.arange(N))
    _, found = index.search(vectors[:20], 10)
    assert ((found >= 5) & (found < 105)).mean() > 0.95, "neighbours are of the same cluster"


def test_settings_of_the_recipe_reach_the_index():
    recipe = Recipe(
        IVF(10, centroids="hnsw", nprobe=3, points_per_centroid=50, niter=4, centroid_ef_search=77),
        PQ(4, 8, residual=False),
        OPQ(4, 8, niter=3, max_train_points=900),
        SQ(8),
        k_factor=7,
    )
    index = index_building.new_index(D, recipe, seed=5)
    transform = faiss.downcast_index(index.base_index)
    rotation = faiss.downcast_VectorTransform(transform.chain.at(0))
    ivf = faiss.downcast_index(transform.index)
    graph = faiss.downcast_index(ivf.quantizer)
    assert (index.k_factor, ivf.nprobe, ivf.by_residual, graph.hnsw.efSearch) == (7, 3, False, 77)
    assert (ivf.cp.seed, ivf.pq.cp.seed, ivf.cp.niter) == (5, 5, 4)
    assert ivf.cp.max_points_per_centroid == 50
    assert (rotation.niter, rotation.max_train_points, rotation.d_out) == (3, 900, 8)
    assert rotation.pq.nbits == 8


def test_a_graph_gets_its_settings():
    recipe = Recipe(HNSW(8, ef_construction=21, ef_search=33), PQ(4, 4), metric="l2")
    owner = index_building.new_index(D, recipe, seed=6)
    index = faiss.downcast_index(owner)
    assert (index.hnsw.efConstruction, index.hnsw.efSearch) == (21, 33)
    assert faiss.downcast_index(index.storage).pq.cp.seed == 6


def test_the_rotation_is_learned_for_codes_of_as_many_bits(vectors):
    """faiss's own default learns every rotation for 8 bits."""
    index = index_building.new_index(D, Recipe(code=PQ(4, 4), rotation=OPQ(4, niter=2)))
    rotation = faiss.downcast_VectorTransform(index.chain.at(0))
    assert rotation.pq.nbits == 4
    index.train(vectors)
    assert index.is_trained


def test_the_seed_decides_the_index(vectors):
    recipe = dataclasses.replace(CODED, rotation=RandomRotation())
    first, same, other = (
        faiss.serialize_index(index_building.build_index(vectors, recipe, seed=seed))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_segments_that_do_not_divide_the_dimension_are_refused_with_those_that_do():
    with pytest.raises(InputError, match=r"\[1, 2, 4, 8, 16\]"):
        index_building.new_index(16, Recipe(code=PQ(5, 4)))
    rotated = Recipe(code=PQ(5, 4), rotation=OPQ(5, 10))
    assert index_building.new_index(16, rotated).d == 16, "the rotated dimension counts"


def test_a_rotation_to_more_dimensions_is_refused():
    with pytest.raises(InputError, match="OPQ dimension = 32 must be <= 16"):
        index_building.new_index(16, Recipe(code=PQ(4, 4), rotation=OPQ(4, 32)))


def test_too_few_vectors_are_refused(vectors):
    with pytest.raises(InputError, match=">= 256"):
        index_building.build_index(vectors[:100], Recipe(IVF(4), PQ(4, 8)))
    with pytest.raises(InputError, match=">= 128"):
        index_building.build_index(vectors[:100], Recipe(IVF(128), SQ(8)))
