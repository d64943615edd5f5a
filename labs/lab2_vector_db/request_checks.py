"""What a caller hands to a collection, checked: everything after this can rely on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab2_vector_db.filters import Filter, check
from labs.lab2_vector_db.index_types import IVF, check_vectors
from labs.lab2_vector_db.manifest import Schema
from labs.lab2_vector_db.snapshot import SearchOptions

MAX_K = 65_536
MAX_ID = 2**63 - 1


def check_id_array(ids: ArrayLike, *, unique: bool, name: str = "ids") -> NDArray[np.int64]:
    """The ids as int64 of shape [n].

    Raises
    ------
    InputError
        For another shape or type, an id that is negative or above 2**63 - 1, and, if they must
        be unique, an id that is given twice.
    """
    array = np.atleast_1d(np.asarray(ids))
    require(array.ndim == 1, f"{name}.shape", array.shape, "must be [n]")
    if not array.size:
        return np.empty(0, np.int64)
    require(
        np.issubdtype(array.dtype, np.integer), f"{name}.dtype", array.dtype, "must be an integer"
    )
    least, most = int(array.min()), int(array.max())
    require(least >= 0, name, least, "must be >= 0", "-1 means that nothing was found")
    require(most <= MAX_ID, name, most, f"must be <= {MAX_ID}")
    if unique:
        values, counts = np.unique(array, return_counts=True)
        if len(values) < len(array):
            first = int(np.argmax(counts))
            raise InputError(
                f"id {values[first]} is given {counts[first]} times in one call; give each once"
            )
    return np.ascontiguousarray(array, np.int64)


def check_rows(vectors: ArrayLike, schema: Schema, *, name: str = "vectors") -> NDArray[np.float32]:
    """Vectors as the collection stores and compares them: float32 [n, d], cosine's of length 1.

    Raises
    ------
    InputError
        For another shape or dimension, NaN, infinity, or a zero vector under cosine.
    """
    try:
        array = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers of shape [n, d]: {error}") from error
    checked = check_vectors(array, dimension=schema.dimension, name=name)
    return directions(checked, name=name) if schema.metric == "cosine" else checked


def directions(vectors: NDArray[np.float32], *, name: str = "vectors") -> NDArray[np.float32]:
    """Each row scaled to length 1; lengths in float64, so that none over- or underflows.

    Raises
    ------
    InputError
        For a row of length 0, which has no direction.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    zeros = np.flatnonzero(lengths == 0)
    if zeros.size:
        raise InputError(
            f"{name} row {zeros[0]} is zero, and has no direction to compare under cosine "
            f"({zeros.size} such rows); remove it"
        )
    scaled: NDArray[np.float32] = (vectors / lengths[:, None]).astype(np.float32)
    return scaled


def check_search(
    schema: Schema,
    k: int,
    *,
    condition: Filter | None,
    nprobe: int | None,
    k_factor: float | None,
    rerank: int,
) -> SearchOptions:
    """The parameters of a search.

    Raises
    ------
    InputError
        For k outside 1..65,536, an unknown field or a value of another type in the filter, and a
        parameter that is out of range or that the collection's recipe does not have.
    """
    require(_is_int(k) and 1 <= k <= MAX_K, "k", k, f"must be an integer from 1 to {MAX_K}")
    require(_is_int(rerank) and 0 <= rerank <= MAX_K, "rerank", rerank, f"must be 0 to {MAX_K}")
    recipe = schema.recipe
    if nprobe is not None:
        require(
            recipe is not None and isinstance(recipe.structure, IVF),
            "nprobe",
            nprobe,
            "has no meaning: the collection's recipe has no inverted lists",
            "leave it out",
        )
        require(_is_int(nprobe) and nprobe >= 1, "nprobe", nprobe, "must be an integer >= 1")
    if k_factor is not None:
        require(
            recipe is not None and recipe.refine is not None,
            "k_factor",
            k_factor,
            "has no meaning: the collection's recipe does not refine",
            "leave it out",
        )
        require(k_factor >= 1, "k_factor", k_factor, "must be >= 1", "try 8")
    if condition is not None:
        check(condition, schema.fields)
    return SearchOptions(condition, nprobe, k_factor, rerank)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
