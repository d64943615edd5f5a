"""What an index costs before it is built: bytes by part, and the work of one query.

Memory is exact arithmetic, and the tests hold it against what faiss writes. Time is a model: it
counts what a query reads and computes, and a roofline over measured rates gives a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from common.errors import require
from common.exercises import exercise
from labs.lab2_vector_db.index_types import HNSW, IVF, PQ, SQ, Exact, RaBitQ, Recipe

ID_BYTES = 8  # faiss ids are int64
FLOAT_BYTES = 4
LINK_BYTES = 4  # a neighbour in a graph is an int32 row number
CENTROID_LINKS = 32  # the m of the graph over centroids ("IVF..._HNSW32")
BLOCK = 32  # codes in a block of the fast-scan layout
MEAN_PADDING = (BLOCK - 1) / 2  # of a list whose length is any number modulo 32
TABLE_LIMIT = 2 << 30  # faiss keeps no table above this size (precomputed_table_max_bytes)


@dataclass(frozen=True)
class Memory:
    """Bytes of an index by part, all vectors together."""

    ids: float = 0.0
    """An id for each vector."""
    codes: float = 0.0
    """The code of each vector."""
    graph: float = 0.0
    """Links between vectors (HNSW)."""
    refine: float = 0.0
    """What candidates are scored again with."""
    padding: float = 0.0
    """Empty places in the last block of 32 codes, of each list or of the whole index."""
    centroids: float = 0.0
    """Of the inverted lists, and the graph over them."""
    codebooks: float = 0.0
    """What the code was trained to: PQ centroids, SQ ranges, the centre of RaBitQ."""
    rotation: float = 0.0
    """The matrix."""

    @property
    def per_vector(self) -> float:
        """The parts that grow with every vector; the others are fixed when training ends."""
        return self.ids + self.codes + self.graph + self.refine

    @property
    def total(self) -> float:
        """All parts."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def code_bytes(recipe: Recipe, dimension: int) -> int:
    """Bytes of one code in the recipe's structure.

    With d the dimension after the rotation: exact ``4d``; SQ ``d * bits / 8``, rounded up; PQ
    ``segments * bits / 8``, rounded up (in the fast-scan layout the segments are even); RaBitQ
    ``d / 8`` of signs and 2 floats, and with more bits ``(bits - 1) * d / 8`` and 3 floats more.
    """
    d, code = recipe.code_dimension(dimension), recipe.code
    if isinstance(code, PQ):
        segments = code.segments + (code.segments % 2 if recipe.fast_scan else 0)
        return _bytes(segments * code.bits)
    if isinstance(code, RaBitQ):
        more = _bytes((code.bits - 1) * d) + 3 * FLOAT_BYTES if code.bits > 1 else 0
        return _bytes(d) + 2 * FLOAT_BYTES + more
    return _vector_bytes(code, d)


def graph_bytes(m: int) -> float:
    """Bytes of one vector's place in an HNSW graph, codes left out.

    ``4 * (2m + m / (m - 1)) + 4 + 8``: 2m links on the lowest layer; m on each layer above, of
    which a vector reaches ``1 / (m - 1)`` on average, since every m-th climbs one; its level and
    the offset of its links.
    """
    return LINK_BYTES * (2 * m + m / (m - 1)) + 4 + 8


@exercise(
    "2.12",
    points=4,
    title="What an index weighs, before it is built",
    hint="Go through the layers from the outside in and ask of each what it stores for a vector "
    "and what it stores once. Two layers may each keep an id; one layer knows no rotation.",
)
def memory(recipe: Recipe, dimension: int, n_vectors: int, *, with_ids: bool = False) -> Memory:
    """The bytes of the recipe's index by part, as faiss writes it.

    With n vectors, d components before and d' after the rotation (``recipe.code_dimension``):

    - ids: 8n in inverted lists; 8n more in the ``IndexIDMap2`` around an index that does not keep
      ids of your own (``recipe.keeps_ids``), when it is built ``with_ids``.
    - codes: n * :func:`code_bytes`.
    - graph: n * :func:`graph_bytes` (m), for HNSW.
    - refine: 4d (exact) or d * bits / 8 (SQ) for each vector as it was *before* the rotation.
    - padding, for a fast-scan recipe: a list of l codes occupies the next multiple of 32. Over
      ``n_lists`` lists that is ``MEAN_PADDING`` = 15.5 codes each on average; without lists the
      whole index is one.
    - centroids: 4d' each of ``n_lists``, and :func:`graph_bytes` (``CENTROID_LINKS``) with
      ``centroids="hnsw"``.
    - codebooks: PQ ``4d' * 2**bits``; SQ two ranges, ``8d'`` (none for 16 bits); RaBitQ its
      centre, ``4d'``, without lists only. The refining SQ likewise has ``8d``.
    - rotation: ``4 d d'``.

    Parameters
    ----------
    recipe
        What would be built.
    dimension
        d.
    n_vectors
        n.
    with_ids
        Whether the index is built with ids of your own.

    Returns
    -------
    Memory

    Examples
    --------
    >>> memory(Recipe(IVF(64), PQ(16, 8)), dimension=64, n_vectors=10_000).codes
    160000.0

    References
    ----------
    Jégou, Douze, Schmid, 2011, section V.C; Malkov, Yashunin, 2018, section 4.2.3 (which counts
    the lowest layer's links as M_max0 = 2M, like faiss).
    """
    kept = recipe.code_dimension(dimension)
    structure, code = recipe.structure, recipe.code
    lists = structure.n_lists if isinstance(structure, IVF) else 0
    each = code_bytes(recipe, dimension)

    in_lists = ID_BYTES if lists else 0
    mapped = ID_BYTES if with_ids and not recipe.keeps_ids else 0
    padding = 0.0
    if recipe.fast_scan:
        padding = lists * MEAN_PADDING if lists else float(-n_vectors % BLOCK)
    centroid = float(FLOAT_BYTES * kept)
    if isinstance(structure, IVF) and structure.centroids == "hnsw":
        centroid += graph_bytes(CENTROID_LINKS)
    codebooks = 0
    if isinstance(code, PQ):
        codebooks = FLOAT_BYTES * kept * 2**code.bits
    elif isinstance(code, SQ):
        codebooks = _range_bytes(code, kept)
    elif isinstance(code, RaBitQ) and not lists:
        codebooks = FLOAT_BYTES * kept
    refined = 0
    if recipe.refine is not None:
        refined = _vector_bytes(recipe.refine, dimension)
        codebooks += _range_bytes(recipe.refine, dimension)
    return Memory(
        ids=float(n_vectors * (in_lists + mapped)),
        codes=float(n_vectors * each),
        graph=n_vectors * graph_bytes(structure.m) if isinstance(structure, HNSW) else 0.0,
        refine=float(n_vectors * refined),
        padding=padding * each,
        centroids=float(lists * centroid),
        codebooks=float(codebooks),
        rotation=float(FLOAT_BYTES * dimension * kept) if recipe.rotation else 0.0,
    )


def bytes_per_vector(
    recipe: Recipe, dimension: int, *, n_vectors: int | None = None, with_ids: bool = False
) -> float:
    """Predicted size of one vector in the index, in bytes.

    Parameters
    ----------
    recipe, dimension, with_ids
        See :func:`memory`.
    n_vectors
        Vectors in the index, which share its fixed part; None leaves the fixed part out.
    """
    require(dimension >= 1, "dimension", dimension, "must be >= 1")
    if n_vectors is None:
        return memory(recipe, dimension, 1, with_ids=with_ids).per_vector
    require(n_vectors >= 1, "n_vectors", n_vectors, "must be >= 1")
    return memory(recipe, dimension, n_vectors, with_ids=with_ids).total / n_vectors


def table_bytes(recipe: Recipe, dimension: int) -> int:
    """Bytes that a loaded index holds and its file does not: tables of a residual PQ under l2.

    ``4 * n_lists * segments * 2**bits``: for every list the part of the distance that depends on
    the list and the code only. faiss computes them when it reads the index, and keeps none where
    they would exceed 2 GiB. 16,384 lists with PQ48 of 8 bits: 805 MB.
    """
    structure, code = recipe.structure, recipe.code
    if not (isinstance(structure, IVF) and isinstance(code, PQ) and code.residual):
        return 0
    if recipe.metric != "l2":
        return 0
    size = FLOAT_BYTES * structure.n_lists * code.segments * 2**code.bits
    return size if size <= TABLE_LIMIT else 0


@dataclass(frozen=True)
class QueryCost:
    """What one query reads and computes, on average."""

    centroids: float
    """Distances to centroids of the inverted lists."""
    codes: float
    """Codes compared with the query."""
    refined: float
    """Candidates scored again."""
    multiplications: float
    """Of rotation, centroids, look-up tables, exact and SQ distances, and refinement."""
    lookups: float
    """Table entries added up: one a PQ segment, one for 4 bits of a RaBitQ code."""
    bytes_read: float
    """Centroids, codes, links and refining vectors."""
    approximate: bool
    """Whether the number of codes is an estimate (a graph) and not the mean over all queries."""


def query_cost(
    recipe: Recipe,
    dimension: int,
    n_vectors: int,
    *,
    k: int = 10,
    nprobe: int | None = None,
    k_factor: float | None = None,
    ef_search: int | None = None,
    imbalance: float = 1.0,
) -> QueryCost:
    """The expected work of one query.

    Inverted lists: ``n * nprobe / n_lists * imbalance`` codes. A graph: :func:`visited`, an
    estimate. Refinement: ``k * k_factor`` vectors. Two things are not modelled: what is cached
    between queries, and that of a RaBitQ code of several bits only promising candidates are read
    beyond the first bit.

    Parameters
    ----------
    recipe, dimension, n_vectors
        The index: d components, n vectors.
    k
        Neighbours asked for.
    nprobe, k_factor, ef_search
        Of this search; None takes the recipe's.
    imbalance
        ``n_lists * sum(l_i**2) / n**2`` over the lists' lengths, ``faiss.InvertedLists``'
        ``imbalance_factor()``: 1 when all are equal. Queries fall into long lists more often.
    """
    require(n_vectors >= 1, "n_vectors", n_vectors, "must be >= 1")
    require(imbalance >= 1, "imbalance", imbalance, "must be >= 1", "1 is equal lists")
    structure, code = recipe.structure, recipe.code
    d = recipe.code_dimension(dimension)
    each = code_bytes(recipe, dimension)
    centroids = links = 0.0
    codes, lists = float(n_vectors), 1
    if isinstance(structure, IVF):
        lists = min(structure.nprobe if nprobe is None else nprobe, structure.n_lists)
        codes = min(n_vectors * lists / structure.n_lists * imbalance, float(n_vectors))
        centroids = float(structure.n_lists)
        if structure.centroids == "hnsw":
            ef = max(structure.centroid_ef_search, lists)
            centroids = visited(structure.n_lists, CENTROID_LINKS, ef)
            links = ef * 2 * CENTROID_LINKS
    elif isinstance(structure, HNSW):
        ef = max(structure.ef_search if ef_search is None else ef_search, k)
        codes = visited(n_vectors, structure.m, ef)
        links = ef * 2 * structure.m
    lookups = multiplications = 0.0
    if isinstance(code, PQ):
        lookups = codes * code.segments
        tables = lists if isinstance(structure, IVF) and code.residual else 1
        multiplications += 2**code.bits * d + (tables - 1) * 2**code.bits * code.segments
    elif isinstance(code, RaBitQ) and recipe.fast_scan:
        lookups = codes * math.ceil(d / 4)
    else:
        multiplications += codes * d
    refined = 0.0
    refined_bytes = 0
    if recipe.refine is not None:
        refined = min(k * (recipe.k_factor if k_factor is None else k_factor), codes)
        refined_bytes = _vector_bytes(recipe.refine, dimension)
    rotation = dimension * d if recipe.rotation else 0
    multiplications += rotation + centroids * d + refined * dimension
    return QueryCost(
        centroids=centroids,
        codes=codes,
        refined=refined,
        multiplications=multiplications,
        lookups=lookups,
        bytes_read=FLOAT_BYTES * (centroids * d + rotation)
        + codes * each
        + LINK_BYTES * links
        + refined * refined_bytes,
        approximate=isinstance(structure, HNSW),
    )


def visited(n_vectors: int, m: int, ef_search: int) -> float:
    """Vectors that a walk through an HNSW graph compares with the query: an approximation.

    ``min(n, m * (ef + log n / log m))``: about ef vectors are expanded on the lowest layer and
    one on each layer above, and half of the 2m links of each lead to a vector not seen before.
    Right within a factor of two on word vectors and on Gaussian noise for m of 8 to 32 and ef of
    16 to 128; vectors in tight clusters share their neighbours, and several times fewer are new.
    """
    return min(float(n_vectors), m * (ef_search + math.log(max(n_vectors, 2)) / math.log(m)))


@dataclass(frozen=True)
class Roofline:
    """The time of one query on one thread by resource, in seconds, if each were the only one.

    An index that fits into the cache reads faster than this.
    """

    memory_s: float
    arithmetic_s: float
    lookup_s: float

    @property
    def seconds(self) -> float:
        """The slowest of the three, with the others hidden behind it."""
        return max(self.memory_s, self.arithmetic_s, self.lookup_s)

    @property
    def limited_by(self) -> str:
        """``"memory"``, ``"arithmetic"`` or ``"lookup"``."""
        times = {
            "memory": self.memory_s,
            "arithmetic": self.arithmetic_s,
            "lookup": self.lookup_s,
        }
        return max(times, key=lambda name: times[name])


def roofline(
    cost: QueryCost,
    *,
    bytes_per_s: float,
    multiplications_per_s: float,
    lookups_per_s: float,
) -> Roofline:
    """Divide a query's work by rates that were measured on this machine, on one thread.

    Parameters
    ----------
    cost
        From :func:`query_cost`.
    bytes_per_s
        Of reading memory that is not cached.
    multiplications_per_s
        Of float32 multiply-adds.
    lookups_per_s
        Of table look-ups: much higher for 4-bit codes, whose tables lie in registers.

    References
    ----------
    Williams, Waterman, Patterson: Roofline: An Insightful Visual Performance Model, 2009.
    """
    for name, rate in (
        ("bytes_per_s", bytes_per_s),
        ("multiplications_per_s", multiplications_per_s),
        ("lookups_per_s", lookups_per_s),
    ):
        require(rate > 0, name, rate, "must be > 0", "measure it on this machine")
    return Roofline(
        memory_s=cost.bytes_read / bytes_per_s,
        arithmetic_s=cost.multiplications / multiplications_per_s,
        lookup_s=cost.lookups / lookups_per_s,
    )


def _vector_bytes(code: Exact | SQ, dimension: int) -> int:
    return _bytes(dimension * code.bits) if isinstance(code, SQ) else FLOAT_BYTES * dimension


def _range_bytes(code: Exact | SQ, dimension: int) -> int:
    ranged = isinstance(code, SQ) and code.bits < 16
    return 2 * FLOAT_BYTES * dimension if ranged else 0


def _bytes(bits: int) -> int:
    return (bits + 7) // 8
