"""Build an index from its recipe: train, wrap, add."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
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
