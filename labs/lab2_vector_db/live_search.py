"""Search over the parts of a collection, in which rows have been deleted and replaced.

A collection is a few parts: the rows in memory and the segments on disk. A write never changes a
segment: it puts the new version of a row into memory and a tombstone on the old one. So a search
asks every part, and what comes back has to be merged into one answer about what is alive now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from common.exercises import exercise
from labs.lab2_vector_db.tombstones import Bitmap, count, rows_of

Scores = NDArray[np.float32]
Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]

SELECTOR_SHARE = 0.2  # of rows allowed, from which skipping costs less than gathering
BLOCK_ROWS = 65_536  # gathered at once


class Part(Protocol):
    """One part of a collection, as one search sees it: a filter, if any, is in ``alive``."""

    @property
    def ids(self) -> Ids:
        """The id of each row, int64 [n]."""

    @property
    def n_alive(self) -> int:
        """How many of the n rows are alive."""

    def nearest(self, queries: Vectors, k: int) -> tuple[Scores, Ids]:
        """By the index: scores and *rows* [q, k], best first; -1 where it ran out of rows.

        May return rows that are not alive.
        """

    def alive(self, rows: Ids) -> NDArray[np.bool_]:
        """Whether each row of an array of any shape is alive; False for -1."""

    def exact(self, queries: Vectors, k: int) -> tuple[Scores, Ids]:
        """As ``nearest``, by comparing with every alive row and no other: complete, and slow."""


@exercise(
    "2.8",
    points=10,
    title="Tombstone-aware search",
    hint="First one part: drop what is not alive, count what is left, and ask `exact` again for "
    "the queries that are short of what the part could give. Then merge: what happens to "
    "`ids[rows]` where rows is -1? Which of two versions may stay, the nearer or the newer?",
)
def search_alive(
    parts: Sequence[Part], queries: Vectors, k: int, *, larger_is_better: bool
) -> tuple[Scores, Ids]:
    """The k nearest rows alive in any part.

    1. Each part answers with its ``nearest`` rows. Those that are not ``alive`` are dropped
       (``alive`` was set by deletes, by newer versions and by the filter).
    2. A query for which a part has then fewer than ``min(k, part.n_alive)`` rows is asked again
       with ``exact``: an index that ran out, or whose best rows were all dead, must not hide
       living ones. Only those queries: exact is slow.
    3. The candidates of all parts are merged, best first. Should an id come from two parts, the
       row of the newer part is its only version, whether or not its score is better.

    Parameters
    ----------
    parts
        Newest first. May be empty, and parts may have no row alive.
    queries : float32 array of shape [q, d]
    k
        Neighbours a query, at least 1. May exceed what the parts hold.
    larger_is_better
        True for inner products, False for squared distances.

    Returns
    -------
    scores : float32 array of shape [q, k]
        Best first; NaN where there is no further row.
    ids : int64 array of shape [q, k]
        Ids (not rows), each at most once in a row; -1 where there is no further row.

    Examples
    --------
    Part A (newest) holds id 7 at distance 9; part B holds ids 7 (distance 1, tombstone), 8
    (distance 2, deleted) and 9 (distance 4). With k = 3: scores [[4, 9, nan]], ids [[9, 7, -1]].

    References
    ----------
    O'Neil et al.: The Log-Structured Merge-Tree, Acta Informatica 1996, section 2 (newest first).
    """
    found = [_from_part(part, queries, k) for part in parts if part.n_alive]
    # Newest first, so of two rows with one id the one further left is newer.
    scores = np.concatenate([each for each, _ in found] or [_nothing(queries, np.float32)], axis=1)
    ids = np.concatenate([each for _, each in found] or [_nothing(queries, np.int64)], axis=1)
    if len(found) > 1:
        ids[_repeated(ids)] = -1
    worst = np.float32(-np.inf if larger_is_better else np.inf)
    scores = np.where(ids >= 0, scores, worst)
    order = np.argsort(-scores if larger_is_better else scores, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return filled(np.where(ids >= 0, scores, np.float32(np.nan)), ids, k)


def filled(scores: Scores, ids: Ids, k: int) -> tuple[Scores, Ids]:
    """The same with k columns: NaN and -1 behind what is there."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    if missing[1][1] <= 0:
        return scores, ids
    return (
        np.pad(scores, missing, constant_values=np.nan),
        np.pad(ids, missing, constant_values=-1),
    )


def _nothing(queries: Vectors, dtype: type[np.generic]) -> NDArray[Any]:
    return np.empty((len(queries), 0), dtype)


def _from_part(part: Part, queries: Vectors, k: int) -> tuple[Scores, Ids]:
    """Scores and ids [q, k] of the rows alive in one part; id -1 where there is none."""
    scores, rows = part.nearest(queries, k)
    living = part.alive(rows)
    short = np.flatnonzero(living.sum(axis=1) < min(k, part.n_alive))
    if short.size:
        scores, rows = scores.copy(), rows.copy()
        scores[short], rows[short] = part.exact(queries[short], k)
        living[short] = rows[short] >= 0
    return scores, np.where(living, part.ids[rows], -1)


def _repeated(ids: Ids) -> NDArray[np.bool_]:
    """Where an id was there before, further left in the same row. Shape [q, m]."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    again = np.zeros(ids.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    result = np.zeros(ids.shape, bool)
    np.put_along_axis(result, order, again, 1)
    return result


def scan(
    queries: Vectors,
    vectors: Vectors,
    k: int,
    *,
    larger_is_better: bool,
    allowed: Bitmap | None = None,
) -> tuple[Scores, Ids]:
    """The k nearest of the allowed rows, compared one by one.

    Parameters
    ----------
    queries : float32 array of shape [q, d]
    vectors : float32 array of shape [n, d]
        May be memory-mapped.
    allowed
        Bitmap of the rows; None: all of them.

    Returns
    -------
    scores : float32 array of shape [q, k]
    rows : int64 array of shape [q, k]
        -1 where fewer than k rows are allowed.
    """
    n_rows = len(vectors)
    n_allowed = n_rows if allowed is None else count(allowed)
    if n_allowed == n_rows:
        return _knn(queries, vectors, k, larger_is_better)
    # Gathering copies the allowed rows and compares them by matrix product; a selector skips over
    # the others, without a product: for few queries and many rows.
    if len(queries) < 16 and n_allowed > SELECTOR_SHARE * n_rows:
        return _knn(queries, vectors, k, larger_is_better, faiss.IDSelectorBitmap(allowed))  # type: ignore[call-arg, arg-type]
    rows = rows_of(allowed, n_rows)  # type: ignore[arg-type]
    best_scores = np.empty((len(queries), 0), np.float32)
    best_rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        scores, positions = _knn(queries, vectors[block], min(k, len(block)), larger_is_better)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, block[positions]], axis=1)
        if best_scores.shape[1] > k:
            order = np.argsort(-best_scores if larger_is_better else best_scores, axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, order, 1)
            best_rows = np.take_along_axis(best_rows, order, 1)
    return filled(best_scores, best_rows, k)


def _knn(
    queries: Vectors, vectors: Vectors, k: int, larger_is_better: bool, selector: Any = None
) -> tuple[Scores, Ids]:
    """faiss.knn, with a selector, which the Python function does not pass on."""
    (n_queries, dimension), n_rows = queries.shape, len(vectors)
    within = min(k, n_rows)
    scores = np.empty((n_queries, within), np.float32)
    rows = np.empty((n_queries, within), np.int64)
    compare: Any = faiss.knn_inner_product if larger_is_better else faiss.knn_L2sqr
    pointers = [faiss.swig_ptr(array) for array in (queries, vectors)]
    outputs = [faiss.swig_ptr(array) for array in (scores, rows)]
    sizes = (dimension, n_queries, n_rows, within)
    extra = () if selector is None else ((selector,) if larger_is_better else (None, selector))
    compare(*pointers, *sizes, *outputs, *extra)
    return filled(scores, rows, k)
