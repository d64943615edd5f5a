"""Every kind of index over the same vectors: one curve each of recall against latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db.evaluation import bytes_per_vector, one_thread
from labs.lab2_vector_db.frontier import Point, sweep
from labs.lab2_vector_db.ground_truth import exact_neighbours
from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import (
    HNSW,
    IVF,
    PQ,
    SQ,
    Exact,
    Flat,
    Metric,
    RaBitQ,
    RandomRotation,
    Recipe,
)

NPROBES = (1, 2, 4, 8, 16, 32, 64)
EF_SEARCH = (10, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Kind:
    """One kind of index: what it was built from, what it took, and its curve."""

    name: str
    recipe: Recipe
    build_s: float
    predicted_bytes: float
    measured_bytes: float
    points: tuple[Point, ...]

    @property
    def error(self) -> float:
        """Relative error of the predicted bytes."""
        return abs(self.predicted_bytes / self.measured_bytes - 1)


def kinds(dimension: int, *, n_lists: int, metric: Metric) -> dict[str, Recipe]:
    """The recipes compared: where to look, then how to store it, then a second look."""
    lists = IVF(n_lists)
    short = PQ(dimension // 2, bits=4)
    return {
        "Flat": Recipe(metric=metric),
        "IVF": Recipe(lists, metric=metric),
        "IVF, SQ8": Recipe(lists, SQ(8), metric=metric),
        "IVF, PQ": Recipe(lists, short, metric=metric),
        "IVF, PQ, refined with SQ8": Recipe(lists, short, refine=SQ(8), metric=metric),
        "IVF, PQ, refined exactly": Recipe(lists, short, refine=Exact(), metric=metric),
        "IVF, RaBitQ, refined with SQ8": Recipe(lists, RaBitQ(), refine=SQ(8), metric=metric),
        "HNSW": Recipe(HNSW(32), metric=metric),
        "HNSW, SQ8": Recipe(HNSW(32), SQ(8), metric=metric),
    }


def compact_recipe(dimension: int, n_lists: int) -> Recipe:
    """Small and fast at high recall: 4 bits a component to find, 8 bits to order.

    One 4-bit segment for each component keeps the error of a code near 1 %, where segments of two
    components lose about a tenth: with 48 of them over 96 components the shortlist misses what
    the probed lists hold. It takes ``d / 2 + d + 8`` bytes a vector, 152 at d = 96. A graph over
    the centroids finds the nearest lists from some thousand lists on.
    """
    centroids: Literal["flat", "hnsw"] = "hnsw" if n_lists >= 4096 else "flat"
    return Recipe(
        IVF(n_lists, centroids=centroids, nprobe=min(24, n_lists), points_per_centroid=40),
        PQ(dimension, bits=4, residual=False),
        refine=SQ(8),
        metric="l2",
    )


def precise_recipe(dimension: int, n_lists: int) -> Recipe:
    """RaBitQ with 8 bits a component: fewer bytes than :func:`compact_recipe`, and more recall.

    The first bit of each component finds candidates by fast scan, the other seven order them. An
    8-bit scalar quantizer spends its levels on the range that a component has over all vectors;
    RaBitQ on what is left of a vector after its list's centroid, scaled vector by vector, so the
    same bits are finer where neighbours differ. It takes about 2.5 times as long.
    """
    compact = compact_recipe(dimension, n_lists)
    return replace(compact, code=RaBitQ(8), rotation=RandomRotation(), refine=None)


def settings_of(recipe: Recipe) -> Sequence[Mapping[str, float]]:
    """What is varied along the curve of a recipe."""
    if isinstance(recipe.structure, Flat):
        return ({},)
    if isinstance(recipe.structure, HNSW):
        return tuple({"ef_search": ef} for ef in EF_SEARCH)
    return tuple({"nprobe": n} for n in NPROBES if n <= recipe.structure.n_lists)


def compare(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    k: int = 10,
    n_lists: int = 128,
    metric: Metric = "inner_product",
    seed: int = 0,
    progress: Any = None,
) -> list[Kind]:
    """Build each kind and measure its curve, one query at a time on one thread.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        d even.
    queries : float32 array of shape [q, d]
        Not among the vectors.
    progress
        Called with the kinds done and the name of the last.
    """
    truth = exact_neighbours(vectors, queries, k, metric).ids
    compared = []
    recipes = kinds(vectors.shape[1], n_lists=n_lists, metric=metric)
    for done, (name, recipe) in enumerate(recipes.items(), 1):
        start = time.perf_counter()
        index = build_index(vectors, recipe, seed=seed)
        build_s = time.perf_counter() - start
        predicted = recipe.bytes_per_vector(vectors.shape[1], n_vectors=len(vectors))
        with one_thread():
            points = sweep(name, index, queries, truth, settings_of(recipe))
        measured = bytes_per_vector(index)
        compared.append(Kind(name, recipe, build_s, predicted, measured, tuple(points)))
        if progress is not None:
            progress(done, name)
    return compared
