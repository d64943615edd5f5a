import dataclasses

import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import index_types
from labs.lab2_vector_db.index_types import IVFPQ, Flat

N, D, LISTS = 1200, 16, 12
CODED = IVFPQ(LISTS, 8, 4, metric="l2", nprobe=LISTS, k_factor=20)
RECIPES = [Flat("l2"), CODED, *(dataclasses.replace(CODED, refine=r) for r in ("flat", "sq8"))]


@pytest.fixture(scope="module")
def vectors():
    """Twelve clusters far apart, one after the other."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((LISTS, D))
    return (np.repeat(centres, N // LISTS, axis=0) + rng.standard_normal((N, D))).astype(np.float32)


@pytest.mark.exercise("2.2")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
def test_every_vector_is_stored_and_found_under_its_own_id(vectors, recipe):
    """An index of items must answer with item ids; row numbers are other items.

    Nothing fails when the ids are dropped: the search answers with ids that exist, of the wrong
    items.
    """
    ids = 10_000 + 7 * np.arange(N)
    index = index_types.build_index(vectors, recipe, ids=ids)
    assert index.ntotal == N, f"expected {N} stored vectors, got {index.ntotal}"
    _, found = index.search(vectors[:50], 10)
    own = (found == ids[:50, None]).any(axis=1).mean()
    assert own >= 0.9, f"own id among the ten nearest: expected >= 0.9 of queries, got {own}"


@pytest.mark.exercise("2.2")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
def test_without_ids_the_rows_are_numbered_from_zero(vectors, recipe):
    """ids=None numbers the vectors in the order given."""
    index = index_types.build_index(vectors, recipe)
    _, found = index.search(vectors[600:620], 10)
    own = (found == np.arange(600, 620)[:, None]).any(axis=1).mean()
    assert own >= 0.9, f"own row among the ten nearest: expected >= 0.9 of queries, got {own}"


@pytest.mark.exercise("2.2")
@pytest.mark.parametrize("refine", ["flat", "sq8"])
def test_a_refined_recipe_returns_nearly_exact_distances(vectors, refine):
    """Refinement re-scores candidates with (nearly) exact vectors, so a stored vector is at ~0.

    Without the layer the distance is the quantizer's error, and recall stops far below 1.
    """
    recipe = dataclasses.replace(CODED, refine=refine)
    index = index_types.build_index(vectors, recipe, ids=np.arange(N))
    distances, _ = index.search(vectors[:50], 1)
    worst = float(distances.max())
    assert worst < 0.5, f"squared distance of a vector to itself: expected < 0.5, got {worst:.3f}"


@pytest.mark.exercise("2.2")
def test_the_coarse_quantizer_learns_from_all_the_vectors(vectors):
    """Twelve clusters and twelve lists: no list may hold a third of everything.

    Real data comes sorted (by date, by customer). Centroids learned from the first rows leave
    everything later in a few long lists: slow, and with poor recall.
    """
    index = index_types.build_index(vectors, CODED)
    sizes = faiss.extract_index_ivf(index).invlists
    longest = max(sizes.list_size(number) for number in range(LISTS))
    assert longest < N / 3, f"longest list: expected < {N // 3} of {N} vectors, got {longest}"


@pytest.mark.exercise("2.2")
def test_vectors_are_stored_as_they_are_given(vectors):
    """Scores of a flat index are the plain squared distances to the vectors given.

    Normalising is the caller's decision, taken for queries and vectors alike.
    """
    index = index_types.build_index(vectors, Flat("l2"))
    distances, _ = index.search(vectors[:1], N)
    expected = np.sort(((vectors - vectors[0]) ** 2).sum(axis=1))
    np.testing.assert_allclose(distances[0], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.exercise("2.2")
def test_duplicate_ids_are_refused(vectors):
    """faiss accepts an id twice and then returns both vectors, the outdated one included."""
    ids = np.arange(N)
    ids[5] = 4
    with pytest.raises(InputError, match="id 4"):
        index_types.build_index(vectors, CODED, ids=ids)


@pytest.mark.parametrize(
    ("ids", "says"),
    [(np.arange(3), r"\[4\]"), (np.array([0, 1, 2, -1]), "-1"), (np.ones(4) * 0.5, "integer")],
)
def test_ids_that_do_not_fit_are_refused(ids, says):
    with pytest.raises(InputError, match=says):
        index_types.check_ids(ids, 4)


def test_nan_is_refused_with_its_row(vectors):
    spoiled = vectors.copy()
    spoiled[17, 3] = np.nan
    with pytest.raises(InputError, match="row 17"):
        index_types.check_vectors(spoiled)


@pytest.mark.parametrize(
    "fields", [{"n_lists": 0}, {"pq_bits": 5}, {"refine": "rflat"}, {"nprobe": 0}, {"metric": "ip"}]
)
def test_a_recipe_outside_its_limits_is_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        IVFPQ(**{"n_lists": 4, "pq_segments": 4, **fields})


def test_segments_that_do_not_divide_the_dimension_are_refused_with_those_that_do():
    with pytest.raises(InputError, match=r"\[1, 2, 4, 8, 16\]"):
        index_types.new_index(16, IVFPQ(4, 5, 4))


def test_too_few_vectors_are_refused(vectors):
    with pytest.raises(InputError, match=">= 256"):
        index_types.build_index(vectors[:100], IVFPQ(4, 4, 8))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
@pytest.mark.parametrize("with_ids", [False, True])
def test_the_predicted_size_is_the_written_size(vectors, recipe, with_ids):
    many = np.tile(vectors, (10, 1))
    ids = np.arange(len(many)) if with_ids else None
    index = index_types.build_index(many, recipe, ids=ids)
    measured = faiss.serialize_index(index).nbytes / len(many)
    predicted = recipe.bytes_per_vector(D, n_vectors=len(many), with_ids=with_ids)
    assert measured == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
def test_a_recipe_survives_json(recipe):
    assert index_types.recipe_from_dict(index_types.recipe_to_dict(recipe)) == recipe


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match="HNSW"):
        index_types.recipe_from_dict({"type": "HNSW"})


def test_normalize_refuses_a_vector_without_direction():
    with pytest.raises(InputError, match="row 1"):
        index_types.normalize(np.array([[1.0, 0.0], [0.0, 0.0]], dtype=np.float32))
