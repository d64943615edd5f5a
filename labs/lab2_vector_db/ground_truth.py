"""The exact neighbours of queries among more vectors than fit in memory, block by block.

Recall is measured against this, so it must not share the approximations of what is measured. Each
block of rows is searched by faiss in float32 for a few more candidates than asked; candidates are
scored again in float64, and a bound on float32's rounding error says whether a row outside them
could belong in. Where it could (ties, near duplicates), the whole block is looked at. So the answer
depends on the inputs alone: not on block size, threads, or the way faiss computes distances.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_vectors

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Rows = NDArray[np.float32]

SPARE = 16  # candidates beyond k that a block gives in float32
UNIT_ROUNDOFF = 2.0**-24  # of float32
TILE = 2_000_000  # values in the largest temporary array
SAMPLED_SLICES, SLICE_ROWS = 16, 256
SCHEMA = b"exact neighbours, version 1"


class Source(Protocol):
    """Rows on demand: a numpy array, a memmap, or a generator of rows with ``[n, d]`` ``shape``.

    A source that is slow to read or hides what it is made of says so in ``fingerprint``, a string
    attribute that changes when any row does.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class Neighbours(NamedTuple):
    """``scores`` float64 [q, k], best first, and ``ids`` int64 [q, k]; equal scores by lower id."""

    scores: Floats
    ids: Ids


def exact_neighbours(
    source: Source,
    queries: Rows,
    k: int,
    metric: Metric = "inner_product",
    *,
    folder: str | os.PathLike[str] | None = None,
    block_rows: int = 131_072,
    progress: Callable[[int], object] | None = None,
) -> Neighbours:
    """The k true neighbours of each query, exact to float64; resumable where a folder is given.

    Memory is one block and the k best so far: ``4 d block_rows + 16 q k`` bytes and a few tens of
    MB. Reading dominates for few queries, arithmetic (``2 n q d`` operations) for many.

    Parameters
    ----------
    source : rows of shape [n, d]
        ``source[a:b]`` is read once for every block, in order.
    queries : float32 array of shape [q, d]
    k
        From 1 to n.
    metric
        ``"inner_product"`` (largest first) or ``"l2"`` (squared distances, smallest first).
    folder
        Where the state is kept, in a file named by the fingerprint of the inputs, replaced
        atomically after each block. A killed run goes on at the first missing block, with any
        ``block_rows``; a finished one is read back. **Files of other inputs are ignored** and
        left alone, so that a folder serves many truths.
    block_rows
        Rows in memory at a time.
    progress
        Called with the number of rows done, such as ``common.progress.Progress.update``.

    Returns
    -------
    Neighbours
        ``(scores, ids)``; ids are row numbers of the source.

    Raises
    ------
    InputError
        For shapes that do not fit, k outside 1..n, or a row with a NaN or an infinity.
    RunError
        When the state of these very inputs is damaged.

    Notes
    -----
    The fingerprint covers k, the metric, every query, and of the source its shape and its
    ``fingerprint`` attribute or, without one, 16 runs of 256 rows spread over it: a change between
    them goes unnoticed.

    Squared distances by matrix multiplication, ``|q|^2 + |x|^2 - 2 q.x``, lose the digits in which
    near neighbours differ. faiss computes them so from ``distance_compute_blas_threshold`` queries
    on (20 for long, 128,000 in some builds of 1.15.1).

    Examples
    --------
    >>> exact_neighbours(np.eye(3, dtype="f4"), np.array([[0.0, 2.0, 1.0]], "f4"), 2).ids
    array([[1, 2]])
    """
    require(len(source.shape) == 2, "source.shape", source.shape, "must be [n, d]")
    n, dimension = source.shape
    queries = check_vectors(queries, dimension=dimension, name="queries")
    require(1 <= k <= n, "k", k, f"must be from 1 to {n}, the rows of the source")
    require(block_rows >= 1, "block_rows", block_rows, "must be >= 1", "try 131072")
    require(metric in FAISS_METRICS, "metric", metric, f"must be one of {list(FAISS_METRICS)}")
    path = None
    # Costs: smaller is better for both metrics (the inner product is negated).
    done, costs, ids = 0, np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"exact-{fingerprint(source, queries, k, metric)[:24]}.npz"
        if path.is_file():
            done, costs, ids = _load(path, n, len(queries), k)
    while done < n:
        stop = min(done + block_rows, n)
        block = _read(source, done, stop, dimension)
        block_costs, block_ids = _best_of_block(block, queries, k, metric, costs)
        costs, ids = _merge(costs, ids, block_costs, block_ids + done, k)
        done = stop
        if path is not None:
            _save(path, done, costs, ids)
        if progress is not None:
            progress(done)
    return Neighbours(-costs if metric == "inner_product" else costs, ids)


def exact_scores(source: Source, queries: Rows, ids: Ids, metric: Metric) -> Floats:
    """The true score in float64 of each (query, id), whatever an index said it was.

    Parameters
    ----------
    source : rows of shape [n, d]
        An array or a memmap; rows are picked one at a time.
    queries : float32 array of shape [q, d]
    ids : int64 array of shape [q, r]
        Row numbers of the source; -1 for none.
    metric
        As for :func:`exact_neighbours`.

    Returns
    -------
    float64 array of shape [q, r]
        NaN where the id is -1.
    """
    queries = check_vectors(queries, dimension=source.shape[1], name="queries")
    require(
        ids.shape[:1] == queries.shape[:1], "ids.shape", ids.shape, f"must be [{len(queries)}, r]"
    )
    require(
        bool((ids < source.shape[0]).all()),
        "ids",
        int(ids.max(initial=-1)),
        f"must be < {source.shape[0]}",
    )
    scores = np.full(ids.shape, np.nan)
    real = ids >= 0
    unique, place = np.unique(ids[real], return_inverse=True)
    if isinstance(source, np.ndarray):
        rows = np.asarray(source[unique], dtype=np.float32)
    else:
        rows = np.concatenate(
            [np.empty((0, source.shape[1])), *(source[i : i + 1] for i in unique)]
        )
    which = np.nonzero(real)[0]
    step = max(1, TILE // source.shape[1])
    parts = [
        _cost(rows[place[at : at + step]], queries[which[at : at + step]], metric)
        for at in range(0, len(which), step)
    ]
    costs = np.concatenate([np.empty(0), *parts])
    scores[real] = -costs if metric == "inner_product" else costs
    return scores


def fingerprint(source: Source, queries: Rows, k: int, metric: Metric) -> str:
    """What the answer depends on, as 64 hexadecimal digits (see the notes there)."""
    digest = hashlib.sha256(SCHEMA)
    digest.update(f"{tuple(source.shape)} {queries.shape} {k} {metric}".encode())
    digest.update(np.ascontiguousarray(queries, dtype=np.float32).tobytes())
    told = getattr(source, "fingerprint", None)
    if told is not None:
        digest.update(str(told).encode())
        return digest.hexdigest()
    starts = np.linspace(0, max(source.shape[0] - SLICE_ROWS, 0), SAMPLED_SLICES).astype(int)
    for start in np.unique(starts):
        stop = min(int(start) + SLICE_ROWS, source.shape[0])
        digest.update(_read(source, int(start), stop, source.shape[1]).tobytes())
    return digest.hexdigest()


def _read(source: Source, start: int, stop: int, dimension: int) -> Rows:
    block = np.ascontiguousarray(source[start:stop], dtype=np.float32)
    expected = (stop - start, dimension)
    require(
        block.shape == expected, f"source[{start}:{stop}].shape", block.shape, f"must be {expected}"
    )
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        raise InputError(f"source row {start + bad[0]} holds a NaN or an infinity; remove it")
    return block


def _cost(rows: Rows, queries: Rows, metric: Metric) -> Floats:
    """Cost in float64 of pairs of rows [..., d]; the same pair gives the same bits everywhere."""
    # A sum over the last axis is taken row by row, so it does not depend on the other rows.
    left, right = rows.astype(np.float64), queries.astype(np.float64)
    cost: Floats
    cost = (
        -(left * right).sum(axis=-1)
        if metric == "inner_product"
        else ((left - right) ** 2).sum(axis=-1)
    )
    return cost


def _best_of_block(
    block: Rows, queries: Rows, k: int, metric: Metric, so_far: Floats
) -> tuple[Floats, Ids]:
    """The at most k best rows of a block for each query; ids count from the block's start."""
    wanted = min(k + SPARE, len(block))
    scores, ids = faiss.knn(queries, block, wanted, metric=FAISS_METRICS[metric])
    costs = np.empty((len(queries), wanted))
    step = max(1, TILE // (wanted * block.shape[1]))
    for at in range(0, len(queries), step):
        part = slice(at, at + step)
        costs[part] = _cost(block[ids[part]], queries[part, None], metric)
    best_costs, best_ids = _merge(costs[:, :0], ids[:, :0], costs, ids, k)
    if wanted == len(block):
        return best_costs, best_ids
    # A row must beat the k-th of this block, and the k-th of all blocks before.
    limit = best_costs[:, -1]
    if so_far.shape[1] == k:
        limit = np.minimum(limit, so_far[:, -1])
    error = _rounding(queries, block, limit, metric)
    worst = scores[:, -1].astype(np.float64) * (-1 if metric == "inner_product" else 1)
    for row in np.flatnonzero(worst - error <= limit):
        near = np.flatnonzero(_cost32(block, queries[row], metric) <= limit[row] + error[row])
        near = np.union1d(near, ids[row])[None]
        cost = _cost(block[near], queries[row], metric)
        best_costs[row], best_ids[row] = _merge(cost[:, :0], near[:, :0], cost, near, k)
    return best_costs, best_ids


def _cost32(block: Rows, query: Rows, metric: Metric) -> Rows:
    cost: Rows
    if metric == "inner_product":
        cost = -(block @ query)
    else:
        difference = block - query
        cost = np.einsum("nd,nd->n", difference, difference)
    return cost


def _rounding(queries: Rows, block: Rows, limit: Floats, metric: Metric) -> Floats:
    """How far a float32 cost up to ``limit`` can be from the true one, for each query.

    A sum of d float32 products is off by at most ``d u |q| |x|`` (Higham 2002, equation 3.5), and
    ``|q|^2 + |x|^2 - 2 q.x`` by ``d u (|q| + |x|)^2``, where a row as near as the limit has
    ``|x| <= |q| + sqrt(limit)``.
    """
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    unit = (queries.shape[1] + 8) * UNIT_ROUNDOFF
    if metric == "inner_product":
        longest = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64).max())
        return np.asarray(unit * lengths * longest)
    return np.asarray(unit * (2 * lengths + np.sqrt(limit)) ** 2)


def _merge(
    left_costs: Floats, left_ids: Ids, right_costs: Floats, right_ids: Ids, k: int
) -> tuple[Floats, Ids]:
    """The at most k best of two sides [q, a] and [q, b], by cost and then by id."""
    costs = np.concatenate([left_costs, right_costs], axis=1)
    ids = np.concatenate([left_ids, right_ids], axis=1)
    order = np.lexsort((ids, costs), axis=-1)[:, :k]
    return np.take_along_axis(costs, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _save(path: Path, done: int, costs: Floats, ids: Ids) -> None:
    stream = io.BytesIO()
    np.savez(stream, done=np.int64(done), costs=costs, ids=ids)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(stream.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error}); free some space there or give another folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(path: Path, n: int, n_queries: int, k: int) -> tuple[int, Floats, Ids]:
    try:
        with np.load(path, allow_pickle=False) as state:
            done, costs, ids = int(state["done"]), state["costs"], state["ids"]
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run again") from error
    shape = (n_queries, min(k, done))
    if not 0 < done <= n or costs.shape != shape or ids.shape != shape:
        raise RunError(f"{path} holds {done} rows done of {n}, {costs.shape}; delete it, run again")
    return done, costs, ids
