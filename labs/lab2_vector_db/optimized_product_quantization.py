"""Optimized product quantization by hand: the rotation that lets a product quantizer lose least.

A product quantizer cannot use that two of its segments are correlated, and spends as many bits on
a segment without variance as on one with all of it. A rotation changes neither distances nor
inner products, and can do something about both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric, check_vectors
from labs.lab2_vector_db.product_quantization import (
    CodeScore,
    adc_search,
    check_training,
    decode,
    encode,
    from_faiss,
    relative_error,
    train_codebooks,
)


@dataclass(frozen=True)
class RotatedQuantizer:
    """A rotation and the codebooks of what is rotated.

    ``errors`` holds the mean squared error after each round of training, the start first.
    """

    rotation: NDArray[np.float32]
    codebooks: NDArray[np.float32]
    errors: tuple[float, ...]


def train_opq(
    vectors: NDArray[np.float32],
    segments: int,
    bits: int = 8,
    *,
    rounds: int = 20,
    iterations: int = 1,
    seed: int = 0,
    initial: NDArray[np.float32] | None = None,
) -> RotatedQuantizer:
    """Rotation and codebooks in turn, each the best for the other (OPQ-NP).

    Minimises ``sum ||R x - decode(encode(R x))||²`` over the rotation R and the codebooks. A
    round is: codes of the rotated vectors; R by :func:`procrustes`, from the vectors to what the
    codes stand for; ``iterations`` of k-means from the codebooks so far. Neither step can raise
    the error.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    segments, bits
        As in :func:`~labs.lab2_vector_db.product_quantization.train_codebooks`.
    rounds
        0 leaves a product quantizer behind the initial rotation.
    iterations
        Of k-means in each round; the first codebooks get 10.
    seed
        Of the first codebooks.
    initial : float32 array of shape [d, d], optional
        The rotation to start from; None is the identity. :func:`allocate_variance` gives a
        better one.

    Returns
    -------
    RotatedQuantizer

    Raises
    ------
    InputError
        For what ``check_training`` refuses, or an initial matrix that is no rotation.

    References
    ----------
    Ge, He, Ke, Sun: Optimized Product Quantization, 2013, section 3.1 and algorithm 1.
    """
    vectors = check_training(vectors, segments, bits)
    rotation = _rotation(initial, vectors.shape[1])
    rotated = rotate(vectors, rotation)
    codebooks = train_codebooks(rotated, segments, bits, iterations=10, seed=seed)
    decoded = decode(encode(rotated, codebooks), codebooks)
    errors = [_mean_squared(rotated, decoded)]
    for _ in range(rounds):
        rotation = procrustes(vectors, decoded)
        rotated = rotate(vectors, rotation)
        codebooks = train_codebooks(
            rotated, segments, bits, iterations=iterations, initial=codebooks
        )
        decoded = decode(encode(rotated, codebooks), codebooks)
        errors.append(_mean_squared(rotated, decoded))
    return RotatedQuantizer(rotation, codebooks, tuple(errors))


def procrustes(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """The orthogonal matrix R with the least ``sum ||R source_i - target_i||²``.

    ``||R s||`` does not depend on R, so the sum is least where ``sum <R s_i, t_i>`` is largest:
    with the singular value decomposition ``target^T source = U S V^T``, at ``R = U V^T``.

    Parameters
    ----------
    source, target : float32 arrays of shape [n, d]

    Returns
    -------
    float32 array of shape [d, d]
        For :func:`rotate`.

    References
    ----------
    Schönemann: A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    left, _, right = np.linalg.svd(target.astype(np.float64).T @ source.astype(np.float64))
    solution: NDArray[np.float32] = (left @ right).astype(np.float32)
    return solution


def rotate(vectors: NDArray[np.float32], rotation: NDArray[np.float32]) -> NDArray[np.float32]:
    """``R x`` for each row x of [n, d]. Queries and vectors are rotated alike."""
    return np.ascontiguousarray(vectors @ rotation.T)


def allocate_variance(vectors: NDArray[np.float32], segments: int) -> NDArray[np.float32]:
    """The principal axes, dealt to the segments so that each has as much variance as the others.

    For normally distributed data a product quantizer loses least when segments are independent
    and the products of their variances are equal (OPQ-P). Axes are dealt by decreasing variance,
    each to the segment with the least product so far that has room.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    segments
        m, which must divide d.

    Returns
    -------
    float32 array of shape [d, d]
        A rotation.

    References
    ----------
    Ge, He, Ke, Sun 2013, section 3.2: "eigenvalue allocation".
    """
    vectors = check_training(vectors, segments, 1)
    width = vectors.shape[1] // segments
    variances, axes = np.linalg.eigh(np.cov(vectors.astype(np.float64), rowvar=False))
    # Zero variance has no logarithm; what is below float32's resolution of the largest counts so.
    logs = np.log(np.maximum(variances, 1e-7 * variances.max()))
    products = np.zeros(segments)
    dealt: list[list[int]] = [[] for _ in range(segments)]
    for axis in np.argsort(-variances):
        room = [j for j in range(segments) if len(dealt[j]) < width]
        least = min(room, key=lambda j: (len(dealt[j]) > 0, products[j]))
        dealt[least].append(int(axis))
        products[least] += logs[axis] - logs.min()
    rotation: NDArray[np.float32] = axes.T[np.concatenate(dealt)].astype(np.float32)
    return rotation


def to_faiss(
    quantizer: RotatedQuantizer, vectors: NDArray[np.float32], metric: Metric = "l2"
) -> faiss.Index:
    """faiss's index of the vectors with our rotation and codebooks in it."""
    segments, k, width = quantizer.codebooks.shape
    dimension = segments * width
    transform = faiss.LinearTransform(dimension, dimension, False)
    faiss.copy_array_to_vector(quantizer.rotation.ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    coded = faiss.IndexPQ(dimension, segments, k.bit_length() - 1, FAISS_METRICS[metric])
    faiss.copy_array_to_vector(quantizer.codebooks.ravel(), coded.pq.centroids)
    coded.is_trained = True
    index = faiss.IndexPreTransform(transform, coded)
    index.add(check_vectors(vectors, dimension=dimension))
    return index


def faiss_opq(
    vectors: NDArray[np.float32], segments: int, bits: int = 8, *, rounds: int = 20, seed: int = 0
) -> RotatedQuantizer:
    """The rotation and codebooks that faiss trains by itself (``OPQMatrix``, then PQ)."""
    vectors = check_training(vectors, segments, bits)
    dimension = vectors.shape[1]
    transform: Any = faiss.OPQMatrix(dimension, segments)
    quantizer = faiss.ProductQuantizer(dimension, segments, bits)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = seed, 1
    transform.niter = rounds
    transform.pq = quantizer
    transform.train(vectors)
    rotation = faiss.vector_to_array(transform.A).reshape(dimension, dimension)
    rotated = rotate(vectors, rotation)
    quantizer.train(rotated)
    codebooks = from_faiss(quantizer)
    error = _mean_squared(rotated, decode(encode(rotated, codebooks), codebooks))
    return RotatedQuantizer(rotation, codebooks, (error,))


def evaluate(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    segments: int = 30,
    bits: int = 8,
    rounds: int = 20,
    seed: int = 0,
) -> list[CodeScore]:
    """PQ, both starts of OPQ, and faiss's, at the same number of bytes (l2).

    The vectors [n, d] are trained on and searched; the queries [q, d] are none of them.
    """
    vectors = check_training(vectors, segments, bits)
    _, true_ids = exact_search(vectors, queries, 10, "l2")
    principal = allocate_variance(vectors, segments)
    trained = {
        "PQ": train_opq(vectors, segments, bits, rounds=0, seed=seed),
        "OPQ, variance allocated": train_opq(
            vectors, segments, bits, rounds=0, seed=seed, initial=principal
        ),
        "OPQ": train_opq(vectors, segments, bits, rounds=rounds, seed=seed),
        "OPQ from allocated variance": train_opq(
            vectors, segments, bits, rounds=rounds, seed=seed, initial=principal
        ),
        "faiss OPQ": faiss_opq(vectors, segments, bits, rounds=rounds, seed=seed),
    }
    scores = []
    for name, quantizer in trained.items():
        rotated = rotate(vectors, quantizer.rotation)
        codes = encode(rotated, quantizer.codebooks)
        asked = rotate(queries, quantizer.rotation)
        _, found = adc_search(asked, codes, quantizer.codebooks, 10)
        lost = relative_error(rotated, decode(codes, quantizer.codebooks))
        recall = float(recall_at_k(found, true_ids).mean())
        scores.append(CodeScore(name, segments * bits / 8, lost, recall))
    return scores


def _mean_squared(vectors: NDArray[np.float32], decoded: NDArray[np.float32]) -> float:
    return float(((vectors - decoded) ** 2).sum(axis=1, dtype=np.float64).mean())


def _rotation(initial: NDArray[np.float32] | None, dimension: int) -> NDArray[np.float32]:
    if initial is None:
        return np.eye(dimension, dtype=np.float32)
    shape = initial.shape
    require(shape == (dimension, dimension), "initial.shape", shape, f"must be [{dimension}] * 2")
    worst = float(np.abs(initial @ initial.T - np.eye(dimension)).max())
    require(worst < 1e-3, "initial", worst, "is far from a rotation (R R^T - I)", "use a QR factor")
    return initial.astype(np.float32)
