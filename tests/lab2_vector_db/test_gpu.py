import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import gpu
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import (
    HNSW,
    IVF,
    OPQ,
    PQ,
    SQ,
    Exact,
    Flat,
    RaBitQ,
    Recipe,
)


def test_fast_scan_codes_become_8_bit_codes_of_the_same_size():
    recipe = Recipe(IVF(256, centroids="hnsw", nprobe=16), PQ(48, bits=4), refine=SQ(8))
    on_gpu = gpu.gpu_recipe(recipe)
    assert on_gpu.code == PQ(24, bits=8)
    assert on_gpu.structure == IVF(256, centroids="flat", nprobe=16)
    assert on_gpu.refine == SQ(16)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(IVF(64), SQ(8)), Recipe(HNSW(16))])
def test_what_a_gpu_has_as_well_stays_as_it_is(recipe):
    assert gpu.gpu_recipe(recipe) == recipe


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(IVF(64), RaBitQ()), "RaBitQ"),
        (Recipe(IVF(64), PQ(8), rotation=OPQ(8)), "rotation"),
        (Recipe(HNSW(16), SQ(8)), "graph"),
        (Recipe(IVF(64), PQ(5, bits=4)), "segments = 5"),
        (Recipe(Flat(), PQ(8)), "without lists"),
    ],
)
def test_what_a_gpu_lacks_is_named(recipe, says):
    with pytest.raises(InputError, match=says):
        gpu.gpu_recipe(recipe)


def test_without_a_gpu_the_way_out_is_named():
    if gpu.gpus():
        pytest.skip("needs a machine whose faiss sees no GPU")
    with pytest.raises(InputError, match="faiss-gpu"):
        gpu.build_gpu_index(np.ones((100, 8), np.float32), Recipe())


def test_a_training_sample_is_bounded_and_drawn_from_all_rows():
    vectors = np.arange(1000, dtype=np.float32)[:, None]
    sample = gpu.training_sample(vectors, 100, seed=0)
    assert sample.shape == (100, 1)
    assert len(np.unique(sample)) == 100
    assert sample.max() > 900


@pytest.mark.gpu
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(Flat(), Exact(), metric="l2"),
        Recipe(IVF(128, nprobe=32), Exact(), metric="l2"),
        Recipe(IVF(128, nprobe=32), PQ(16, bits=4), refine=SQ(8), metric="l2"),
        Recipe(HNSW(16), metric="l2"),
    ],
    ids=["flat", "ivf", "ivfpq-refined", "cagra"],
)
def test_a_gpu_finds_what_the_cpu_finds(recipe):
    """The same recipe, the same recall; exact vectors give the same ids."""
    if not gpu.gpus():
        pytest.fail(f"faiss sees no GPU: {faiss.get_compile_options()}")
    if isinstance(recipe.structure, HNSW) and not gpu.has_cuvs():
        pytest.skip("needs a faiss with cuVS (faiss-gpu-cuvs)")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, 32))
    points = centres[rng.integers(100, size=20_300)] + 0.5 * rng.standard_normal((20_300, 32))
    points = points.astype(np.float32)
    stored, queries = points[300:], points[:300]
    _, true_ids = exact_search(stored, queries, 10, "l2")
    index = gpu.build_gpu_index(stored, recipe)
    scores, found = index.search(queries, 10)
    assert (np.diff(scores, axis=1) >= -1e-3).all()
    assert recall_at_k(found, true_ids).mean() >= 0.95
