"""The same recipes on a GPU: what changes, and what is left out.

A GPU reads its memory about 100 times faster than a CPU core reads its own, so it wants plain
layouts and many queries at once. The 4-bit fast-scan codes are a CPU layout (their tables live in
SIMD registers); on a GPU the same bytes hold 8-bit codes of half as many segments. A graph for a
GPU is CAGRA (Ootomo et al. 2023, https://arxiv.org/abs/2308.15136), which wants cuVS.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.latency import LatencySummary
from labs.lab2_vector_db.evaluation import answer_serially, recall_at_k
from labs.lab2_vector_db.index_building import new_index
from labs.lab2_vector_db.index_types import (
    FAISS_METRICS,
    HNSW,
    IVF,
    PQ,
    SQ,
    Exact,
    Flat,
    RaBitQ,
    Recipe,
    check_vectors,
)
from labs.lab2_vector_db.throughput import batch_throughput

QUERY_BLOCK = 8192
"""Queries a call; more only makes the temporary memory larger."""


def gpus() -> int:
    """GPUs that faiss itself can use: 0 with the CPU build, whatever the machine has."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def has_cuvs() -> bool:
    """Whether this faiss was built with cuVS, which CAGRA needs (the package faiss-gpu-cuvs)."""
    return hasattr(faiss, "GpuIndexCagra") and "CUVS" in str(faiss.get_compile_options())


def gpu_recipe(recipe: Recipe) -> Recipe:
    """The recipe as a GPU runs it, at the same bytes a vector.

    4-bit codes of m segments become 8-bit codes of m / 2 of what is left after the centroid is
    taken away, the only kind that a GPU has; flat centroids replace a graph over
    them, because comparing with all of them takes a GPU microseconds. Refinement stays: it is done
    by :class:`GpuIndex` itself, with half-precision vectors in place of 8-bit ones.

    Raises
    ------
    InputError
        For a recipe that has no counterpart: a rotation, RaBitQ, or an odd number of segments.
    """
    structure, code = recipe.structure, recipe.code
    if recipe.rotation is not None:
        raise InputError(f"rotation = {recipe.rotation} runs on a CPU only; leave it out")
    if isinstance(code, RaBitQ):
        raise InputError(f"code = {code} runs on a CPU only; use PQ or SQ")
    if isinstance(structure, IVF):
        structure = replace(structure, centroids="flat")
    if isinstance(code, PQ) and code.bits == 4:
        require(code.segments % 2 == 0, "segments", code.segments, "must be even on a GPU")
        code = PQ(code.segments // 2, bits=8)
    elif isinstance(code, PQ):
        code = replace(code, residual=True)
    if isinstance(structure, HNSW) and not isinstance(code, Exact):
        raise InputError(f"code = {code} under a graph runs on a CPU only; use Exact()")
    if isinstance(structure, Flat) and not isinstance(code, Exact):
        raise InputError(f"code = {code} without lists runs on a CPU only; use an IVF")
    refine = None if recipe.refine is None else SQ(16)
    return replace(recipe, structure=structure, code=code, refine=refine)


@dataclass(frozen=True)
class GpuOptions:
    """How a GPU holds the index."""

    device: int = 0
    half_tables: bool = True
    """Distance tables of the product quantizer in half precision: twice as many fit."""


class GpuIndex:
    """An index on a GPU: candidates from faiss, the best ``k_factor * k`` scored again by torch.

    Made by :func:`build_gpu_index`; ``search`` takes batches.
    """

    def __init__(self, index: Any, recipe: Recipe, vectors: Any, resources: Any) -> None:
        self.index, self.recipe = index, recipe
        self._vectors, self._resources = vectors, resources
        self.d, self.ntotal = int(index.d), int(index.ntotal)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        nprobe: int | None = None,
        k_factor: float | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest stored vectors of each query.

        Parameters
        ----------
        queries : float32 array of shape [q, d]
        k
        nprobe
            Lists visited; None keeps the recipe's. A graph has none.
        k_factor
            Candidates scored again, as a multiple of k; None keeps the recipe's.

        Returns
        -------
        scores : float32 array of shape [q, k]
            Best first, as :func:`labs.lab2_vector_db.search.search` gives them.
        ids : int64 array of shape [q, k]
            -1 where the visited lists held fewer than k.
        """
        queries = check_vectors(queries, dimension=self.d, name="queries")
        require(1 <= k <= self.ntotal, "k", k, f"must be from 1 to {self.ntotal}")
        factor = self.recipe.k_factor if k_factor is None else k_factor
        many = k if self._vectors is None else min(self.ntotal, max(k, int(k * factor)))
        parameters: Any = None
        if nprobe is not None:
            if not isinstance(self.recipe.structure, IVF):
                raise InputError(f"nprobe = {nprobe}, but the index has no lists; leave it out")
            parameters = faiss.SearchParametersIVF(nprobe=nprobe)  # type: ignore[call-arg]
        scores, ids = [], []
        for start in range(0, len(queries), QUERY_BLOCK):
            block = queries[start : start + QUERY_BLOCK]
            found = self.index.search(block, many, params=parameters)
            if self._vectors is not None:
                found = self._again(block, found[1], k)
            scores.append(found[0])
            ids.append(found[1])
        return np.concatenate(scores), np.concatenate(ids)

    def _again(
        self, queries: NDArray[np.float32], ids: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score the candidates with the half-precision vectors and keep the best k."""
        import torch

        candidates = torch.from_numpy(ids).to(self._vectors.device)
        asked = torch.from_numpy(queries).to(self._vectors.device)
        near = self._vectors[candidates.clamp(min=0)].float()
        products = torch.einsum("qcd,qd->qc", near, asked)
        largest = self.recipe.metric == "inner_product"
        if largest:
            scores = products
        else:
            scores = (near * near).sum(2) - 2 * products + (asked * asked).sum(1, keepdim=True)
        worst = -torch.inf if largest else torch.inf
        scores = scores.masked_fill(candidates < 0, worst)
        best, order = scores.topk(k, dim=1, largest=largest)
        return best.cpu().numpy(), candidates.gather(1, order).cpu().numpy()


def build_gpu_index(
    vectors: NDArray[np.float32],
    recipe: Recipe,
    *,
    options: GpuOptions = GpuOptions(),
    train_size: int = 1_000_000,
    seed: int = 0,
) -> GpuIndex:
    """Train and fill ``gpu_recipe(recipe)`` on a GPU.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        Added block by block: a memory map is never read as a whole.
    recipe
        For a CPU or a GPU; see :func:`gpu_recipe`. ``HNSW(m)`` becomes CAGRA of degree 2m.
    options, seed
    train_size
        Rows that k-means sees, drawn at random.

    Raises
    ------
    InputError
        Where faiss has no GPU, or the recipe needs cuVS and there is none.
    """
    if not gpus():
        raise InputError(
            "this faiss sees no GPU; install faiss-gpu (make setup ACCEL=gpu) on a "
            "machine with one, or use the CPU"
        )
    recipe = gpu_recipe(recipe)
    n, dimension = vectors.shape
    resources: Any = faiss.StandardGpuResources()
    if isinstance(recipe.structure, HNSW):
        index = _cagra(vectors, recipe, resources, options)
    else:
        bare = new_index(dimension, replace(recipe, refine=None), seed=seed)
        index = _clone(bare, resources, options)
        index.train(training_sample(vectors, train_size, seed))
        for start in range(0, n, 500_000):
            index.add(np.ascontiguousarray(vectors[start : start + 500_000]))
    if isinstance(recipe.structure, IVF):
        index.nprobe = recipe.structure.nprobe
    return GpuIndex(index, recipe, _half(vectors, recipe, options), resources)


def training_sample(vectors: NDArray[np.float32], size: int, seed: int) -> NDArray[np.float32]:
    """At most ``size`` rows, drawn at random without replacement: float32 [min(n, size), d]."""
    if len(vectors) <= size:
        return np.ascontiguousarray(vectors)
    rows = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


def _clone(index: faiss.Index, resources: Any, options: GpuOptions) -> Any:
    cloner: Any = faiss.GpuClonerOptions()
    cloner.useFloat16 = options.half_tables
    return faiss.index_cpu_to_gpu(resources, options.device, index, cloner)


def _cagra(vectors: Any, recipe: Recipe, resources: Any, options: GpuOptions) -> Any:
    if not has_cuvs():
        raise InputError(
            f"structure = {recipe.structure} is a graph, which a GPU searches through cuVS; this "
            "faiss was built without it: install faiss-gpu-cuvs, or use an IVF"
        )
    assert isinstance(recipe.structure, HNSW)
    library: Any = faiss
    configuration = library.GpuIndexCagraConfig()
    configuration.device = options.device
    configuration.graph_degree = 2 * recipe.structure.m
    configuration.intermediate_graph_degree = 4 * recipe.structure.m
    index = library.GpuIndexCagra(
        resources, vectors.shape[1], FAISS_METRICS[recipe.metric], configuration
    )
    index.train(np.ascontiguousarray(vectors))
    return index


def _half(vectors: Any, recipe: Recipe, options: GpuOptions) -> Any:
    """All vectors in half precision on the GPU, or None where nothing is refined."""
    if recipe.refine is None:
        return None
    import torch

    device = torch.device("cuda", options.device)
    half = torch.empty(vectors.shape, dtype=torch.float16, device=device)
    for start in range(0, len(vectors), 500_000):
        block = np.ascontiguousarray(vectors[start : start + 500_000])
        half[start : start + len(block)] = torch.from_numpy(block).to(device)
    return half


@dataclass(frozen=True)
class GpuPoint:
    """One setting on the GPU.

    ``latency`` is of one query a call, ``qps_1000`` of calls with 1,000 queries each.
    """

    recipe: str
    nprobe: int | None
    build_s: float
    recall: NDArray[np.float64]
    latency: LatencySummary
    qps_1000: float


def measure(
    vectors: NDArray[np.float32],
    recipe: Recipe,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    *,
    nprobes: tuple[int | None, ...] = (None,),
    seed: int = 0,
) -> list[GpuPoint]:
    """Build the recipe on a GPU; recall, latency of single queries, throughput of batches.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    recipe
        See :func:`gpu_recipe`.
    queries : float32 array of shape [q, d]
        At least 1,000.
    true_ids : int64 array of shape [q, k]
    nprobes
        Settings to measure; None keeps the recipe's, and is the only one for a graph.
    """
    require(len(queries) >= 1000, "number of queries", len(queries), "must be >= 1000")
    start = time.perf_counter()
    index = build_gpu_index(vectors, recipe, seed=seed)
    build_s = time.perf_counter() - start
    k = true_ids.shape[1]
    points = []
    for nprobe in nprobes:

        def answer(some: NDArray[np.float32], nprobe: int | None = nprobe) -> NDArray[np.int64]:
            return index.search(some, k, nprobe=nprobe)[1]

        found, seconds = answer_serially(answer, queries)
        batches = batch_throughput(answer, queries, batch_size=1000, seconds=1.0, warmup=3)
        points.append(
            GpuPoint(
                index.recipe.factory,
                nprobe,
                build_s,
                recall_at_k(np.concatenate(found), true_ids),
                LatencySummary.of(seconds, how="serial, one query a call, answers on the CPU"),
                batches.qps,
            )
        )
    return points
