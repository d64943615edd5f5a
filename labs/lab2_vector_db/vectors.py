"""Vectors and ids as an index wants them, or one clear error about what is wrong with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every row to length 1, so that the inner product is the cosine.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]

    Raises
    ------
    InputError
        When a row has length 0: its direction is undefined.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    zeros = np.flatnonzero(lengths[:, 0] == 0)
    if zeros.size:
        raise InputError(f"row {zeros[0]} has length 0 and no direction; remove it ({zeros.size})")
    directions: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return directions


def check_vectors(
    vectors: NDArray[np.float32], *, dimension: int | None = None, name: str = "vectors"
) -> NDArray[np.float32]:
    """Return the array as contiguous float32 of shape [n, d], or say what is wrong with it.

    Raises
    ------
    InputError
        For another shape, another dimension than asked for, or a value that is not finite.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    require(vectors.ndim == 2, f"{name}.shape", vectors.shape, "must be [n, d]", "reshape it")
    require(vectors.shape[0] > 0, f"{name}.shape", vectors.shape, "must hold at least one row")
    if dimension is not None:
        require(
            vectors.shape[1] == dimension,
            f"{name}.shape",
            vectors.shape,
            f"must be [n, {dimension}], the dimension of the index",
            "embed with the model the index was built from",
        )
    # A sum is finite only if every term is (or it overflows, which the second look sorts out):
    # one pass without a temporary array of the same shape.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    bad = suspects[~np.isfinite(vectors[suspects]).all(axis=1)]
    if bad.size:
        raise InputError(
            f"{name} row {bad[0]} holds a NaN or an infinity ({bad.size} such rows); remove them"
        )
    return vectors


def check_ids(ids: NDArray[np.int64], n_vectors: int) -> NDArray[np.int64]:
    """Return the ids as int64 of shape [n_vectors], or say what is wrong with them.

    Raises
    ------
    InputError
        For another length or type, a negative id (-1 means "nothing found") or a duplicate.
    """
    array = np.asarray(ids)
    require(
        array.shape == (n_vectors,), "ids.shape", array.shape, f"must be [{n_vectors}], one each"
    )
    require(np.issubdtype(array.dtype, np.integer), "ids.dtype", array.dtype, "must be an integer")
    require(bool((array >= 0).all()), "ids", int(array.min()), "must be >= 0", "-1 means not found")
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        first = int(values[counts > 1][0])
        raise InputError(
            f"id {first} is given {int(counts[counts > 1][0])} times "
            f"({int((counts > 1).sum())} such ids); ids must be unique"
        )
    return np.ascontiguousarray(array, dtype=np.int64)
