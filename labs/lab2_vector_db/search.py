"""Search with parameters that arrive: nprobe, k_factor, ef_search and a filter, in every layer.

faiss takes parameters for one call as an object whose class must match the layer, and every
field that is left out falls back to the *class's* default (nprobe 1, k_factor 1, efSearch 16),
never to the index's own setting. Here what is not given is read from the index.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab2_vector_db.vectors import check_vectors


class Layers(NamedTuple):
    """The layers of an index from the outside in, downcast; None where there is none."""

    id_map: Any
    """:class:`faiss.IndexIDMap`: translates row numbers to ids of your own."""
    refine: Any
    """:class:`faiss.IndexRefine`: scores the best candidates again."""
    transform: Any
    """:class:`faiss.IndexPreTransform`: rotates vectors and queries."""
    base: Any
    """What remains: an inverted file, a graph, or a flat index."""

    @property
    def ivf(self) -> Any:
        """The base as :class:`faiss.IndexIVF`, or None."""
        return self.base if isinstance(self.base, faiss.IndexIVF) else None

    @property
    def hnsw(self) -> Any:
        """The base as :class:`faiss.IndexHNSW`, or None."""
        return self.base if isinstance(self.base, faiss.IndexHNSW) else None


def unwrap(index: faiss.Index) -> Layers:
    """Find the layers inside an index."""
    layer: Any = faiss.downcast_index(index)
    id_map = refine = transform = None
    if isinstance(layer, faiss.IndexIDMap):
        id_map, layer = layer, faiss.downcast_index(layer.index)
    if isinstance(layer, faiss.IndexRefine):
        refine, layer = layer, faiss.downcast_index(layer.base_index)
    if isinstance(layer, faiss.IndexPreTransform):
        transform, layer = layer, faiss.downcast_index(layer.index)
    return Layers(id_map, refine, transform, layer)


@exercise(
    "2.3",
    points=5,
    title="Search parameters that reach every layer",
    hint="Build from the inside out: parameters of the base, then those of each layer around it, "
    "which carry the ones below. Print what a fresh SearchParametersIVF() and "
    "IndexRefineSearchParameters() hold before you leave a field out.",
)
def search_parameters(
    index: faiss.Index,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
    ef_search: int | None = None,
    selector: faiss.IDSelector | None = None,
) -> Any:
    """The parameter object for one search of this index; what is None stays as the index has it.

    ``unwrap`` finds the layers. Each has a class of its own, and the outer ones carry the inner:

    ================= =============================== ============================
    layer             class                           fields
    ================= =============================== ============================
    refine            ``IndexRefineSearchParameters``   k_factor, base_index_params
    transform         ``SearchParametersPreTransform``  index_params
    inverted file     ``SearchParametersIVF``           nprobe, sel
    graph             ``SearchParametersHNSW``          efSearch, sel
    flat              ``SearchParameters``              sel
    ================= =============================== ============================

    Parameters
    ----------
    index
        Any index of :mod:`labs.lab2_vector_db.index_building`.
    nprobe
        Inverted lists to visit. The number of distances grows with it, and so does recall.
    k_factor
        Candidates to refine, as a multiple of k.
    ef_search
        Candidates kept on the walk through a graph.
    selector
        Which vectors may be found, by the ids that the index answers with. It belongs into the
        parameters of the base: no other layer applies it (refine and transform ignore theirs).
        Below an :class:`faiss.IndexIDMap2` the base knows row numbers only;
        ``translated(layers, selector)`` is the same filter in row numbers.

    Returns
    -------
    faiss.SearchParameters or None
        For the outermost layer below an :class:`faiss.IndexIDMap2`, which takes the same. None
        for a flat base without a selector: a flat fast-scan index takes no parameters at all.
    """
    layers = unwrap(index)
    fields: dict[str, Any] = {}
    if selector is not None:
        fields["sel"] = translated(layers, selector)
    parameters: Any
    if layers.ivf is not None:
        visited = layers.ivf.nprobe if nprobe is None else nprobe
        parameters = faiss.SearchParametersIVF(nprobe=visited, **fields)  # type: ignore[call-arg]
    elif layers.hnsw is not None:
        kept = layers.hnsw.hnsw.efSearch if ef_search is None else ef_search
        parameters = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            efSearch=kept, **fields
        )
    else:
        parameters = faiss.SearchParameters(**fields) if fields else None
    if layers.transform is not None:
        parameters = faiss.SearchParametersPreTransform(  # type: ignore[call-arg]
            index_params=parameters
        )
    if layers.refine is not None:
        factor = layers.refine.k_factor if k_factor is None else k_factor
        parameters = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
            k_factor=factor, base_index_params=parameters
        )
    return parameters


def translated(layers: Layers, selector: faiss.IDSelector) -> faiss.IDSelector:
    """The selector in row numbers where an IndexIDMap2 keeps the ids, and itself elsewhere."""
    if layers.id_map is None:
        return selector
    rows: Any = faiss.IDSelectorTranslated(layers.id_map.id_map, selector)
    rows.selector = selector  # faiss keeps a bare pointer to it
    return rows


def search(
    index: faiss.Index,
    queries: NDArray[np.float32],
    k: int,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
    ef_search: int | None = None,
    selector: faiss.IDSelector | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest stored vectors of each query.

    Parameters
    ----------
    index
        A trained, filled index.
    queries : float32 array of shape [q, d]
    k
        Neighbours a query, at most the number of stored vectors.
    nprobe, k_factor, ef_search, selector
        See :func:`search_parameters`; None keeps the index's own setting, and no filter.

    Returns
    -------
    scores : float32 array of shape [q, k]
        Best first: inner products descending, or squared distances ascending.
    ids : int64 array of shape [q, k]
        -1 where the visited part held fewer than k vectors (that the selector lets through).

    Raises
    ------
    InputError
        For queries of another dimension or with NaN, for k outside 1..ntotal, and for a
        parameter that this index does not have.
    """
    queries = check_vectors(queries, dimension=index.d, name="queries")
    require(index.ntotal > 0, "index.ntotal", 0, "must be > 0", "add vectors before you search")
    require(1 <= k <= index.ntotal, "k", k, f"must be from 1 to {index.ntotal}, the vectors stored")
    layers = unwrap(index)
    _require_layer("nprobe", nprobe, layers.ivf, "has no inverted lists", "try 8")
    _require_layer("k_factor", k_factor, layers.refine, "does not refine", "try 8")
    _require_layer("ef_search", ef_search, layers.hnsw, "has no graph", "try 64")
    if selector is not None and isinstance(layers.base, faiss.IndexFastScan):
        raise InputError(
            f"a selector was given, but {type(layers.base).__name__} compares blocks of 32 and "
            "skips none; use IVF(1, nprobe=1) in place of Flat()"
        )
    parameters = search_parameters(
        index, nprobe=nprobe, k_factor=k_factor, ef_search=ef_search, selector=selector
    )
    scores, ids = index.search(queries, k, params=parameters)
    return scores, ids


def _require_layer(name: str, value: float | None, layer: Any, lack: str, fix: str) -> None:
    if value is None:
        return
    if layer is None:
        raise InputError(f"{name} = {value}, but the index {lack}; leave it out")
    require(value >= 1, name, value, "must be >= 1", fix)
