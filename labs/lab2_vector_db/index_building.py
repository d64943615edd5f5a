"""Build an index from its recipe: train, wrap, add; or, resumably, train and add in slices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab2_vector_db.block_lists import merge_lists
from labs.lab2_vector_db.build_folder import Build, threads_of_faiss
from labs.lab2_vector_db.ground_truth import Source
from labs.lab2_vector_db.index_types import (
    FAISS_METRICS,
    HNSW,
    IVF,
    OPQ,
    PQ,
    Recipe,
    check_ids,
    check_vectors,
)
from labs.lab2_vector_db.search import unwrap

STRATA, SHORTEST_RUN = 256, 16  # of a training sample


def new_index(dimension: int, recipe: Recipe, *, seed: int = 0) -> faiss.Index:
    """The recipe's index, untrained and empty, with its seeds and search defaults set.

    Parameters
    ----------
    dimension
        d, the number of components.
    recipe
        What to build.
    seed
        Of every k-means run and of a random rotation.

    Raises
    ------
    InputError
        When the code does not fit the dimension.
    """
    require(dimension >= 1, "dimension", dimension, "must be >= 1")
    _require_dimension(dimension, recipe)
    index: faiss.Index = faiss.index_factory(
        dimension, recipe.factory, FAISS_METRICS[recipe.metric]
    )
    layers = unwrap(index)
    if layers.refine is not None:
        layers.refine.k_factor = recipe.k_factor
    if layers.transform is not None:
        _prepare_rotation(layers.transform, recipe, seed)
    if isinstance(recipe.structure, IVF):
        _prepare_lists(layers.base, recipe.structure, seed)
    if isinstance(recipe.structure, HNSW):
        layers.base.hnsw.efConstruction = recipe.structure.ef_construction
        layers.base.hnsw.efSearch = recipe.structure.ef_search
    if isinstance(recipe.code, PQ):
        _prepare_codebooks(layers.base, recipe, seed)
    return index


@exercise(
    "2.2",
    points=5,
    title="Build an index: train, wrap, add",
    hint="The quantizers learn from the vectors to be stored, before any is added. Only some "
    "index types keep ids of your own: try `add_with_ids` on each, and see what faiss offers "
    "for the others.",
)
def build_index(
    vectors: NDArray[np.float32],
    recipe: Recipe,
    *,
    ids: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> faiss.Index:
    """Train the recipe's index on the vectors and add all of them.

    ``new_index`` gives the empty index; ``check_vectors``, ``check_ids`` and ``require_enough``
    are the checks. An inverted file without refinement keeps ids itself
    (``recipe.keeps_ids``); every other index numbers its rows from 0, and
    :class:`faiss.IndexIDMap2` around it translates.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        For the cosine, normalise them first and use the metric ``inner_product``.
    recipe
        What to build.
    ids : int64 array of shape [n], optional
        The id of each vector; None numbers the rows from 0.
    seed
        Of the k-means runs and of a random rotation.

    Returns
    -------
    faiss.Index
        Trained, with ``ntotal == n``.

    Raises
    ------
    InputError
        For vectors that are not finite or too few to train on, for ids of another length,
        negative or given twice (faiss itself accepts duplicates and then returns both).
    """
    vectors = check_vectors(vectors)
    require_enough(len(vectors), recipe)
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
        return index
    ids = check_ids(ids, len(vectors))
    if not recipe.keeps_ids:
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, ids)
    return index


def require_enough(n_vectors: int, recipe: Recipe) -> None:
    """Refuse to train on fewer vectors than there are centroids to place.

    Raises
    ------
    InputError
        For fewer vectors than ``n_lists`` or than the ``2**bits`` centroids of a PQ segment.
    """
    least = recipe.structure.n_lists if isinstance(recipe.structure, IVF) else 1
    if isinstance(recipe.code, PQ):
        least = max(least, 2**recipe.code.bits)
    require(
        n_vectors >= least,
        "number of vectors",
        n_vectors,
        f"must be >= {least} to train {recipe.factory}",
        "use fewer n_lists, PQ of 4 bits, or Recipe(Flat())",
    )


def build_large(
    source: Source,
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    train_size: int | None = None,
    slice_rows: int = 500_000,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[int, str], object] | None = None,
) -> faiss.Index:
    """Build an index of more vectors than fit in memory; killed at any moment, it goes on.

    The index is trained on a sample and saved; every slice of rows is added to an empty copy of it
    and saved; at the end the slices are merged, and rows are numbered from 0. What is saved is
    whole and synced under its name or not there, so the next call with the same arguments begins
    at the first slice that is missing, and returns the finished index when there is one.

    Memory: the index, twice a slice (``8 d slice_rows`` bytes), and while training four times the
    sample (``16 d train_size``). On disk: twice the index, until the slices are merged.

    Parameters
    ----------
    source : rows of shape [n, d], finite
        An array, a memory map, or anything with ``shape`` and slices.
    recipe
        What to build. No graph: it cannot be put together from parts.
    folder
        Of this build alone; made when missing. The result is in ``index.faiss``.
    train_size
        Rows to train on, in runs spread evenly over the source; None takes what the recipe's
        k-means can use (:func:`training_size`).
    slice_rows
        Rows in a slice, the work that a kill can lose.
    threads
        Of faiss during the build; None keeps its setting.
    seed
        Of the sample, the k-means runs and a random rotation.
    progress
        Called with the rows done and what is being done.

    Raises
    ------
    InputError
        For a recipe with a graph, too small a sample, rows that are not finite, or a folder that
        holds another build or is in use.
    RunError
        When the disk is full, or a saved slice does not belong to this build.
    """
    if isinstance(recipe.structure, HNSW):
        raise InputError(f"{recipe.factory} is a graph, which has no parts; use build_index or IVF")
    require(len(source.shape) == 2, "source.shape", source.shape, "must be [n, d]")
    n, dimension = source.shape
    index = new_index(dimension, recipe, seed=seed)
    size = training_size(recipe, n) if train_size is None else min(train_size, n)
    require_enough(size, recipe)
    require(slice_rows >= 1, "slice_rows", slice_rows, "must be >= 1")
    told = progress or (lambda done, text: None)
    build = Build.open(Path(folder), source, recipe, size, slice_rows, seed)
    with build.locked(), threads_of_faiss(threads):
        if build.result.exists():
            return build.finished()
        if not build.trained.exists():
            told(0, f"training on {size:,} rows")
            index.train(sample_rows(source, size, seed=seed))
            build.save(index, build.trained)
        trained = np.fromfile(build.trained, dtype=np.uint8)
        for start in build.starts:
            if not build.part(start).exists():
                stop = min(start + slice_rows, n)
                told(start, f"adding rows {start:,} to {stop:,}")
                part = faiss.deserialize_index(trained)
                rows = check_vectors(
                    source[start:stop], dimension=dimension, name=f"source[{start}:{stop}]"
                )
                part.add(rows)
                build.save(part, build.part(start))
                del part, rows
        told(n, "merging")
        index = faiss.deserialize_index(trained)
        for start in build.starts:
            append(index, build.read_part(start))
        build.save(index, build.result)
        del index  # its vectors grew by doubling; what is read takes what it needs
        return build.finished()


def append(index: faiss.Index, part: faiss.Index) -> None:
    """Move the vectors of ``part``, a copy of the same trained index, behind those of ``index``.

    Rows are numbered on. faiss merges the inverted lists; :class:`faiss.IndexRefine` and
    :class:`faiss.IndexPreTransform` only count what they contain.
    """
    into, out_of = unwrap(index), unwrap(part)
    if into.ivf is not None:
        merge_lists(into.base, out_of.base, into.base.ntotal)
    else:
        into.base.merge_from(out_of.base)
    if into.refine is not None:
        refining: Any = faiss.downcast_index(into.refine.refine_index)
        refining.merge_from(faiss.downcast_index(out_of.refine.refine_index))
    for layer in (into.transform, into.refine):
        if layer is not None:
            layer.ntotal = into.base.ntotal


def training_size(recipe: Recipe, n_vectors: int) -> int:
    """Rows that training the recipe can use, at most all.

    The most of: ``points_per_centroid`` for each list, 256 for each centroid of a PQ segment, the
    ``max_train_points`` of OPQ; at least 65,536, for the ranges of scalar quantizers.
    """
    wanted = [65_536]
    if isinstance(recipe.structure, IVF):
        wanted.append(recipe.structure.n_lists * recipe.structure.points_per_centroid)
    if isinstance(recipe.code, PQ):
        wanted.append(256 * 2**recipe.code.bits)
    if isinstance(recipe.rotation, OPQ):
        wanted.append(recipe.rotation.max_train_points)
    return min(max(wanted), n_vectors)


def sample_rows(source: Source, size: int, *, seed: int = 0) -> NDArray[np.float32]:
    """About evenly spread rows of a source that is read in slices, float32 [size, d].

    The source is cut into 256 strata (fewer for a small sample), and each gives one run of
    neighbouring rows from a random place: sorted data are covered, and reading stays sequential.

    Raises
    ------
    InputError
        For a size outside 1 to n, or rows that are not finite.
    """
    n, dimension = source.shape
    require(1 <= size <= n, "size", size, f"must be from 1 to {n}, the rows of the source")
    strata = min(STRATA, -(-size // SHORTEST_RUN))
    edges = np.linspace(0, n, strata + 1).astype(int)
    shares = np.diff(np.linspace(0, size, strata + 1).astype(int))
    rng = np.random.default_rng(seed)
    rows = np.empty((size, dimension), dtype=np.float32)
    filled = 0
    for begin, end, share in zip(edges[:-1], edges[1:], shares):
        # Rounding may ask a stratum for one row more than it has.
        start = int(rng.integers(begin, max(end - share, begin) + 1))
        start = min(start, n - int(share))
        rows[filled : filled + share] = source[start : start + int(share)]
        filled += int(share)
    return check_vectors(rows, name="source")


def _require_dimension(dimension: int, recipe: Recipe) -> None:
    if isinstance(recipe.rotation, OPQ) and recipe.rotation.dimension is not None:
        require(
            recipe.rotation.dimension <= dimension,
            "OPQ dimension",
            recipe.rotation.dimension,
            f"must be <= {dimension}, the dimension of the vectors",
        )
    if isinstance(recipe.code, PQ):
        coded = recipe.code_dimension(dimension)
        divisors = [m for m in range(1, coded + 1) if coded % m == 0]
        require(
            recipe.code.segments in divisors,
            "PQ segments",
            recipe.code.segments,
            f"must divide the dimension {coded}",
            f"use one of {divisors}",
        )


def _prepare_lists(ivf: Any, structure: IVF, seed: int) -> None:
    ivf.nprobe = structure.nprobe
    ivf.cp.seed = seed
    ivf.cp.niter = structure.niter
    ivf.cp.max_points_per_centroid = structure.points_per_centroid
    ivf.cp.min_points_per_centroid = min(39, structure.points_per_centroid)
    if structure.centroids == "hnsw":
        graph: Any = faiss.downcast_index(ivf.quantizer)
        graph.hnsw.efSearch = structure.centroid_ef_search


def _prepare_codebooks(base: Any, recipe: Recipe, seed: int) -> None:
    code: Any = recipe.code
    if isinstance(recipe.structure, IVF):
        # The factory has a name for this only with 4 bits.
        base.by_residual = code.residual
    coded: Any = faiss.downcast_index(base.storage) if isinstance(base, faiss.IndexHNSW) else base
    coded.pq.cp.seed = seed


def _prepare_rotation(transform: Any, recipe: Recipe, seed: int) -> None:
    rotation: Any = faiss.downcast_VectorTransform(transform.chain.at(0))
    if isinstance(recipe.rotation, OPQ) and isinstance(recipe.code, PQ):
        rotation.niter = recipe.rotation.niter
        rotation.max_train_points = recipe.rotation.max_train_points
        # faiss would learn the rotation for 8-bit codebooks, whatever the code has: for 4 bits
        # that takes 16 times longer and fits worse. The index does not own this object.
        codebooks: Any = faiss.ProductQuantizer(
            rotation.d_out, recipe.code.segments, recipe.code.bits
        )
        codebooks.cp.seed = seed
        codebooks.this.disown()
        rotation.pq = codebooks
    else:
        rotation.init(seed)
