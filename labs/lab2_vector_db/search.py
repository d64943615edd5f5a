"""Search with parameters that arrive: nprobe and k_factor through every wrapper, for one call.

faiss takes parameters for one call as an object whose class must match the index, and every
field that is left out falls back to the *class's* default (nprobe 1, k_factor 1), never to the
index's own setting. Here what is not given is read from the index.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab2_vector_db.index_types import check_vectors


def unwrap(index: faiss.Index) -> tuple[Any, Any]:
    """Find the refining layer and the inverted file inside an index.

    Returns
    -------
    (refine, ivf)
        ``faiss.IndexRefine`` or None, and ``faiss.IndexIVF`` or None.
    """
    layer: Any = faiss.downcast_index(index)
    if isinstance(layer, faiss.IndexIDMap):
        layer = faiss.downcast_index(layer.index)
    refine = None
    if isinstance(layer, faiss.IndexRefine):
        refine = layer
        layer = faiss.downcast_index(layer.base_index)
    return refine, layer if isinstance(layer, faiss.IndexIVF) else None


@exercise(
    "2.3",
    points=5,
    title="Search parameters that reach the inverted lists",
    hint="A refined index takes IndexRefineSearchParameters, which carries the parameters of the "
    "index below it. Print what a fresh SearchParametersIVF() and IndexRefineSearchParameters() "
    "hold before you leave a field out.",
)
def search_parameters(
    index: faiss.Index, *, nprobe: int | None = None, k_factor: float | None = None
) -> Any:
    """The parameter object for one search of this index; what is None stays as the index has it.

    ``unwrap`` finds the layers.

    Parameters
    ----------
    index
        Any index of :mod:`labs.lab2_vector_db.index_types`.
    nprobe
        Inverted lists to visit. The number of distances grows with it, and so does recall.
    k_factor
        Candidates to re-score, as a multiple of k.

    Returns
    -------
    faiss.SearchParameters or None
        ``IndexRefineSearchParameters`` around ``SearchParametersIVF`` for a refined inverted
        file, ``SearchParametersIVF`` for a plain one, None where the index has neither.
    """
    refine, ivf = unwrap(index)
    if ivf is None:
        return None
    visited = ivf.nprobe if nprobe is None else nprobe
    lists = faiss.SearchParametersIVF(nprobe=visited)  # type: ignore[call-arg]
    if refine is None:
        return lists
    factor = refine.k_factor if k_factor is None else k_factor
    return faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
        k_factor=factor, base_index_params=lists
    )


def search(
    index: faiss.Index,
    queries: NDArray[np.float32],
    k: int,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest stored vectors of each query.

    Parameters
    ----------
    index
        A trained, filled index.
    queries : float32 array of shape [q, d]
    k
        Neighbours a query, at most the number of stored vectors.
    nprobe, k_factor
        See :func:`search_parameters`; None keeps the index's own setting.

    Returns
    -------
    scores : float32 array of shape [q, k]
        Best first: inner products descending, or squared distances ascending.
    ids : int64 array of shape [q, k]
        -1 where the visited lists held fewer than k vectors.

    Raises
    ------
    InputError
        For queries of another dimension or with NaN, for k outside 1..ntotal, and for a
        parameter that this index does not have.
    """
    queries = check_vectors(queries, dimension=index.d, name="queries")
    require(1 <= k <= index.ntotal, "k", k, f"must be from 1 to {index.ntotal}, the vectors stored")
    refine, ivf = unwrap(index)
    if nprobe is not None:
        if ivf is None:
            raise InputError(
                f"nprobe = {nprobe}, but the index has no inverted lists; leave it out"
            )
        require(nprobe >= 1, "nprobe", nprobe, "must be >= 1", f"use 1 to {ivf.nlist}")
    if k_factor is not None:
        if refine is None:
            raise InputError(f"k_factor = {k_factor}, but the index does not refine; leave it out")
        require(k_factor >= 1, "k_factor", k_factor, "must be >= 1", "try 8")
    parameters = search_parameters(index, nprobe=nprobe, k_factor=k_factor)
    scores, ids = index.search(queries, k, params=parameters)
    return scores, ids
