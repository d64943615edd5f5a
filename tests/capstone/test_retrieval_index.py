"""The index of a checkpoint: it answers for that checkpoint, exactly, and for no other."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from capstone import retrieval_index
from common.errors import InputError, RunError
from labs.lab2_vector_db.index_types import HNSW, IVF, Recipe
from labs.lab2_vector_db.search import search

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(301, 16)).astype(np.float32)
QUERIES = RNG.normal(size=(20, 16)).astype(np.float32)


def test_the_index_finds_what_the_dot_products_say_and_never_the_padding(tmp_path: Path) -> None:
    manifest = retrieval_index.build(VECTORS, tmp_path, "a" * 64)
    assert (manifest.version, manifest.count) == ("a" * 64, 300)
    _, found = search(retrieval_index.open_index(tmp_path, "a" * 64), QUERIES, 300)
    scores = QUERIES @ VECTORS[1:].T
    assert np.array_equal(found, 1 + np.argsort(-scores, axis=1, kind="stable"))


def test_the_index_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    """Two trainings give unrelated spaces of the same width: every shape check would pass."""
    retrieval_index.build(VECTORS, tmp_path, "a" * 64)
    with pytest.raises(InputError, match="expected 'bbb"):
        retrieval_index.open_index(tmp_path, "b" * 64)


def test_a_new_checkpoint_replaces_the_index(tmp_path: Path) -> None:
    for version in ("a", "b"):
        retrieval_index.build(VECTORS, tmp_path, version)
    assert len(list(tmp_path.glob("*.faiss"))) == 1
    retrieval_index.open_index(tmp_path, "b")


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    manifest = retrieval_index.build(VECTORS, tmp_path, "a")
    file = tmp_path / manifest.file
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(RunError, match="sha256"):
        retrieval_index.open_index(tmp_path, "a")


def test_a_distance_in_place_of_the_dot_product_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="inner_product"):
        retrieval_index.build(VECTORS, tmp_path, "a", recipe=Recipe(metric="l2"))


def test_approximate_indexes_keep_the_item_ids(tmp_path: Path) -> None:
    for structure in (IVF(8, nprobe=8), HNSW(16, ef_search=300)):
        recipe = Recipe(structure, metric="inner_product")
        retrieval_index.build(VECTORS, tmp_path, "a", recipe=recipe)
        _, found = search(retrieval_index.open_index(tmp_path, "a"), QUERIES, 1)
        best = 1 + np.argmax(QUERIES @ VECTORS[1:].T, axis=1)
        assert (found[:, 0] == best).mean() >= 0.9, f"{recipe.factory}: ids are shifted"


def test_the_comparison_has_a_curve_of_each_kind_and_flat_is_exact() -> None:
    gc.freeze()  # lab 2 collects before each measurement: what other tests left is not of interest
    try:
        points = retrieval_index.compare(VECTORS, QUERIES, k=10, n_lists=8)
    finally:
        gc.unfreeze()
    assert {point.name for point in points} == set(retrieval_index.KINDS)
    assert [point.recall for point in points if point.name == "Flat"] == [1.0]
    ivf = [point.recall for point in points if point.name == "IVF"]
    assert ivf == [*sorted(ivf)[:-1], 1.0], f"more lists cannot find less: {ivf}"


def test_a_scan_fits_a_budget_up_to_bandwidth_over_bytes() -> None:
    assert retrieval_index.largest_exact(64, budget_ms=1.0, bytes_per_s=10e9) == 39_062
    with pytest.raises(InputError, match="budget_ms"):
        retrieval_index.largest_exact(64, budget_ms=0, bytes_per_s=1e9)
