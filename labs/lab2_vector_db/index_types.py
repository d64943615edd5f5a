"""Index recipes: where a search looks, what is stored for each vector, and how it is refined.

A recipe is the whole description of an index. The faiss factory string, the predicted size
(:mod:`.cost_model`) and the built index (:mod:`.index_building`) follow from it, and it travels in
the manifest of a saved index. What faiss cannot build is refused here, when the recipe is made.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

import faiss

from common.errors import InputError, require
from labs.lab2_vector_db.vectors import check_ids as check_ids
from labs.lab2_vector_db.vectors import check_vectors as check_vectors
from labs.lab2_vector_db.vectors import normalize as normalize

Metric = Literal["inner_product", "l2"]
FAISS_METRICS: dict[str, int] = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


@dataclass(frozen=True)
class Flat:
    """Every stored code is compared with every query."""

    @property
    def factory(self) -> str:
        """Its part of the factory string: nothing."""
        return ""


@dataclass(frozen=True)
class IVF:
    """Inverted lists: a search visits the ``nprobe`` cells whose centroids are nearest.

    Parameters
    ----------
    n_lists
        Cells of the coarse quantizer. The faiss wiki takes 65,536 for 1 to 10 million vectors.
    centroids
        How the nearest centroids are found: ``"flat"`` compares all of them, ``"hnsw"`` walks a
        graph over them (worth it from some 10,000 lists on).
    nprobe
        Lists visited by a search that does not say. Stored in the index.
    points_per_centroid
        k-means uses at most this many training vectors a centroid, drawn at random; faiss warns
        below 39. It takes ``niter * points_per_centroid * n_lists**2 * d`` multiplications.
    niter
        Iterations of that k-means.
    centroid_ef_search
        Width of the walk over the centroids with ``"hnsw"``; at least ``nprobe`` is used.

    References
    ----------
    Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, 2011, section IV.
    """

    n_lists: int
    _: KW_ONLY
    centroids: Literal["flat", "hnsw"] = "flat"
    nprobe: int = 8
    points_per_centroid: int = 64
    niter: int = 10
    centroid_ef_search: int = 64

    def __post_init__(self) -> None:
        require(self.n_lists >= 1, "n_lists", self.n_lists, "must be >= 1", "try 64")
        _one_of("centroids", self.centroids, ("flat", "hnsw"))
        _at_least_one(self, "nprobe", "points_per_centroid", "niter", "centroid_ef_search")

    @property
    def factory(self) -> str:
        """Its part of the factory string, for example ``"IVF64"``."""
        return f"IVF{self.n_lists}" + ("_HNSW32" if self.centroids == "hnsw" else "")


@dataclass(frozen=True)
class HNSW:
    """A graph: from an entry point always on to the neighbours nearest to the query.

    Parameters
    ----------
    m
        Links a vector on each layer, and 2m on the lowest, which holds all vectors.
    ef_construction
        Candidates kept while a vector is inserted.
    ef_search
        Candidates kept by a search that does not say. Stored in the index.

    References
    ----------
    Malkov, Yashunin: Hierarchical Navigable Small World graphs, 2018, algorithms 1 and 5.
    """

    m: int = 32
    _: KW_ONLY
    ef_construction: int = 40
    ef_search: int = 64

    def __post_init__(self) -> None:
        require(2 <= self.m <= 512, "m", self.m, "must be from 2 to 512", "try 32")
        _at_least_one(self, "ef_construction", "ef_search")

    @property
    def factory(self) -> str:
        """Its part of the factory string, for example ``"HNSW32"``."""
        return f"HNSW{self.m}"


@dataclass(frozen=True)
class Exact:
    """The vector itself: 4 bytes a component."""


@dataclass(frozen=True)
class PQ:
    """Product quantization: each of ``segments`` pieces becomes its nearest of 2**bits centroids.

    Parameters
    ----------
    segments
        Pieces; must divide the dimension (after a rotation: its output dimension).
    bits
        8, or 4: half the code, and under :class:`IVF` and :class:`Flat` the "fast scan" layout,
        whose tables stay in SIMD registers. Training wants ``39 * 2**bits`` vectors or more.
    residual
        Under :class:`IVF`, encode what is left after the list's centroid is subtracted.

    References
    ----------
    Jégou, Douze, Schmid, 2011, equation 8 (code length: segments * bits). André, Kermarrec,
    Le Scouarnec: Quicker ADC, 2018 (4-bit fast scan).
    """

    segments: int
    bits: Literal[8, 4] = 8
    _: KW_ONLY
    residual: bool = True

    def __post_init__(self) -> None:
        require(self.segments >= 1, "segments", self.segments, "must be >= 1", "try 16")
        _one_of("bits", self.bits, (4, 8))


@dataclass(frozen=True)
class SQ:
    """Scalar quantization: each component on a grid of 2**bits steps; 16 is half precision."""

    bits: Literal[8, 6, 4, 16] = 8

    def __post_init__(self) -> None:
        _one_of("bits", self.bits, (4, 6, 8, 16))

    @property
    def factory(self) -> str:
        """Its name in a factory string, for example ``"SQ8"``."""
        return "SQfp16" if self.bits == 16 else f"SQ{self.bits}"


@dataclass(frozen=True)
class RaBitQ:
    """The sign of each component after a random rotation, and factors that unbias the estimate.

    Without :class:`RandomRotation` its error bound does not hold. ``bits`` (1 to 8) a component.
    Fast scan under :class:`IVF` and :class:`Flat`.

    References
    ----------
    Gao, Long: RaBitQ, 2024, theorem 3.2; Gao et al.: Extended RaBitQ, 2025 (more bits).
    """

    bits: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 8, "bits", self.bits, "must be from 1 to 8", "try 1")


@dataclass(frozen=True)
class OPQ:
    """A rotation learned so that product quantization with as many segments loses least.

    Parameters
    ----------
    segments
        Of the :class:`PQ` that follows.
    dimension
        Of the rotated vectors; None keeps d. A smaller one drops directions of little variance.
    niter
        Alternations between codebooks and rotation; faiss's own default is 50.
    max_train_points
        Training vectors used, at most; faiss's own default is 65,536.

    References
    ----------
    Ge, He, Ke, Sun: Optimized Product Quantization, 2013, algorithm 1.
    """

    segments: int
    dimension: int | None = None
    _: KW_ONLY
    niter: int = 20
    max_train_points: int = 32_768

    def __post_init__(self) -> None:
        _at_least_one(self, "segments", "niter", "max_train_points")
        if self.dimension is not None:
            require(
                self.dimension >= 1 and self.dimension % self.segments == 0,
                "dimension",
                self.dimension,
                f"must be a multiple of segments = {self.segments}",
            )


@dataclass(frozen=True)
class RandomRotation:
    """A random orthogonal matrix: spreads the variance evenly over the components."""


# --- the recipe --------------------------------------------------------------------------------

Structure = Flat | IVF | HNSW
Code = Exact | PQ | SQ | RaBitQ
Rotation = OPQ | RandomRotation
Refine = Exact | SQ
PARTS: dict[str, type] = {part.__name__: part for part in get_args(Structure | Code | Rotation)}


@dataclass(frozen=True)
class Recipe:
    """An index, in full: rotate, look in the structure, compare codes, refine.

    Parameters
    ----------
    structure
        Where a search looks.
    code
        What is stored for each vector and compared with the query.
    rotation
        Applied to vectors and queries before; None for nothing.
    refine
        What the best ``k_factor * k`` candidates are scored again with; None for nothing.
    k_factor
        Candidates to refine, as a multiple of k, by a search that does not say. Stored in the
        index.
    metric
        ``"inner_product"`` (for the cosine, normalise vectors and queries first) or ``"l2"``
        (faiss returns squared distances).

    Raises
    ------
    InputError
        For a combination that faiss does not have.

    Examples
    --------
    >>> Recipe(IVF(4096), PQ(48, 4), rotation=OPQ(48), refine=SQ(8)).factory
    'OPQ48,IVF4096,PQ48x4fsr,Refine(SQ8)'
    """

    structure: Structure = Flat()
    code: Code = Exact()
    rotation: Rotation | None = None
    refine: Refine | None = None
    k_factor: float = 8.0
    metric: Metric = "inner_product"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("structure", Structure),
            ("code", Code),
            ("rotation", Rotation | None),
            ("refine", Refine | None),
        ):
            value = getattr(self, name)
            require(isinstance(value, allowed), name, value, f"must be one of {allowed}")
        require(self.k_factor >= 1, "k_factor", self.k_factor, "must be >= 1", "try 8")
        _one_of("metric", self.metric, tuple(FAISS_METRICS))
        _require_combination(self)

    @property
    def factory(self) -> str:
        """The faiss factory string; a rotation to fewer dimensions names them."""
        rotation = ""
        if isinstance(self.rotation, OPQ):
            kept = f"_{self.rotation.dimension}" if self.rotation.dimension else ""
            rotation = f"OPQ{self.rotation.segments}{kept}"
        elif isinstance(self.rotation, RandomRotation):
            rotation = "RR"
        refine = ""
        if isinstance(self.refine, Exact):
            refine = "RFlat"
        elif isinstance(self.refine, SQ):
            refine = f"Refine({self.refine.factory})"
        parts = (rotation, self.structure.factory, _code_factory(self), refine)
        return ",".join(part for part in parts if part)

    @property
    def fast_scan(self) -> bool:
        """Whether codes lie in blocks of 32 that one SIMD instruction compares at once."""
        four_bits = isinstance(self.code, PQ) and self.code.bits == 4
        return not isinstance(self.structure, HNSW) and (four_bits or isinstance(self.code, RaBitQ))

    @property
    def keeps_ids(self) -> bool:
        """Whether the index stores ids of your own; others number their rows from 0."""
        return isinstance(self.structure, IVF) and self.refine is None

    def code_dimension(self, dimension: int) -> int:
        """Components of a vector of ``dimension`` components after the rotation."""
        if isinstance(self.rotation, OPQ) and self.rotation.dimension:
            return self.rotation.dimension
        return dimension

    def bytes_per_vector(
        self, dimension: int, *, n_vectors: int | None = None, with_ids: bool = False
    ) -> float:
        """Predicted size of one vector in the index; see :func:`.cost_model.bytes_per_vector`."""
        from labs.lab2_vector_db.cost_model import bytes_per_vector

        return bytes_per_vector(self, dimension, n_vectors=n_vectors, with_ids=with_ids)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-ready fields; each part carries its type under ``"type"``."""
    written: dict[str, Any] = {}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        part = type(value).__name__ in PARTS
        written[field.name] = {"type": type(value).__name__, **asdict(value)} if part else value
    return written


def recipe_from_dict(written: dict[str, Any]) -> Recipe:
    """The inverse of :func:`recipe_to_dict`.

    Raises
    ------
    InputError
        For an unknown part, or fields that do not belong to it.
    """
    values = {
        name: _part_from_dict(name, value) if isinstance(value, dict) else value
        for name, value in written.items()
    }
    _require_fields("recipe", Recipe, values)
    return Recipe(**values)


def _code_factory(recipe: Recipe) -> str:
    code = recipe.code
    if isinstance(code, PQ):
        # np: without the annealing for polysemous codes, which takes most of the training time
        # and which no search here uses.
        scan = "np"
        if recipe.fast_scan:
            scan = "fsr" if isinstance(recipe.structure, IVF) and code.residual else "fs"
        return f"PQ{code.segments}" + ("x4" if code.bits == 4 else "") + scan
    if isinstance(code, SQ):
        return code.factory
    if isinstance(code, RaBitQ):
        scan = "fs" if recipe.fast_scan else ""
        return f"RaBitQ{scan}" + (str(code.bits) if code.bits > 1 else "")
    return "Flat"


def _require_combination(recipe: Recipe) -> None:
    code, rotation = recipe.code, recipe.rotation
    if isinstance(recipe.structure, HNSW) and isinstance(code, PQ | RaBitQ):
        # The factory builds HNSW over PQ for L2 whatever metric it is given, without an error.
        require(
            recipe.metric == "l2",
            "metric",
            recipe.metric,
            f"must be l2: faiss has HNSW over {type(code).__name__} codes for l2 only",
            "normalise and use l2 (the same order), or code=SQ(8)",
        )
    if isinstance(code, Exact):
        fix = "leave refine out, or take a code that is smaller"
        require(recipe.refine is None, "refine", recipe.refine, "refines vectors kept exactly", fix)
    if isinstance(rotation, OPQ):
        segments = code.segments if isinstance(code, PQ) else None
        require(
            segments == rotation.segments,
            "rotation",
            rotation,
            f"must have the segments of the code it is learned for, {code}",
            "use RandomRotation() before SQ and RaBitQ",
        )


def _part_from_dict(name: str, written: dict[str, Any]) -> Any:
    kind = PARTS.get(str(written.get("type")))
    if kind is None:
        raise InputError(
            f"{name}: type {written.get('type')!r} is unknown; use one of {', '.join(PARTS)}"
        )
    values = {key: value for key, value in written.items() if key != "type"}
    _require_fields(str(written["type"]), kind, values)
    return kind(**values)


def _require_fields(name: str, kind: type, values: dict[str, Any]) -> None:
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    for key, field in known.items():
        if field.default is MISSING and key not in values:
            raise InputError(f"{name} lacks the field {key}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    require(value in allowed, name, value, f"must be one of {list(allowed)}")


def _at_least_one(part: Any, *names: str) -> None:
    for name in names:
        require(getattr(part, name) >= 1, name, getattr(part, name), "must be >= 1")
