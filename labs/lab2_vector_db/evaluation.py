"""Measure a search: exact neighbours, recall against them, and latency one query at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from common.latency import LatencySummary
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_vectors
from labs.lab2_vector_db.search import search


def exact_search(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    metric: Metric = "inner_product",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k true neighbours of each query, by comparing it with every vector, in blocks.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    queries : float32 array of shape [q, d]
    k
        From 1 to n.
    metric
        ``"inner_product"`` or ``"l2"`` (squared distances).

    Returns
    -------
    scores : float32 array of shape [q, k]
        Best first.
    ids : int64 array of shape [q, k]
        Row numbers into ``vectors``.

    Raises
    ------
    InputError
        For shapes that do not fit, NaN, or k outside 1..n.
    """
    vectors = check_vectors(vectors)
    queries = check_vectors(queries, dimension=vectors.shape[1], name="queries")
    require(1 <= k <= len(vectors), "k", k, f"must be from 1 to {len(vectors)}, the vectors given")
    scores, ids = faiss.knn(queries, vectors, k, metric=FAISS_METRICS[metric])
    return scores, ids


@exercise(
    "2.1",
    points=3,
    title="Recall at k",
    hint="For each true id ask whether it is anywhere in the same query's row of found ids. "
    "faiss fills what it could not find with -1.",
)
def recall_at_k(found_ids: NDArray[np.int64], true_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each query's true neighbours that were found.

    ``recall = |found ∩ true| / |true|``, a query at a time. The order inside a row does not
    matter, an id found twice counts once, and -1 ("nothing here") is no id on either side.

    Parameters
    ----------
    found_ids : int64 array of shape [q, r]
        What the search returned, -1 where it ran out.
    true_ids : int64 array of shape [q, k]
        The exact neighbours, unique within a row; -1 where there are fewer than k.

    Returns
    -------
    float64 array of shape [q]

    Raises
    ------
    InputError
        For shapes that do not fit, or a query without any true id.
    """
    check_id_rows(found_ids, true_ids)
    real = true_ids >= 0
    found = (true_ids[:, :, None] == found_ids[:, None, :]).any(axis=2)
    recall: NDArray[np.float64] = (found & real).sum(axis=1) / real.sum(axis=1)
    return recall


def check_id_rows(found_ids: NDArray[np.int64], true_ids: NDArray[np.int64]) -> None:
    """Refuse id arrays that do not belong together.

    Raises
    ------
    InputError
        For arrays that are not [q, r] and [q, k], or a query without any true id.
    """
    require(found_ids.ndim == 2, "found_ids.shape", found_ids.shape, "must be [q, r]")
    require(true_ids.ndim == 2, "true_ids.shape", true_ids.shape, "must be [q, k]")
    require(
        len(found_ids) == len(true_ids),
        "found_ids.shape",
        found_ids.shape,
        f"must have as many rows as true_ids {true_ids.shape}",
    )
    empty = np.flatnonzero((true_ids < 0).all(axis=1))
    require(
        empty.size == 0, "true_ids", f"row {empty[:1]}", "must hold an id >= 0", "drop the query"
    )


def measure_latency(
    index: faiss.Index,
    queries: NDArray[np.float32],
    k: int = 10,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
    warmup: int = 20,
) -> LatencySummary:
    """Time each query alone, on one thread: the serial view, without batching and queues.

    Parameters
    ----------
    index
        A trained, filled index.
    queries : float32 array of shape [q, d]
        Each is searched once, in order.
    k, nprobe, k_factor
        As for :func:`labs.lab2_vector_db.search.search`, whose checks are part of the time.
    warmup
        Searches before the clock starts.

    Returns
    -------
    LatencySummary
        Over q latencies.
    """
    queries = check_vectors(queries, dimension=index.d, name="queries")
    seconds = np.empty(len(queries))
    with one_thread():
        for row in range(min(warmup, len(queries))):
            search(index, queries[row : row + 1], k, nprobe=nprobe, k_factor=k_factor)
        for row in range(len(queries)):
            start = time.perf_counter()
            search(index, queries[row : row + 1], k, nprobe=nprobe, k_factor=k_factor)
            seconds[row] = time.perf_counter() - start
    return LatencySummary.of(seconds, how="serial, one query at a time, one thread")


def bytes_per_vector(index: faiss.Index) -> float:
    """Measured size of the index in bytes for each stored vector, as it is written to disk."""
    return float(faiss.serialize_index(index).nbytes / index.ntotal)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread inside the block."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
