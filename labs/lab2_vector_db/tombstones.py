"""Which rows are alive, a bit each: tombstones that searching threads can read while one writes.

A bitmap is a uint8 array [ceil(n / 8)], least significant bit first, as faiss.IDSelectorBitmap
reads it. Bit 1: the row is alive; a deleted or superseded row has a tombstone, bit 0. Nothing here
changes a bitmap in place: a searcher keeps the one it began with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bitmap = NDArray[np.uint8]
Rows = NDArray[np.int64]


def all_alive(n_rows: int) -> Bitmap:
    """A bitmap without tombstones; the bits behind the last row are 0."""
    return from_mask(np.ones(n_rows, bool))


def from_mask(mask: NDArray[np.bool_]) -> Bitmap:
    """The bitmap of a mask [n]."""
    return np.packbits(mask, bitorder="little")


def to_mask(bitmap: Bitmap, n_rows: int) -> NDArray[np.bool_]:
    """The mask [n] of a bitmap."""
    return np.unpackbits(bitmap, count=n_rows, bitorder="little").view(bool)


def alive(bitmap: Bitmap, rows: Rows) -> NDArray[np.bool_]:
    """Whether each row is alive; rows of -1 ("nothing here") are not. Any shape."""
    bits = (bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1
    return (bits == 1) & (rows >= 0)


def bury(bitmap: Bitmap, rows: Rows) -> Bitmap:
    """A copy of the bitmap in which these rows are dead."""
    fresh = bitmap.copy()
    np.bitwise_and.at(fresh, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
    return fresh


def extended(bitmap: Bitmap, n_rows: int, added: int) -> Bitmap:
    """A copy with ``added`` alive rows behind the first ``n_rows``."""
    mask = np.concatenate([to_mask(bitmap, n_rows), np.ones(added, bool)])
    return from_mask(mask)


def count(bitmap: Bitmap) -> int:
    """How many rows are alive."""
    return int(np.bitwise_count(bitmap).sum())


def rows_of(bitmap: Bitmap, n_rows: int) -> Rows:
    """The alive rows, ascending."""
    return np.flatnonzero(to_mask(bitmap, n_rows))
