"""An inverted file by hand: vectors in posting lists by nearest centroid, a search visits a few.

All lists lie in one array, one after the other, with the offset of each: the layout of a sparse
matrix in CSR form. The centroids come from any k-means: ``faiss.Kmeans``, or
``train_codebooks(vectors, 1, bits)[0]``, since a coarse quantizer is a product quantizer of one
segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_ids, check_vectors
from labs.lab2_vector_db.product_quantization import asymmetric_distances, encode, nearest


@dataclass(frozen=True)
class InvertedFile:
    """Posting lists. List c is positions ``offsets[c]`` to ``offsets[c + 1]`` of both arrays.

    Parameters
    ----------
    centroids : float32 array of shape [n_lists, d]
    offsets : int64 array of shape [n_lists + 1]
    ids : int64 array of shape [n]
        Sorted by list; within a list in the order they were added.
    stored : array of shape [n, ...]
        What is kept of each vector, in the same order: here the vector itself.
    metric
        Of the vectors and of the centroids alike.
    """

    centroids: NDArray[np.float32]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    stored: NDArray[Any]
    metric: Metric

    def scores(self, query: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """Scores of one query [d] against every vector of one list, in the list's order.

        Squared distances under ``"l2"``, inner products under ``"inner_product"``.
        """
        vectors = self.stored[self.offsets[number] : self.offsets[number + 1]]
        if self.metric == "inner_product":
            return vectors @ query
        return ((vectors - query) ** 2).sum(axis=1)


@dataclass(frozen=True)
class ResidualInvertedFile(InvertedFile):
    """Posting lists of product-quantized residuals ``x - centroid`` (IVFADC).

    ``stored`` holds codes, uint8 [n, m]. What is left after the centroid is taken away is
    smaller than the vector and much alike in all lists, so one set of codebooks codes it well.

    References
    ----------
    Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, 2011, section IV.
    """

    codebooks: NDArray[np.float32]

    def scores(self, query: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """Scores of one query [d] against every code of one list.

        ``||q - (c + r)||² = ||(q - c) - r||²``, so each visited list has tables of its own;
        ``<q, c + r> = <q, c> + <q, r>``, where the tables are the same for every list.
        """
        codes = self.stored[self.offsets[number] : self.offsets[number + 1]]
        centroid = self.centroids[number]
        if self.metric == "inner_product":
            products = asymmetric_distances(query[None], codes, self.codebooks, self.metric)[0]
            return products + query @ centroid
        residual = (query - centroid)[None]
        return asymmetric_distances(residual, codes, self.codebooks, self.metric)[0]


def assign(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], metric: Metric
) -> NDArray[np.int64]:
    """The list of each vector: of the centroid nearest to it, or with the largest inner product.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    centroids : float32 array of shape [n_lists, d]

    Returns
    -------
    int64 array of shape [n]
    """
    if metric == "l2":
        return nearest(vectors, centroids)[0]
    return (vectors @ centroids.T).argmax(axis=1)


def build(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    *,
    ids: NDArray[np.int64] | None = None,
    metric: Metric = "l2",
) -> InvertedFile:
    """Put every vector into the posting list of its centroid.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    centroids : float32 array of shape [n_lists, d]
        Trained beforehand; for ``inner_product`` on normalised vectors, or long centroids win.
    ids : int64 array of shape [n], optional
        None numbers the rows from 0.

    Raises
    ------
    InputError
        For shapes that do not fit, NaN, duplicate ids.
    """
    return InvertedFile(*_posting_lists(vectors, centroids, ids, metric))


def build_residual(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    codebooks: NDArray[np.float32],
    *,
    ids: NDArray[np.int64] | None = None,
    metric: Metric = "l2",
) -> ResidualInvertedFile:
    """As :func:`build`, with each vector's residual coded by ``codebooks`` [m, 2**bits, d/m].

    Train the codebooks on residuals, ``vectors - centroids[assign(vectors, centroids, metric)]``.
    """
    centroids, offsets, ids, stored, metric = _posting_lists(vectors, centroids, ids, metric)
    lists = np.repeat(np.arange(len(centroids)), np.diff(offsets))
    codes = encode(stored - centroids[lists], codebooks)
    return ResidualInvertedFile(centroids, offsets, ids, codes, metric, codebooks)


def _posting_lists(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    ids: NDArray[np.int64] | None,
    metric: Metric,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], Metric]:
    vectors = check_vectors(vectors)
    centroids = check_vectors(centroids, dimension=vectors.shape[1], name="centroids")
    require(metric in FAISS_METRICS, "metric", metric, f"must be one of {list(FAISS_METRICS)}")
    ids = np.arange(len(vectors)) if ids is None else check_ids(ids, len(vectors))
    lists = assign(vectors, centroids, metric)
    order = np.argsort(lists, kind="stable")
    sizes = np.bincount(lists, minlength=len(centroids))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return centroids, offsets, ids[order], vectors[order], metric


@exercise(
    "2.6",
    points=8,
    title="Search an inverted file",
    hint="Two searches, one after the other: over the centroids, then over the vectors of the "
    "lists found. What is best under the file's metric, the least or the largest? And what do "
    "you return when the lists hold fewer than k vectors?",
)
def search(
    lists: InvertedFile, queries: NDArray[np.float32], k: int, nprobe: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best vectors of each query among those in its ``nprobe`` best lists.

    For each query:

    1. Score it against ``lists.centroids`` under ``lists.metric`` and choose the ``nprobe``
       best: least squared distance under ``"l2"``, largest inner product under
       ``"inner_product"``.
    2. ``lists.scores(query, c)`` scores every vector of list c, whose ids are
       ``lists.ids[lists.offsets[c]:lists.offsets[c + 1]]``. A list may be empty.
    3. Keep the k best over all these lists, best first.

    Where the lists hold fewer than k vectors the row is filled up: id -1, and the score that no
    vector can have, +inf under l2 and -inf under inner_product.

    Parameters
    ----------
    lists
        From ``build`` or ``build_residual``.
    queries : float32 array of shape [q, d]
    k
        At least 1.
    nprobe
        From 1 to n_lists; at n_lists an exact file gives the exact answer.

    Returns
    -------
    scores : float32 array of shape [q, k]
    ids : int64 array of shape [q, k]
        With vectors 0, 1, 10 of ids 5, 6, 7, centroids 0 and 10, l2, query 3, k = 3 and
        nprobe = 1: scores ``[[4, 9, inf]]`` and ids ``[[6, 5, -1]]``.

    Raises
    ------
    InputError
        For what ``check_search`` refuses.

    References
    ----------
    Jégou, Douze, Schmid 2011, section IV-B. Sivic, Zisserman: Video Google, 2003.
    """
    queries = check_search(lists, queries, k, nprobe)
    sign = 1 if lists.metric == "l2" else -1
    scores = np.full((len(queries), k), sign * np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        if lists.metric == "l2":
            distances = ((lists.centroids - query) ** 2).sum(axis=1)
        else:
            distances = -(lists.centroids @ query)
        visited = np.argsort(distances, kind="stable")[:nprobe]
        found = np.concatenate([lists.scores(query, number) for number in visited])
        bounds = [slice(lists.offsets[number], lists.offsets[number + 1]) for number in visited]
        names = np.concatenate([lists.ids[bound] for bound in bounds])
        best = np.argsort(sign * found, kind="stable")[:k]
        scores[row, : len(best)] = found[best]
        ids[row, : len(best)] = names[best]
    return scores, ids


def check_search(
    lists: InvertedFile, queries: NDArray[np.float32], k: int, nprobe: int
) -> NDArray[np.float32]:
    """The queries as contiguous float32, or what is wrong with the request.

    Raises
    ------
    InputError
        For queries of another dimension, NaN, k < 1, nprobe outside 1..n_lists.
    """
    n_lists, dimension = lists.centroids.shape
    require(k >= 1, "k", k, "must be >= 1")
    require(1 <= nprobe <= n_lists, "nprobe", nprobe, f"must be from 1 to {n_lists}, the lists")
    return check_vectors(queries, dimension=dimension, name="queries")


def imbalance(lists: InvertedFile) -> float:
    """How much longer than with equal lists a search takes: ``n_lists * sum(size²) / n²``, >= 1.

    A query falls into a list about as often as vectors do, and then pays for its length.
    """
    sizes = np.diff(lists.offsets).astype(np.float64)
    return float(len(sizes) * (sizes**2).sum() / sizes.sum() ** 2)


def to_faiss(lists: InvertedFile) -> faiss.IndexIVFFlat:
    """faiss's inverted file of the same vectors, ids and centroids, to compare with."""
    metric = FAISS_METRICS[lists.metric]
    n_lists, dimension = lists.centroids.shape
    coarse = faiss.IndexFlat(dimension, metric)
    coarse.add(lists.centroids)
    index = faiss.IndexIVFFlat(coarse, dimension, n_lists, metric)
    index.is_trained = True
    index.add_with_ids(lists.stored, lists.ids)
    return index


@dataclass(frozen=True)
class ProbeScore:
    """What visiting ``nprobe`` lists costs and finds.

    ``scanned`` is the mean share of the vectors that were scored, ``same_as_faiss`` the share of
    ids equal to those of ``IndexIVFFlat`` with the same centroids.
    """

    nprobe: int
    recall_at_10: float
    scanned: float
    same_as_faiss: float


def sweep(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    n_lists: int = 64,
    nprobes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    metric: Metric = "l2",
    seed: int = 0,
) -> list[ProbeScore]:
    """Recall@10 and work at each nprobe, beside faiss with the same centroids.

    The vectors [n, d] are trained on and searched; the queries [q, d] are none of them.
    """
    vectors = check_vectors(vectors)
    kmeans: Any = faiss.Kmeans(vectors.shape[1], n_lists, seed=seed, min_points_per_centroid=1)
    kmeans.train(vectors)
    lists = build(vectors, kmeans.centroids, metric=metric)
    theirs = to_faiss(lists)
    _, true_ids = exact_search(vectors, queries, 10, metric)
    sizes = np.diff(lists.offsets)
    _, order = exact_search(lists.centroids, queries, n_lists, metric)
    scores = []
    for nprobe in nprobes:
        _, found = search(lists, queries, 10, nprobe)
        theirs.nprobe = nprobe
        _, expected = theirs.search(queries, 10)
        scores.append(
            ProbeScore(
                nprobe,
                float(recall_at_k(found, true_ids).mean()),
                float(sizes[order[:, :nprobe]].sum(axis=1).mean() / len(vectors)),
                float((found == expected).mean()),
            )
        )
    return scores
