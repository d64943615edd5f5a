"""Product quantization by hand: codebooks by k-means, codes of a few bytes, distances from tables.

Codebooks are one array of shape [segments, 2**bits, d / segments], codes one of shape
[n, segments] with one number a segment; both are laid out as faiss lays them out, so that either
side's codebooks work in the other. A codebook of one segment is plain k-means: the centroids of
an inverted file.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import Metric, check_vectors

BLOCK = 2**20  # floats of a temporary array: 4 MiB, about a core's cache


@exercise(
    "2.4",
    points=10,
    title="Train the codebooks of a product quantizer",
    hint="Each segment is a k-means of its own on its own columns. np.bincount with `weights` adds "
    "up a column by centroid without a loop over vectors. Look at the counts before you divide.",
)
def train_codebooks(
    vectors: NDArray[np.float32],
    segments: int,
    bits: int = 8,
    *,
    iterations: int = 25,
    seed: int = 0,
    initial: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Codebooks by Lloyd's k-means, one for each segment.

    Segment j of a vector is columns ``j * d/m`` to ``(j + 1) * d/m``; ``split`` cuts the vectors
    into [m, n, d/m]. For each segment, with K = 2**bits centroids:

    1. Start from ``initial[j]``, or else from K different rows drawn at random with ``seed``
       (data comes sorted: the first rows are one corner of the space).
    2. ``iterations`` times: give each point to its ``nearest`` centroid, then move each centroid
       to the mean of its points, ``c_i = sum(x in cell i) / |cell i|``.
    3. A centroid without points would stay unused, a code that is never written. In the same
       iteration move it to the point whose squared distance to its own centroid is largest; a
       second one to the point with the next largest, and so on. So the worst cells are split.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        n must be at least 2**bits; faiss asks for 39 * 2**bits.
    segments
        m, which must divide d.
    bits
        Of one segment's code, 1 to 8.
    iterations
        Rounds of assignment and update; 0 returns the start.
    seed
        Of the rows drawn; the same seed gives the same codebooks.
    initial : float32 array of shape [m, 2**bits, d/m], optional
        Where to start. It is not changed.

    Returns
    -------
    float32 array of shape [m, 2**bits, d/m]
        ``train_codebooks(x, 8, 4)`` for x of shape [n, 96] has shape (8, 16, 12).

    Raises
    ------
    InputError
        For what ``check_training`` refuses.

    References
    ----------
    Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, 2011, section II and
    equations 3 and 4 (Lloyd's two conditions). Lloyd: Least squares quantization in PCM, 1982.
    """
    vectors = check_training(vectors, segments, bits)
    k = 2**bits
    pieces = split(vectors, segments)
    if initial is None:
        rows = np.random.default_rng(seed).choice(len(vectors), k, replace=False)
        codebooks = pieces[:, rows].copy()
    else:
        codebooks = initial.astype(np.float32, copy=True)
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, errors = nearest(points, centroids)
            sizes = np.bincount(cells, minlength=k)
            sums = [np.bincount(cells, weights=column, minlength=k) for column in points.T]
            used = sizes > 0
            centroids[used] = np.stack(sums, axis=1)[used] / sizes[used, None]
            if not used.all():
                worst = np.argsort(-errors, kind="stable")
                centroids[~used] = points[worst[: k - int(used.sum())]]
    return codebooks


def check_training(
    vectors: NDArray[np.float32], segments: int, bits: int = 8
) -> NDArray[np.float32]:
    """The vectors as contiguous float32, or what is wrong with them, ``segments`` or ``bits``.

    Raises
    ------
    InputError
        For NaN, another shape than [n, d], segments that do not divide d, bits outside 1..8 or
        fewer than 2**bits vectors.
    """
    vectors = check_vectors(vectors)
    n, dimension = vectors.shape
    require(1 <= bits <= 8, "bits", bits, "must be from 1 to 8", "try 8, or 4 for a fast scan")
    divisors = [m for m in range(1, dimension + 1) if dimension % m == 0]
    require(
        segments in divisors,
        "segments",
        segments,
        f"must divide the dimension {dimension}",
        f"use one of {divisors}",
    )
    require(
        n >= 2**bits,
        "number of vectors",
        n,
        f"must be >= {2**bits} to train {bits} bits",
        f"give {39 * 2**bits} or more, or fewer bits",
    )
    return vectors


def split(vectors: NDArray[np.float32], segments: int) -> NDArray[np.float32]:
    """The vectors [n, d] cut into m contiguous pieces: [m, n, d/m]."""
    return np.ascontiguousarray(vectors.reshape(len(vectors), segments, -1).swapaxes(0, 1))


def nearest(
    points: NDArray[np.float32], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest centroid of each point and the squared distance to it, in blocks.

    ``||x - c||² = ||x||² - 2 <x, c> + ||c||²``. Far from the origin this is a small difference of
    large numbers, so both sides are moved to the mean of the centroids first.

    Points are [n, d], centroids [k, d]; both results are [n], int64 and float32.
    """
    middle = centroids.mean(axis=0)
    centroids = centroids - middle
    lengths = (centroids**2).sum(axis=1)
    cells = np.empty(len(points), dtype=np.int64)
    errors = np.empty(len(points), dtype=np.float32)
    step = max(1, BLOCK // len(centroids))
    for start in range(0, len(points), step):
        block = points[start : start + step] - middle
        partial = block @ (-2 * centroids.T)
        partial += lengths
        best = partial.argmin(axis=1)
        cells[start : start + step] = best
        least = partial[np.arange(len(block)), best] + (block**2).sum(axis=1)
        errors[start : start + step] = np.maximum(least, 0)
    return cells, errors


def encode(vectors: NDArray[np.float32], codebooks: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The code of each vector: for each segment the number of its nearest centroid.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    codebooks : float32 array of shape [m, 2**bits, d/m]

    Returns
    -------
    uint8 array of shape [n, m]
        One number a segment; ``pack_codes`` gives the m * bits / 8 bytes that are stored.
    """
    segments, _, width = codebooks.shape
    vectors = check_vectors(vectors, dimension=segments * width)
    pieces = zip(split(vectors, segments), codebooks)
    return np.stack([nearest(*piece)[0] for piece in pieces], axis=1).astype(np.uint8)


def decode(codes: NDArray[np.uint8], codebooks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors [n, d] that codes [n, m] stand for: their centroids, side by side."""
    return codebooks[np.arange(codes.shape[1]), codes].reshape(len(codes), -1)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [n, m] of a few bits each as bytes [n, ceil(m * bits / 8)], lowest bits first.

    With 4 bits segment 0 is the low half of byte 0 and segment 1 its high half, as in faiss.
    """
    each = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")


def unpack_codes(packed: NDArray[np.uint8], segments: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack_codes`: one number a segment, [n, m]."""
    each = np.unpackbits(packed, axis=1, count=segments * bits, bitorder="little")
    powers = 1 << np.arange(bits, dtype=np.uint8)
    codes: NDArray[np.uint8] = (each.reshape(len(packed), segments, bits) * powers).sum(
        axis=2, dtype=np.uint8
    )
    return codes


@exercise(
    "2.5",
    points=8,
    title="Asymmetric distances from tables",
    hint="A distance is a sum over segments, and a segment has only 2**bits possible values. "
    "Compute those first, for all queries at once; then loop over the segments, never the vectors.",
)
def asymmetric_distances(
    queries: NDArray[np.float32],
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.float32],
    metric: Metric = "l2",
) -> NDArray[np.float32]:
    """Scores between whole queries and coded vectors, by one table of each query (ADC).

    The query is not quantized, which is what "asymmetric" means. With the query's segment
    ``q_j`` and centroid i of segment j, ``c_ji``, a table of m * 2**bits values is computed once::

        l2:             T[q, j, i] = ||q_j - c_ji||²
        inner_product:  T[q, j, i] = <q_j, c_ji>

    after which every stored vector costs m look-ups and no multiplication, whatever d is::

        score[q, n] = sum over j of T[q, j, codes[n, j]]

    It equals the score between the query and the decoded vector, but nothing is decoded: n
    vectors of d floats are just what does not fit into memory.

    Parameters
    ----------
    queries : float32 array of shape [q, d]
    codes : uint8 array of shape [n, m]
        Not packed: one number a segment.
    codebooks : float32 array of shape [m, 2**bits, d/m]
    metric
        ``"l2"`` (squared distances: no root) or ``"inner_product"``.

    Returns
    -------
    float32 array of shape [q, n]
        For codebooks ``[[[0.], [1.]]]`` (one segment, two centroids), query ``[[3.]]`` and codes
        ``[[0], [1]]``: ``[[9., 4.]]`` under l2 and ``[[0., 3.]]`` under inner_product.

    References
    ----------
    Jégou, Douze, Schmid 2011, section III, equation 13.
    """
    segments, _, width = codebooks.shape
    pieces = queries.reshape(len(queries), segments, width)
    if metric == "l2":
        tables = ((pieces[:, :, None] - codebooks) ** 2).sum(axis=3)
    else:
        tables = np.einsum("qjw,jiw->qji", pieces, codebooks)
    scores = np.zeros((len(queries), len(codes)), dtype=np.float32)
    for j in range(segments):
        scores += tables[:, j, codes[:, j]]
    return scores


def symmetric_distances(
    query_codes: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.float32],
    metric: Metric = "l2",
) -> NDArray[np.float32]:
    """Scores between coded queries [q, m] and coded vectors [n, m] (SDC): [q, n].

    The query's own quantization error is added to each vector's. What it buys: tables that do not
    depend on the query, and queries that are stored as codes.

    References
    ----------
    Jégou, Douze, Schmid 2011, section III, equation 12.
    """
    return asymmetric_distances(decode(query_codes, codebooks), codes, codebooks, metric)


def adc_search(
    queries: NDArray[np.float32],
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.float32],
    k: int,
    metric: Metric = "l2",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best coded vectors of each query by asymmetric distance, best first.

    Returns
    -------
    scores : float32 array of shape [q, k]
    ids : int64 array of shape [q, k]
        Rows of ``codes``; of equal scores the lower row first.

    Raises
    ------
    InputError
        For queries of another dimension, NaN, or k outside 1..n.
    """
    segments, _, width = codebooks.shape
    queries = check_vectors(queries, dimension=segments * width, name="queries")
    require(1 <= k <= len(codes), "k", k, f"must be from 1 to {len(codes)}, the codes given")
    step = max(1, BLOCK // max(len(codes), codebooks.size))
    found = []
    for start in range(0, len(queries), step):
        scores = asymmetric_distances(queries[start : start + step], codes, codebooks, metric)
        found.append(best(scores, k, metric))
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def best(
    scores: NDArray[np.float32], k: int, metric: Metric
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of each row of scores [q, n] and their columns; ties by the lower column."""
    ascending = scores if metric == "l2" else -scores
    limit = np.partition(ascending, k - 1, axis=1)[:, k - 1 : k]
    columns = np.empty((len(scores), k), dtype=np.int64)
    for row, (values, last) in enumerate(zip(ascending, limit)):
        candidates = np.flatnonzero(values <= last)
        columns[row] = candidates[np.argsort(values[candidates], kind="stable")[:k]]
    return np.take_along_axis(scores, columns, axis=1), columns


def relative_error(vectors: NDArray[np.float32], decoded: NDArray[np.float32]) -> float:
    """The share of the variance that a code loses: ``sum||x - x'||² / sum||x - mean||²``."""
    lost = ((vectors - decoded) ** 2).sum(dtype=np.float64)
    return float(lost / ((vectors - vectors.mean(axis=0)) ** 2).sum(dtype=np.float64))


def to_faiss(codebooks: NDArray[np.float32]) -> faiss.ProductQuantizer:
    """A faiss quantizer with these codebooks, ready to encode."""
    segments, k, width = codebooks.shape
    quantizer = faiss.ProductQuantizer(segments * width, segments, k.bit_length() - 1)
    faiss.copy_array_to_vector(codebooks.astype(np.float32).ravel(), quantizer.centroids)
    return quantizer


def from_faiss(quantizer: faiss.ProductQuantizer) -> NDArray[np.float32]:
    """The codebooks of a trained faiss quantizer, [m, 2**bits, d/m]."""
    shape = (quantizer.M, quantizer.ksub, quantizer.dsub)
    codebooks: NDArray[np.float32] = faiss.vector_to_array(quantizer.centroids).reshape(shape)
    return codebooks


@dataclass(frozen=True)
class CodeScore:
    """What a code costs and keeps: bytes a vector, share of variance lost, recall@10 alone."""

    name: str
    bytes_per_vector: float
    relative_error: float
    recall_at_10: float


def evaluate(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    segments: int = 30,
    bits: int = 8,
    seed: int = 0,
) -> list[CodeScore]:
    """Our product quantizer, whole and coded queries, beside faiss's own training (l2).

    The vectors [n, d] are trained on and searched; the queries [q, d] are none of them. Scores
    are of ``PQ``, ``PQ, coded queries`` and ``faiss PQ``.
    """
    vectors = check_training(vectors, segments, bits)
    _, true_ids = exact_search(vectors, queries, 10, "l2")
    trained = faiss.ProductQuantizer(vectors.shape[1], segments, bits)
    trained.cp.seed, trained.cp.min_points_per_centroid = seed, 1
    trained.train(vectors)
    ours = train_codebooks(vectors, segments, bits, seed=seed)
    coded = decode(encode(queries, ours), ours)
    scores = []
    for name, asked, codebooks in (
        ("PQ", queries, ours),
        ("PQ, coded queries", coded, ours),
        ("faiss PQ", queries, from_faiss(trained)),
    ):
        codes = encode(vectors, codebooks)
        _, found = adc_search(asked, codes, codebooks, 10)
        scores.append(
            CodeScore(
                name,
                segments * bits / 8,
                relative_error(vectors, decode(codes, codebooks)),
                float(recall_at_k(found, true_ids).mean()),
            )
        )
    return scores
