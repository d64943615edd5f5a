"""Many into one: the answers of shards into one answer, and trained-alike indexes into one index.

Both are where a distributed index goes wrong without an error: a shard's row 7 is not the
collection's vector 7, and faiss merges indexes whose codes mean different vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab2_vector_db.block_lists import merge_lists
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric

NO_MAP: int = faiss.DirectMap.NoMap  # type: ignore[attr-defined]


@exercise(
    "2.11",
    points=8,
    title="Scatter-gather: one answer from many shards",
    hint="Put all answers side by side, [q, sum of k_s], and turn rows into ids before anything "
    "is sorted. numpy reads row -1 as the last row. With a key that is smaller for a better "
    "score, one code serves both metrics; np.lexsort((second, first), axis=1) breaks ties.",
)
def merge_top_k(
    answers: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    global_ids: Sequence[NDArray[np.int64]],
    k: int,
    metric: Metric,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of all shards for each query, from the best of each shard.

    The k best of a union are among the k best of its parts, so the merge is exact when every
    shard returned its own k best (or all it has):
    ``top_k(A ∪ B) = top_k(top_k(A) ∪ top_k(B))``. ``check_answers`` holds the checks.

    Parameters
    ----------
    answers
        One (scores, rows) a shard, of shapes [q, k_s]: float32 and int64, as faiss returned them.
        k_s may differ. ``rows`` count from 0 *in that shard*; -1 means that the shard had nothing
        more, and the score beside it has no meaning (0, or ±3.4e38).
    global_ids
        One int64 array [n_s] a shard: ``global_ids[s][row]`` is the id of its row. Replicas may
        hold the same id.
    k
        Results a query.
    metric
        ``"inner_product"``: the highest score is best. ``"l2"``: the lowest is.

    Returns
    -------
    scores : float32 array of shape [q, k]
        Best first; NaN where fewer than k vectors were found.
    ids : int64 array of shape [q, k]
        Global ids, each at most once a row, with its best score; -1 where there is none. Of equal
        scores the lower id comes first, so that the order of the shards does not matter.

    Raises
    ------
    InputError
        For shapes that do not belong together, k below 1, or an unknown metric.

    Examples
    --------
    >>> near = (np.array([[0.9, 0.2]], "f4"), np.array([[1, 0]]))
    >>> far = (np.array([[0.5, -3.4e38]], "f4"), np.array([[0, -1]]))
    >>> merge_top_k([near, far], [np.array([10, 11]), np.array([20])], 2, "inner_product")[1]
    array([[11, 20]])
    """
    check_answers(answers, global_ids, k, metric)
    columns = []
    for (_, rows), own in zip(answers, global_ids):
        known = np.full(rows.shape, -1, dtype=np.int64)
        known[rows >= 0] = own[rows[rows >= 0]]
        columns.append(known)
    ids = np.concatenate(columns, axis=1)
    scores = np.concatenate([scores for scores, _ in answers], axis=1)
    keys = np.where(ids >= 0, scores if metric == "l2" else -scores, np.inf)

    order = np.lexsort((ids, keys), axis=1)
    keys, ids = np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)
    # Stable, so that of equal ids the best-scored copy stays first and is kept.
    by_id = np.argsort(ids, axis=1, kind="stable")
    grouped = np.take_along_axis(ids, by_id, 1)
    again = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(again, by_id[:, 1:], grouped[:, 1:] == grouped[:, :-1], 1)
    keys[again], ids[again] = np.inf, -1

    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    best = np.pad(np.take_along_axis(ids, order, 1), missing, constant_values=-1)
    key = np.pad(np.take_along_axis(keys, order, 1), missing, constant_values=np.inf)
    merged = np.where(best >= 0, key if metric == "l2" else -key, np.nan)
    return merged.astype(np.float32), best


def check_answers(
    answers: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    global_ids: Sequence[NDArray[np.int64]],
    k: int,
    metric: Metric,
) -> None:
    """Refuse answers that cannot be merged.

    Raises
    ------
    InputError
        As :func:`merge_top_k` says.
    """
    require(k >= 1, "k", k, "must be >= 1", "try 10")
    require(metric in FAISS_METRICS, "metric", metric, f"must be one of {list(FAISS_METRICS)}")
    require(len(answers) > 0, "answers", len(answers), "must be at least one", "ask a shard")
    require(
        len(answers) == len(global_ids),
        "global_ids",
        len(global_ids),
        f"must be one array for each of the {len(answers)} answers",
    )
    q = len(answers[0][0])
    for shard, ((scores, rows), own) in enumerate(zip(answers, global_ids)):
        require(
            scores.ndim == 2 and scores.shape == rows.shape and len(scores) == q,
            f"answers[{shard}]",
            (scores.shape, rows.shape),
            f"must be scores and rows of one shape [{q}, k_s]",
        )
        last = int(rows.max(initial=-1))
        require(
            last < len(own),
            f"answers[{shard}] row",
            last,
            f"must be below {len(own)}, the ids of that shard",
            "give each answer the ids of its own shard",
        )


def merge(indexes: Sequence[faiss.Index], *, renumber: bool = False) -> faiss.Index:
    """One index from several that were trained alike, equal to one built at once.

    faiss's own ``merge_from`` has gaps: a refined index has none, an ``IndexIDMap2`` over an
    inverted file then translates wrong positions, fast-scan lists can be overrun
    (:mod:`.block_lists`), and it compares coarse centroids, but neither codebooks nor the ranges
    of scalar quantizers. Here each layer is merged by itself, and all that was learnt is compared.
    (:func:`.index_building.append` does less, for slices of one build.)

    Parameters
    ----------
    indexes
        Copies of one trained index, each with its own vectors. Merging moves: the first grows
        and is returned, the others are empty afterwards.
    renumber
        False keeps ids of your own, which must be unique over all indexes. True is for indexes
        that number their rows from 0: the rows of each follow those of the one before.

    Returns
    -------
    faiss.Index
        ``indexes[0]``.

    Raises
    ------
    InputError
        For indexes of different types or training, an id in two of them, ids that would have to
        be renumbered, or a type that cannot be merged (HNSW: a graph has no parts).
        Nothing has been moved then.
    """
    require_mergeable(indexes, unique=not renumber)
    layers = [_layers(index) for index in indexes]
    has_map = isinstance(layers[0][0], faiss.IndexIDMap)
    if renumber and has_map:
        raise InputError("renumber = True, but the indexes have ids of their own; leave it out")
    # What lies under a map or beside refined vectors is numbered by position, always.
    by_position = renumber or has_map or isinstance(layers[0][0], faiss.IndexRefine)
    for others in layers[1:]:
        _append(layers[0], others, by_position)
    return indexes[0]


def require_mergeable(indexes: Sequence[faiss.Index], *, unique: bool = True) -> None:
    """Refuse indexes of which one cannot be made.

    Parameters
    ----------
    indexes
        At least one.
    unique
        Whether their ids must differ, which takes 8 bytes a vector to look.

    Raises
    ------
    InputError
        As :func:`merge` says.
    """
    require(len(indexes) > 0, "indexes", 0, "must be at least one")
    layers = [_layers(index) for index in indexes]
    for number, other in enumerate(layers[1:], 1):
        _require_alike(layers[0], other, number)
    if unique and len(indexes) > 1:
        _require_unique(layers)


def set_ids(index: faiss.Index, ids: NDArray[np.int64]) -> faiss.Index:
    """Give the rows of an index that numbers them from 0 ids of their own.

    Parameters
    ----------
    index
        An inverted file gets the ids into its lists; any other index an ``IndexIDMap2`` around it.
    ids : int64 array of shape [ntotal]

    Returns
    -------
    faiss.Index
        The index itself, or the map that owns it.
    """
    require(len(ids) == index.ntotal, "ids.shape", ids.shape, f"must be [{index.ntotal}], one each")
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    layers = _layers(index)
    if isinstance(layers[-1], faiss.IndexIVF) and not isinstance(layers[0], faiss.IndexRefine):
        for view in _list_ids(layers[-1]):
            view[:] = ids[view]
        return index
    stored, index.ntotal = index.ntotal, 0  # the map refuses to be put around a filled index
    mapped = faiss.IndexIDMap2(index)
    mapped.ntotal = index.ntotal = stored
    faiss.copy_array_to_vector(ids, mapped.id_map)
    mapped.construct_rev_map()
    return mapped


def _layers(index: faiss.Index) -> list[Any]:
    """The index and what it wraps, outermost first; a refining layer's vectors are beside it."""
    layers: list[Any] = [faiss.downcast_index(index)]
    while True:
        top = layers[-1]
        if isinstance(top, faiss.IndexIDMap | faiss.IndexPreTransform):
            layers.append(faiss.downcast_index(top.index))
        elif isinstance(top, faiss.IndexRefine):
            layers.append(faiss.downcast_index(top.base_index))
        else:
            return layers


def _list_ids(ivf: Any) -> list[NDArray[np.int64]]:
    """The ids of each non-empty inverted list, as views."""
    lists = ivf.invlists
    sizes = [(number, lists.list_size(number)) for number in range(ivf.nlist)]
    return [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in sizes if size]


def _own_ids(layers: list[Any]) -> NDArray[np.int64] | None:
    """The ids that the index was given, None where it numbers its rows by position."""
    if isinstance(layers[0], faiss.IndexIDMap):
        return np.asarray(faiss.vector_to_array(layers[0].id_map))
    if isinstance(layers[-1], faiss.IndexIVF) and not isinstance(layers[0], faiss.IndexRefine):
        return np.concatenate([*_list_ids(layers[-1]), np.empty(0, np.int64)])
    return None


def _require_unique(every: list[list[Any]]) -> None:
    parts = [_own_ids(layers) for layers in every]
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        raise InputError(
            f"{type(every[0][0]).__name__} numbers its rows from 0 in each index and has no ids to "
            "keep; pass renumber=True, or build with ids"
        )
    ids = np.sort(np.concatenate(given))
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if repeated.size:
        raise InputError(
            f"id {repeated[0]} is in two of the indexes ({repeated.size} such ids); pass "
            "renumber=True if they number their rows from 0, otherwise remove one copy"
        )


def _require_alike(first: list[Any], other: list[Any], number: int) -> None:
    kinds = [[type(layer).__name__ for layer in layers] for layers in (first, other)]
    if kinds[0] != kinds[1]:
        raise InputError(f"index {number} is {' over '.join(kinds[1])}, index 0 {kinds[0]}")
    for one, two in zip(first, other):
        if not isinstance(one, faiss.IndexIVF | faiss.IndexFlatCodes | faiss.IndexFastScan) and (
            one is first[-1]
        ):
            raise InputError(
                f"{kinds[0][-1]} cannot be merged; build it from all vectors, or search the "
                "indexes as shards"
            )
        if (one.d, one.metric_type) != (two.d, two.metric_type):
            raise InputError(
                f"index {number} has dimension {two.d} and metric {two.metric_type}, index 0 "
                f"{one.d} and {one.metric_type}"
            )
        if isinstance(one, faiss.IndexIVF):
            maps = {layer.direct_map.type for layer in (one, two)}
            require(
                maps == {NO_MAP},
                "direct_map",
                maps,
                "must be NoMap: a merge moves vectors between lists",
                "call set_direct_map_type(faiss.DirectMap.NoMap) first",
            )
        for (name, mine), (_, theirs) in zip(_learnt(one), _learnt(two)):
            if not np.array_equal(mine, theirs):
                raise InputError(
                    f"index {number} has another {name} than index 0: its codes mean other "
                    "vectors; train once and give every index a copy of the trained one"
                )
        if isinstance(one, faiss.IndexRefine):
            beside = [[faiss.downcast_index(layer.refine_index)] for layer in (one, two)]
            _require_alike(beside[0], beside[1], number)


def _learnt(layer: Any) -> list[tuple[str, NDArray[Any]]]:
    """What training wrote into this layer."""
    found: list[tuple[str, NDArray[Any]]] = []
    if isinstance(layer, faiss.IndexPreTransform):
        chain: Any = layer.chain
        for number in range(chain.size()):
            step = faiss.downcast_VectorTransform(chain.at(number))
            if isinstance(step, faiss.LinearTransform):
                found.append(("rotation", faiss.vector_to_array(step.A)))
    if isinstance(layer, faiss.IndexIVF):
        found.append(("coarse quantizer", faiss.serialize_index(layer.quantizer)))
    if hasattr(layer, "pq"):
        found.append(("PQ codebook", faiss.vector_to_array(layer.pq.centroids)))
    if hasattr(layer, "sq"):
        found.append(("scalar range", faiss.vector_to_array(layer.sq.trained)))
    if hasattr(layer, "center"):
        found.append(("centre", faiss.vector_to_array(layer.center)))
    return found


def _append(into: list[Any], other: list[Any], by_position: bool) -> None:
    """Move the vectors of ``other`` behind those of ``into``, innermost layer first."""
    target, moved = into[-1], other[-1]
    if isinstance(target, faiss.IndexIVF):
        merge_lists(target, moved, target.ntotal if by_position else 0)
    else:
        target.merge_from(moved, 0)
    for outer, emptied in zip(into[-2::-1], other[-2::-1]):
        if isinstance(outer, faiss.IndexRefine):
            beside: Any = faiss.downcast_index(outer.refine_index)
            beside.merge_from(faiss.downcast_index(emptied.refine_index), 0)
        if isinstance(outer, faiss.IndexIDMap):
            ids = [faiss.vector_to_array(layer.id_map) for layer in (outer, emptied)]
            faiss.copy_array_to_vector(np.concatenate(ids), outer.id_map)
            emptied.id_map.clear()
            if isinstance(outer, faiss.IndexIDMap2):
                outer.construct_rev_map()
                emptied.construct_rev_map()
        outer.ntotal, emptied.ntotal = target.ntotal, 0
