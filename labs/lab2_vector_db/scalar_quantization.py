"""Quantizing each component by itself: a few bits of it, its sign, and one bit with an estimator.

Nothing has to be learned but ranges or a random rotation, so these codes keep working when the
data drifts; what that costs in bytes is what product quantization saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import check_vectors
from labs.lab2_vector_db.product_quantization import (
    CodeScore,
    best,
    pack_codes,
    relative_error,
    unpack_codes,
)

FAISS_TYPES = {
    8: faiss.ScalarQuantizer.QT_8bit,
    6: faiss.ScalarQuantizer.QT_6bit,
    4: faiss.ScalarQuantizer.QT_4bit,
}


@dataclass(frozen=True)
class ScalarQuantizer:
    """The range of each component: ``low`` and ``width`` of shape [d], cut into 2**bits - 1."""

    low: NDArray[np.float32]
    width: NDArray[np.float32]
    bits: Literal[4, 6, 8]


def train_scalar(vectors: NDArray[np.float32], bits: Literal[4, 6, 8] = 8) -> ScalarQuantizer:
    """The least and largest value of each component, as faiss's ``QT_8bit`` takes them.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        Later values outside the range they span are clipped, without a word.
    bits
        Of each component's code.

    Raises
    ------
    InputError
        For NaN, another shape, or other numbers of bits.
    """
    vectors = check_vectors(vectors)
    require(bits in FAISS_TYPES, "bits", bits, f"must be one of {list(FAISS_TYPES)}")
    low = vectors.min(axis=0)
    return ScalarQuantizer(low, vectors.max(axis=0) - low, bits)


def encode_scalar(vectors: NDArray[np.float32], quantizer: ScalarQuantizer) -> NDArray[np.uint8]:
    """Codes [n, d], one number a component: ``floor((2**bits - 1) * (x - low) / width)``.

    ``pack_codes`` makes d * bits / 8 bytes of them. Values outside the range are clipped to it.
    """
    vectors = check_vectors(vectors, dimension=len(quantizer.low))
    # A component that is constant has width 0; it decodes to itself whatever its code is.
    width = np.where(quantizer.width > 0, quantizer.width, 1)
    share = np.clip((vectors - quantizer.low) / width, 0, 1)
    codes: NDArray[np.uint8] = (share * np.float32(2**quantizer.bits - 1)).astype(np.uint8)
    return codes


def decode_scalar(codes: NDArray[np.uint8], quantizer: ScalarQuantizer) -> NDArray[np.float32]:
    """The middle of each code's interval, ``low + width * (code + 1/2) / (2**bits - 1)``: [n, d].

    The error of a component inside the range is at most half an interval, and its variance
    ``interval² / 12`` where values are spread evenly over the intervals.
    """
    share = (codes + np.float32(0.5)) / np.float32(2**quantizer.bits - 1)
    return quantizer.low + quantizer.width * share


def sign_codes(
    vectors: NDArray[np.float32], threshold: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """One bit a component: whether it is above 0, or above ``threshold`` [d]; packed [n, d / 8].

    The share of bits in which two codes of randomly rotated vectors differ is their angle
    divided by pi (Charikar 2002), so Hamming distance orders by angle. Without a threshold at
    the mean a component that is positive in all vectors gives a bit that says nothing.

    Raises
    ------
    InputError
        For NaN, or a dimension that 8 does not divide.
    """
    vectors = check_vectors(vectors)
    dimension = vectors.shape[1]
    require(dimension % 8 == 0, "dimension", dimension, "must be a multiple of 8", "pad with zeros")
    above = vectors > (0 if threshold is None else threshold)
    return np.packbits(above, axis=1, bitorder="little")


def hamming_distances(
    query_codes: NDArray[np.uint8], codes: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Bits in which codes [q, bytes] and [n, bytes] differ, ``popcount(a xor b)``: [q, n]."""
    distances = np.zeros((len(query_codes), len(codes)), dtype=np.int32)
    for ours, theirs in zip(_words(query_codes).T, _words(codes).T):
        distances += np.bitwise_count(ours[:, None] ^ theirs)
    return distances


def _words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The bytes of each row as 64-bit words, filled up with zeros: the unit of one popcount."""
    missing = -codes.shape[1] % 8
    return np.ascontiguousarray(np.pad(codes, ((0, 0), (0, missing)))).view(np.uint64)


@dataclass(frozen=True)
class RaBitQ:
    """A centre [d] and a random rotation [d, d]: all that a RaBitQ code depends on."""

    centre: NDArray[np.float32]
    rotation: NDArray[np.float32]


@dataclass(frozen=True)
class RaBitQCodes:
    """One bit a component and two numbers a vector.

    ``packed`` [n, ceil(d / 8)] holds the signs, ``length`` [n] the distance to the centre, and
    ``alignment`` [n] the inner product of the unit vector with the one its signs stand for,
    about ``sqrt(2 / pi) = 0.8``.
    """

    packed: NDArray[np.uint8]
    length: NDArray[np.float32]
    alignment: NDArray[np.float32]


def new_rabitq(vectors: NDArray[np.float32], *, seed: int = 0) -> RaBitQ:
    """The mean of the vectors [n, d] and a rotation drawn uniformly from all rotations."""
    vectors = check_vectors(vectors)
    dimension = vectors.shape[1]
    gaussian = np.random.default_rng(seed).standard_normal((dimension, dimension))
    q, r = np.linalg.qr(gaussian)
    # QR leaves the signs of its columns open; without this they are not uniform.
    rotation = (q * np.sign(np.diag(r))).astype(np.float32)
    return RaBitQ(vectors.mean(axis=0), rotation)


def encode_rabitq(vectors: NDArray[np.float32], quantizer: RaBitQ) -> RaBitQCodes:
    """The signs of ``o' = R (x - centre) / ||x - centre||``, its length and its alignment.

    The code stands for ``ō = sign(o') / sqrt(d)``, and ``alignment = <ō, o'>``.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        A vector at the centre has length 0, and any code does.

    References
    ----------
    Gao, Long: RaBitQ, 2024, section 3.1. (The paper rotates the codes, we the vectors.)
    """
    units, length = _units(vectors, quantizer)
    signs = np.where(units > 0, 1, -1) / np.sqrt(np.float32(units.shape[1]))
    alignment = (units * signs).sum(axis=1, dtype=np.float32)
    packed = pack_codes((units > 0).astype(np.uint8), 1)
    return RaBitQCodes(packed, length, np.where(alignment > 0, alignment, np.float32(1)))


def rabitq_products(
    queries: NDArray[np.float32], codes: RaBitQCodes, quantizer: RaBitQ
) -> NDArray[np.float32]:
    """Estimates of ``<o, q>``, the cosine of vector and query seen from the centre: [q, n].

    ``<o, q> ≈ <ō, q> / <ō, o>``: over the random rotation its mean is ``<o, q>`` itself, and its
    error falls as ``1 / sqrt(d)``. ``<ō, q>`` alone is about 0.8 of it: short of every truth.

    References
    ----------
    Gao, Long: RaBitQ, 2024, theorem 3.2.
    """
    units, _ = _units(queries, quantizer)
    dimension = units.shape[1]
    signs = 2 * unpack_codes(codes.packed, dimension, 1).astype(np.float32) - 1
    estimates: NDArray[np.float32] = units @ signs.T / np.sqrt(dimension) / codes.alignment
    return estimates.astype(np.float32)


def rabitq_distances(
    queries: NDArray[np.float32], codes: RaBitQCodes, quantizer: RaBitQ
) -> NDArray[np.float32]:
    """Estimated squared distances [q, n]: the law of cosines around the centre.

    ``||x - y||² = ||x - c||² + ||y - c||² - 2 ||x - c|| ||y - c|| <o, q>``.
    """
    length = np.linalg.norm(queries - quantizer.centre, axis=1, keepdims=True)
    products = rabitq_products(queries, codes, quantizer)
    distances: NDArray[np.float32] = (
        codes.length**2 + length**2 - 2 * codes.length * length * products
    )
    return distances


def rabitq_error_bound(
    codes: RaBitQCodes, dimension: int, epsilon: float = 1.9
) -> NDArray[np.float32]:
    """How far an estimate of ``<o, q>`` is off at most, but for a small share of cases: [n].

    ``epsilon * sqrt((1 - <ō, o>²) / <ō, o>²) / sqrt(d - 1)`` (theorem 3.2); 1.9 is the
    paper's choice. A candidate that even so cannot reach the k-th best distance needs no second
    look.
    """
    off = np.sqrt(np.maximum(1 - codes.alignment**2, 0)) / codes.alignment
    bound: NDArray[np.float32] = (epsilon * off / np.sqrt(dimension - 1)).astype(np.float32)
    return bound


def _units(
    vectors: NDArray[np.float32], quantizer: RaBitQ
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rotated directions from the centre [n, d] and distances to it [n]."""
    vectors = check_vectors(vectors, dimension=len(quantizer.centre))
    moved = vectors - quantizer.centre
    length = np.linalg.norm(moved, axis=1)
    units = (moved @ quantizer.rotation.T) / np.where(length > 0, length, 1)[:, None]
    return units.astype(np.float32), length.astype(np.float32)


def evaluate(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], *, seed: int = 0
) -> list[CodeScore]:
    """8, 6 and 4 bits a component, signs and RaBitQ, one bit each: bytes, error, recall (l2).

    The vectors [n, d] are trained on and searched; the queries [q, d] are none of them. Signs
    decode to no vector, so their error is NaN. RaBitQ's is of the vector whose inner products are
    its estimates: longer than the nearest one, which is the price of no bias.
    """
    vectors = check_vectors(vectors)
    dimension = vectors.shape[1]
    _, true_ids = exact_search(vectors, queries, 10, "l2")

    def score(name: str, size: float, lost: float, found: NDArray[np.int64]) -> CodeScore:
        return CodeScore(name, size, lost, float(recall_at_k(found, true_ids).mean()))

    scores = []
    for bits in (8, 6, 4):
        scalar = train_scalar(vectors, bits)
        decoded = decode_scalar(encode_scalar(vectors, scalar), scalar)
        _, found = exact_search(decoded, queries, 10, "l2")
        lost = relative_error(vectors, decoded)
        scores.append(score(f"SQ{bits}", dimension * bits / 8, lost, found))
    mean = vectors.mean(axis=0)
    hamming = hamming_distances(sign_codes(queries, mean), sign_codes(vectors, mean))
    _, found = best(hamming.astype(np.float32), 10, "l2")
    scores.append(score("signs, Hamming", dimension / 8, float("nan"), found))
    rabitq = new_rabitq(vectors, seed=seed)
    codes = encode_rabitq(vectors, rabitq)
    _, found = best(rabitq_distances(queries, codes, rabitq), 10, "l2")
    signs = 2 * unpack_codes(codes.packed, dimension, 1).astype(np.float32) - 1
    scale = codes.length / codes.alignment / np.sqrt(np.float32(dimension))
    decoded = (signs * scale[:, None]) @ rabitq.rotation + rabitq.centre
    scores.append(score("RaBitQ", dimension / 8 + 8, relative_error(vectors, decoded), found))
    return scores
