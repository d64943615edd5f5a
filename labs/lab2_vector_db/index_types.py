"""Index recipes: what is stored for each vector, what that costs, and how the index is built.

A recipe is the whole description of an index: the faiss factory string and the predicted size
follow from it, and it travels in the manifest of a saved index.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise

Metric = Literal["inner_product", "l2"]
FAISS_METRICS: dict[str, int] = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
ID_BYTES = 8  # faiss ids are int64
FLOAT_BYTES = 4
MEAN_PADDING = 15.5  # the fast-scan layout stores codes in blocks of 32


@dataclass(frozen=True)
class Flat:
    """Every vector as it is, compared with every query: exact, and the yardstick."""

    metric: Metric = "inner_product"

    def __post_init__(self) -> None:
        _require_metric(self.metric)

    @property
    def factory(self) -> str:
        """The faiss factory string."""
        return "Flat"

    def bytes_per_vector(
        self, dimension: int, *, n_vectors: int | None = None, with_ids: bool = False
    ) -> float:
        """Predicted size of one vector in the index: 4d bytes, and 8 for an id of your own.

        Parameters
        ----------
        dimension
            d, the number of components.
        n_vectors
            Unused: a flat index has no fixed part to share out.
        with_ids
            Whether the index is built with ``ids``.
        """
        return FLOAT_BYTES * dimension + (ID_BYTES if with_ids else 0)


@dataclass(frozen=True)
class IVFPQ:
    """Inverted lists over product-quantized codes, with an optional second look.

    Parameters
    ----------
    n_lists
        Cells of the coarse quantizer. faiss asks for 39 to 256 training vectors a cell.
    pq_segments
        m: the vector is cut into m pieces, each replaced by its nearest of 2**pq_bits centroids.
    pq_bits
        8, or 4 for the SIMD "fast scan" layout (half the code, tables that stay in registers).
        Training wants at least ``39 * 2**pq_bits`` vectors: 9,984 for 8 bits, 624 for 4.
    refine
        What the best ``k_factor * k`` candidates are re-scored with: nothing, the exact vectors
        (4d bytes each), or 8-bit scalars (d bytes each).
    metric
        ``"inner_product"`` (for cosine, normalise vectors and queries first) or ``"l2"``
        (faiss returns squared distances).
    nprobe
        Lists visited by a search that does not say. Stored in the index.
    k_factor
        Candidates re-scored, as a multiple of k, by a search that does not say; also stored.

    References
    ----------
    Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, 2011, section IV
    (IVFADC) and equation 8 (the code's length, m log2 k*, in bits).
    """

    n_lists: int
    pq_segments: int
    pq_bits: Literal[4, 8] = 8
    refine: Literal["none", "flat", "sq8"] = "none"
    metric: Metric = "inner_product"
    nprobe: int = 8
    k_factor: float = 8.0

    def __post_init__(self) -> None:
        require(self.n_lists >= 1, "n_lists", self.n_lists, "must be >= 1", "try 64")
        require(self.pq_segments >= 1, "pq_segments", self.pq_segments, "must be >= 1", "try 16")
        require(self.pq_bits in (4, 8), "pq_bits", self.pq_bits, "must be 4 or 8")
        require(
            self.refine in ("none", "flat", "sq8"), "refine", self.refine, "must be none, flat, sq8"
        )
        require(self.nprobe >= 1, "nprobe", self.nprobe, "must be >= 1", "try 8")
        require(self.k_factor >= 1, "k_factor", self.k_factor, "must be >= 1", "try 8")
        _require_metric(self.metric)

    @property
    def factory(self) -> str:
        """The faiss factory string, for example ``"IVF64,PQ60,RFlat"``."""
        # "fsr": fast scan on residuals to the list's centroid, as plain PQ does it.
        code = f"PQ{self.pq_segments}" + ("x4fsr" if self.pq_bits == 4 else "")
        second_look = {"none": "", "flat": ",RFlat", "sq8": ",Refine(SQ8)"}[self.refine]
        return f"IVF{self.n_lists},{code}{second_look}"

    def bytes_per_vector(
        self, dimension: int, *, n_vectors: int | None = None, with_ids: bool = False
    ) -> float:
        """Predicted size of one vector in the index, in bytes.

        ``id + code + refine = 8 + m * bits / 8 + {0, 4d, d}``. With ``n_vectors`` also its share
        of the fixed part, ``4d * (n_lists + 2**bits)``: coarse centroids and PQ codebooks; and
        for 4 bits the padding of each list to blocks of 32 codes, 15.5 codes on average.

        Parameters
        ----------
        dimension
            d, the number of components.
        n_vectors
            Vectors in the index; None leaves the fixed part out.
        with_ids
            Whether the index is built with ``ids``: a refined index then stores them once more.
        """
        segments = self.pq_segments + (self.pq_segments % 2 if self.pq_bits == 4 else 0)
        code = segments * self.pq_bits / 8
        second_look = {"none": 0, "flat": FLOAT_BYTES * dimension, "sq8": dimension}[self.refine]
        mapped = ID_BYTES if with_ids and self.refine != "none" else 0
        each = float(ID_BYTES + code + second_look + mapped)
        if n_vectors is None:
            return each
        fixed = float(FLOAT_BYTES * dimension * (self.n_lists + 2**self.pq_bits))
        padding = self.n_lists * MEAN_PADDING * code if self.pq_bits == 4 else 0.0
        return each + (fixed + padding) / n_vectors


Recipe = Flat | IVFPQ


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-ready fields, with its type under ``"type"``."""
    return {"type": type(recipe).__name__, **asdict(recipe)}


def recipe_from_dict(fields: dict[str, Any]) -> Recipe:
    """The inverse of :func:`recipe_to_dict`.

    Raises
    ------
    InputError
        For an unknown type or fields that do not belong to it.
    """
    kinds: dict[str, type[Flat] | type[IVFPQ]] = {"Flat": Flat, "IVFPQ": IVFPQ}
    kind = kinds.get(str(fields.get("type")))
    if kind is None:
        raise InputError(f"recipe type {fields.get('type')!r} is unknown; use {', '.join(kinds)}")
    rest = {name: value for name, value in fields.items() if name != "type"}
    unknown = sorted(set(rest) - set(kind.__dataclass_fields__))
    if unknown:
        raise InputError(f"recipe {fields['type']} has no field {', '.join(unknown)}")
    return kind(**rest)


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


def new_index(dimension: int, recipe: Recipe, *, seed: int = 0) -> faiss.Index:
    """The recipe's index, untrained and empty, with its seeds and search defaults set.

    Raises
    ------
    InputError
        When ``pq_segments`` does not divide ``dimension``.
    """
    if isinstance(recipe, IVFPQ):
        divisors = [m for m in range(1, dimension + 1) if dimension % m == 0]
        require(
            recipe.pq_segments in divisors,
            "pq_segments",
            recipe.pq_segments,
            f"must divide the dimension {dimension}",
            f"use one of {divisors}",
        )
    index: faiss.Index = faiss.index_factory(
        dimension, recipe.factory, FAISS_METRICS[recipe.metric]
    )
    if isinstance(recipe, IVFPQ):
        if isinstance(index, faiss.IndexRefine):
            index.k_factor = recipe.k_factor
        ivf: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
        ivf.nprobe = recipe.nprobe
        ivf.cp.seed = seed
        ivf.pq.cp.seed = seed
    return index


@exercise(
    "2.2",
    points=5,
    title="Build an index: train, wrap, add",
    hint="The quantizers learn from the vectors to be stored, before any is added. Only some "
    "index types keep ids of your own: try `add_with_ids` on each, and see what faiss offers "
    "for the others.",
)
def build_index(
    vectors: NDArray[np.float32],
    recipe: Recipe,
    *,
    ids: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> faiss.Index:
    """Train the recipe's index on the vectors and add all of them.

    ``new_index`` gives the empty index and ``check_vectors``, ``check_ids`` the checks. An
    inverted file without refinement keeps ids itself; a flat or refined index numbers its rows
    from 0, and :class:`faiss.IndexIDMap2` around it translates.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        For the cosine, normalise them first and use the metric ``inner_product``.
    recipe
        What to build.
    ids : int64 array of shape [n], optional
        The id of each vector; None numbers the rows from 0.
    seed
        Of the k-means runs of both quantizers.

    Returns
    -------
    faiss.Index
        Trained, with ``ntotal == n``.

    Raises
    ------
    InputError
        For vectors that are not finite or too few to train on, for ids of another length,
        negative or given twice (faiss itself accepts duplicates and then returns both).
    """
    vectors = check_vectors(vectors)
    _require_enough(len(vectors), recipe)
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
        return index
    ids = check_ids(ids, len(vectors))
    if isinstance(recipe, Flat) or recipe.refine != "none":
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, ids)
    return index


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
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
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


def _require_metric(metric: str) -> None:
    require(metric in FAISS_METRICS, "metric", metric, f"must be one of {list(FAISS_METRICS)}")


def _require_enough(n_vectors: int, recipe: Recipe) -> None:
    if isinstance(recipe, IVFPQ):
        least = max(recipe.n_lists, 2**recipe.pq_bits)
        require(
            n_vectors >= least,
            "number of vectors",
            n_vectors,
            f"must be >= {least} to train {recipe.factory}",
            "use fewer n_lists, pq_bits=4, or Flat",
        )
