"""Random numbers that are a function of what they belong to, not of the order they are drawn in.

A generator with state makes the millionth user depend on all before. A hash of (seed, purpose,
number) gives any user, item or event its own bits, on any machine, without a table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bits = NDArray[np.uint64]
PARTS = 3
"""Uniform numbers that one hash holds, of 21 bits each."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash64(seed: int, purpose: int, number: ArrayLike) -> Bits:
    """64 bits for each number, the same shape; another ``purpose`` gives unrelated bits.

    Notes
    -----
    The finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number
    generators, OOPSLA), applied to the key and again to the number.
    """
    key = _mix(np.array([seed], dtype=np.uint64) * _GOLDEN + np.uint64(purpose))
    flat = np.atleast_1d(number).astype(np.uint64)
    return _mix(flat * _GOLDEN + key[0]).reshape(np.shape(number))


def uniform(bits: Bits, part: int = 0) -> NDArray[np.float64]:
    """The uniform number in [0, 1) of one of the :data:`PARTS` parts of each hash."""
    shifted = (bits >> np.uint64(21 * part)) & np.uint64((1 << 21) - 1)
    return (shifted.astype(np.float64) + 0.5) / (1 << 21)


def signs(bits: Bits, n: int) -> NDArray[np.float32]:
    """``n`` <= 64 fair signs of each hash: float32 [..., n] of -1 and 1.

    They have the covariance of a standard normal vector at the price of one hash, and their
    product with another vector is nearly normal.
    """
    raw = np.unpackbits(bits[..., None].view(np.uint8), axis=-1, count=n, bitorder="little")
    found = raw.astype(np.float32)
    found *= 2
    found -= 1
    return found


def _mix(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
