"""How to search under a filter: by the index, with more probes, or by comparing what matches.

An index orders its lists by distance and knows nothing of the filter. Under a filter that one row
in a hundred passes, the k nearest matching rows are about the 100 k nearest of all: they lie in
more lists, and each list holds few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab2_vector_db.evaluation import recall_at_k
from labs.lab2_vector_db.search import search

SEEN_PER_NEIGHBOUR = 10  # matching vectors in the probed lists, as a multiple of k
GROWTH = 0.5  # of nprobe with 1 / selectivity: 0.2 to 0.65 measured, see lessons/filters.md
GRAPH_DEGREE = 32  # neighbours compared at each step through a graph


@dataclass(frozen=True)
class Costs:
    """Nanoseconds on one thread. Only their ratios decide a plan.

    Parameters
    ----------
    row
        To fetch one vector from anywhere in memory and compare it exactly.
    code
        To test one vector of a probed list against the filter and score its code.
    centroid
        To compare the query with the centroid of one list.
    """

    row: float
    code: float
    centroid: float

    @classmethod
    def of(cls, dimension: int) -> Costs:
        """An estimate for d components, fitted to runs at d = 96 and 384."""
        return cls(row=40 + 0.5 * dimension, code=1 + 0.03 * dimension, centroid=0.15 * dimension)


TYPICAL = Costs.of(96)


@dataclass(frozen=True)
class Plan:
    """How to search one index under a filter.

    ``"exact"``: fetch the matching rows and compare all of them. ``"index"``: search the index
    with the matching rows as selector, visiting ``nprobe`` lists (a graph: with ``ef_search``).
    ``"empty"``: nothing matches. What does not apply is 0.
    """

    kind: Literal["exact", "index", "empty"]
    nprobe: int = 0
    ef_search: int = 0


@exercise(
    "2.10",
    points=8,
    title="Plan a filtered search",
    hint="Count first what can be returned at all: a deleted row matches the filter but is no "
    "result. Then price both ways for one query. Which of the two prices does the filter lower, "
    "and what happens to the other when nprobe has to grow?",
)
def plan(
    n_rows: int,
    n_matching: int,
    *,
    k: int,
    n_lists: int | None,
    nprobe: int | None,
    n_deleted: int = 0,
    ef_search: int = 64,
    costs: Costs = TYPICAL,
) -> Plan:
    """Choose between the index and an exact scan of the matching rows, and how many lists to visit.

    With m = ``n_matching - n_deleted`` rows that can be returned, n = ``n_rows``, L = ``n_lists``
    and the selectivity s = m / n:

    1. m = 0 is ``Plan("empty")``.
    2. The index needs, rounded up and at most L, the larger of

           nprobe * s ** -GROWTH                             (neighbours are spread over more lists)
           min(nprobe / s, SEEN_PER_NEIGHBOUR * k * L / m)   (probed lists hold few that match)

       A list holds m / L matching rows on average, so the second line asks for 10 k of them, or
       for as many as the unfiltered search sees, if that is fewer. With s = 1 both are nprobe.
    3. The exact scan takes ``m * costs.row``; the index ``L * costs.centroid`` and, since lists
       hold n / L rows that match or not, deleted ones included,
       ``probes * (n / L) * costs.code``.
    4. The cheaper one is the plan; the exact scan when they are equal.

    Parameters
    ----------
    n_rows
        Rows in the index, deleted ones included, >= 1.
    n_matching
        Rows that match the filter, 0 to ``n_rows``.
    k
        Neighbours wanted, >= 1.
    n_lists, nprobe
        Lists of the index, and how many an unfiltered search visits. None for a graph
        (``plan_graph``).
    n_deleted
        Rows among the matching ones that carry a tombstone. 0 when they were not counted.
    ef_search
        Of a graph, what an unfiltered search uses.
    costs
        Of this machine and dimension.

    Returns
    -------
    Plan
        With ``nprobe`` for the index.

    Raises
    ------
    InputError
        For counts outside these limits.

    Examples
    --------
    A million rows, 1000 lists, nprobe 16, k = 10, and every 10th row matches: the growth asks for
    16 * 0.1**-0.5 = 50.6, so 51 lists, which hold 5100 matching rows.

    >>> plan(1_000_000, 100_000, k=10, n_lists=1000, nprobe=16)
    Plan(kind='index', nprobe=51, ef_search=0)
    >>> plan(1_000_000, 1000, k=10, n_lists=1000, nprobe=16)  # 0.09 ms, the index 2 ms
    Plan(kind='exact', nprobe=0, ef_search=0)

    References
    ----------
    Selinger et al.: Access Path Selection in a Relational Database Management System, SIGMOD
    1979, section 4 (the choice of an access path by its predicted cost).
    """
    check_counts(n_rows, n_matching, n_deleted, k)
    if n_lists is None or nprobe is None:
        return plan_graph(n_rows, n_matching - n_deleted, k=k, ef_search=ef_search, costs=costs)
    # BEGIN SOLUTION
    live = n_matching - n_deleted
    if live == 0:
        return Plan("empty")
    share = live / n_rows
    spread = nprobe * share**-GROWTH
    filled = min(nprobe / share, SEEN_PER_NEIGHBOUR * k * n_lists / live)
    probes = min(n_lists, math.ceil(max(spread, filled)))
    exact = live * costs.row
    by_index = n_lists * costs.centroid + probes * n_rows / n_lists * costs.code
    return Plan("exact") if exact <= by_index else Plan("index", nprobe=probes)
    # END SOLUTION


def plan_graph(
    n_rows: int, n_live: int, *, k: int, ef_search: int = 64, costs: Costs = TYPICAL
) -> Plan:
    """The same choice for HNSW.

    A walk under a selector visits the nearest ``ef_search`` nodes, matching or not, so of these
    ``ef_search * s`` can be returned. Each costs the comparison of about 32 neighbours.
    """
    if n_live == 0:
        return Plan("empty")
    share = n_live / n_rows
    width = math.ceil(max(ef_search, min(ef_search, SEEN_PER_NEIGHBOUR * k) / share))
    exact, walk = n_live * costs.row, width * GRAPH_DEGREE * costs.row
    return Plan("exact") if exact <= walk else Plan("index", ef_search=width)


def check_counts(n_rows: int, n_matching: int, n_deleted: int, k: int) -> None:
    """Compare the counts of a plan with their limits.

    Raises
    ------
    InputError
        For an impossible count.
    """
    require(n_rows >= 1, "n_rows", n_rows, "must be >= 1", "an empty index needs no plan")
    require(0 <= n_matching <= n_rows, "n_matching", n_matching, f"must be 0 to {n_rows}")
    require(0 <= n_deleted <= n_matching, "n_deleted", n_deleted, f"must be 0 to {n_matching}")
    require(k >= 1, "k", k, "must be >= 1")


@dataclass(frozen=True)
class FilteredRecall:
    """Recall@k at one selectivity, by three ways of filtering; ``returned`` is a mean per query.

    ``planned`` is :func:`plan`'s way, ``fixed_nprobe`` gives the index a selector and nothing
    else, ``post_filter`` drops what does not match from the unfiltered k nearest.
    """

    selectivity: float
    n_matching: int
    chosen: Plan
    planned: float
    fixed_nprobe: float
    post_filter: float
    returned_fixed_nprobe: float
    returned_post_filter: float


def sweep(
    index: faiss.Index,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    k: int = 10,
    nprobe: int,
    selectivities: Sequence[float] = (1.0, 0.1, 0.01, 0.001),
    seed: int = 0,
) -> list[FilteredRecall]:
    """Measure filtered recall with filters that pass rows at random.

    Parameters
    ----------
    index
        An inverted file over the vectors; the ids are the rows.
    vectors : float32 array of shape [n, d]
    queries : float32 array of shape [q, d]
    k
        Neighbours.
    nprobe
        Lists that an unfiltered search visits.
    selectivities
        Shares of the rows that the filters let through.
    seed
        Of the filters.
    """
    rng = np.random.default_rng(seed)
    costs = Costs.of(vectors.shape[1])
    _, unfiltered = search(index, queries, k, nprobe=nprobe)
    measured = []
    for share in selectivities:
        mask = rng.permutation(len(vectors)) < max(k, round(share * len(vectors)))
        rows = np.flatnonzero(mask)
        true = _exact(index, vectors, queries, k, rows)
        selector: Any = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
        n_lists = faiss.extract_index_ivf(index).nlist
        chosen = plan(len(mask), len(rows), k=k, n_lists=n_lists, nprobe=nprobe, costs=costs)
        planned = true
        if chosen.kind == "index":
            _, planned = search(index, queries, k, nprobe=chosen.nprobe, selector=selector)
        _, fixed = search(index, queries, k, nprobe=nprobe, selector=selector)
        after = np.where((unfiltered >= 0) & mask[unfiltered], unfiltered, -1)
        measured.append(
            FilteredRecall(
                float(mask.mean()),
                len(rows),
                chosen,
                *(float(recall_at_k(found, true).mean()) for found in (planned, fixed, after)),
                *(float((found >= 0).sum(axis=1).mean()) for found in (fixed, after)),
            )
        )
    return measured


def _exact(
    index: faiss.Index,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    _, places = faiss.knn(queries, vectors[rows], k, metric=index.metric_type)  # type: ignore[no-untyped-call]
    found: NDArray[np.int64] = rows[places]
    return found
