"""Measure a search: exact neighbours, recall against them, and latency one query at a time.

What answers is an :data:`Answer`, any callable: an index, a collection, another library, a client
of a service. So all of them are measured by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from common.latency import LatencySummary, no_garbage_collection
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_vectors
from labs.lab2_vector_db.search import search

Answer = Callable[[NDArray[np.float32]], Any]
"""Answers queries [b, d]; where recall is measured it returns ids [b, k], -1 for none."""


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


def recall_with_ties(
    found_ids: NDArray[np.int64],
    found_scores: NDArray[np.float64],
    true_scores: NDArray[np.float64],
    metric: Metric,
    *,
    tolerance: float = 1e-6,
) -> NDArray[np.float64]:
    """Recall by distance: any vector as near as the k-th true neighbour is a neighbour.

    ``recall = min(k, |{x found: d(q, x) <= (1 + tolerance) d_k(q)}|) / k``. Where several vectors
    are equally far (duplicates, short codes, integers), the exact search names k of them and
    :func:`recall_at_k` counts the others as misses, though nobody could tell them apart.

    Parameters
    ----------
    found_ids : int64 array of shape [q, r]
        -1 where the search ran out; an id found twice counts once.
    found_scores : float64 array of shape [q, r]
        **True** scores of those ids (:func:`labs.lab2_vector_db.ground_truth.exact_scores`), not
        what the index says: a code's own distance is off, and would grade itself.
    true_scores : float64 array of shape [q, k]
        Of the exact neighbours, best first.
    metric
        ``"inner_product"`` (larger is nearer) or ``"l2"``.
    tolerance
        Relative to the k-th true score.

    Returns
    -------
    float64 array of shape [q]

    Raises
    ------
    InputError
        For shapes that do not fit or a true score that is not finite.

    References
    ----------
    Aumüller, Bernhardsson, Faithfull: ANN-Benchmarks, 2020 (distance-based recall).
    """
    require(
        found_ids.shape == found_scores.shape,
        "found_scores.shape",
        found_scores.shape,
        f"must be that of found_ids {found_ids.shape}",
    )
    require(
        true_scores.ndim == 2 and len(true_scores) == len(found_ids),
        "true_scores.shape",
        true_scores.shape,
        f"must be [{len(found_ids)}, k]",
    )
    require(bool(np.isfinite(true_scores).all()), "true_scores", "NaN or inf", "must be finite")
    kth = true_scores[:, -1:]
    slack = tolerance * np.abs(kth)
    near = found_scores <= kth + slack if metric == "l2" else found_scores >= kth - slack
    order = np.argsort(found_ids, axis=1, kind="stable")
    ids = np.take_along_axis(found_ids, order, axis=1)
    first = np.ones(ids.shape, dtype=bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    hits = (np.take_along_axis(near, order, axis=1) & first & (ids >= 0)).sum(axis=1)
    k = true_scores.shape[1]
    recall: NDArray[np.float64] = np.minimum(hits, k) / k
    return recall


def searcher(
    index: faiss.Index,
    k: int,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
    ef_search: int | None = None,
) -> Answer:
    """An index with its search parameters as a function from queries [b, d] to ids [b, k]."""
    given = {"nprobe": nprobe, "k_factor": k_factor, "ef_search": ef_search}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def answer(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        return search(index, queries, k, **settings)[1]

    return answer


def answer_serially(
    answer: Answer, queries: NDArray[np.float32], *, warmup: int = 20
) -> tuple[list[Any], NDArray[np.float64]]:
    """Ask each query alone on one thread; what came back, and how long each took.

    Parameters
    ----------
    answer
        Called with arrays of shape [1, d].
    queries : float32 array of shape [q, d]
    warmup
        Queries answered before the clock starts.

    Returns
    -------
    (answers, seconds)
        A list of q, and float64 [q].
    """
    queries = check_vectors(queries, name="queries")
    answers, seconds = [], np.empty(len(queries))
    with one_thread(), no_garbage_collection(collect=True):
        for row in range(min(warmup, len(queries))):
            answer(queries[row : row + 1])
        for row in range(len(queries)):
            start = time.perf_counter()
            answers.append(answer(queries[row : row + 1]))
            seconds[row] = time.perf_counter() - start
    return answers, seconds


def measure_latency(
    searched: faiss.Index | Answer,
    queries: NDArray[np.float32],
    k: int = 10,
    *,
    nprobe: int | None = None,
    k_factor: float | None = None,
    ef_search: int | None = None,
    warmup: int = 20,
) -> LatencySummary:
    """Time each query alone, on one thread: the serial view, without batching and queues.

    Parameters
    ----------
    searched
        A trained, filled index, or any :data:`Answer`.
    queries : float32 array of shape [q, d]
        Each is searched once, in order.
    k, nprobe, k_factor, ef_search
        Of an index: as for :func:`labs.lab2_vector_db.search.search`, whose checks are part of
        the time. An answer has its own.
    warmup
        Searches before the clock starts.

    Returns
    -------
    LatencySummary
        Over q latencies.

    Raises
    ------
    InputError
        For queries that do not fit, or a search parameter given with an answer.
    """
    if isinstance(searched, faiss.Index):
        queries = check_vectors(queries, dimension=searched.d, name="queries")
        searched = searcher(searched, k, nprobe=nprobe, k_factor=k_factor, ef_search=ef_search)
    else:
        settings = {"nprobe": nprobe, "k_factor": k_factor, "ef_search": ef_search}
        for name, value in settings.items():
            require(value is None, name, value, "must be None", "set it where the answer is made")
    _, seconds = answer_serially(searched, queries, warmup=warmup)
    return LatencySummary.of(seconds, how="serial, one query at a time, one thread")


def bytes_per_vector(index: faiss.Index) -> float:
    """Measured size of the index in bytes for each stored vector, as it is written to disk."""
    require(index.ntotal >= 1, "index.ntotal", index.ntotal, "must be >= 1", "add vectors first")
    size = 0

    def count(written: bytes) -> None:
        nonlocal size
        size += len(written)

    # Counted and thrown away: serialize_index would hold a second index in memory.
    writer = faiss.PyCallbackIOWriter(count, 1 << 20)  # type: ignore[attr-defined]
    faiss.write_index(index, writer)
    del writer
    return size / index.ntotal


@contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread inside the block, for calls of this thread.

    The setting is OpenMP's and belongs to the thread that makes it: a new thread starts with all
    cores again.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
