"""What fusion gains: BM25, dense and both on known-item queries, with intervals.

Every setting is chosen on the validation queries; the test queries are used once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.errors import require
from common.statistics import bootstrap_ci
from labs.lab2_vector_db.evaluation import exact_search
from labs.lab2_vector_db.hybrid_search import (
    NORMALIZATIONS,
    Fusion,
    Ids,
    RankFusion,
    ScoreFusion,
    Scores,
)
from labs.lab2_vector_db.known_item import KnownItems, Query, known_items, true_ids
from labs.lab2_vector_db.ranking_metrics import in_rank_order, mrr_at_k, ndcg_at_k, success_at_k
from labs.lab2_vector_db.sparse_search import BM25Index

K = 10
N_BOOT = 2_000
DEPTHS = (50, 200)
RANK_CONSTANTS = (1.0, 5.0, 10.0, 20.0, 60.0)
DENSE_WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SystemScore:
    """One system on the test queries of one kind (``"all"``, ``"sentence"``, ``"keywords"``).

    ``gain`` is nDCG@10 less that of ``over``, the better of BM25 and dense on these very queries:
    the mean of the differences query by query. None for BM25 and dense themselves. ``chosen``
    marks the fusion that was best on the validation queries: hybrid search is judged by that one,
    not by the best of several on the test queries.
    """

    system: str
    setting: str
    kind: str
    n_queries: int
    ndcg_at_10: Interval
    mrr_at_10: Interval
    success_at_1: float
    success_at_10: float
    gain: Interval | None = None
    over: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class HybridReport:
    """The systems' scores, and what they were measured on."""

    scores: list[SystemScore]
    n_documents: int
    n_validation: int
    n_test: int
    max_tokens: int
    dropped: dict[str, int]

    @property
    def hybrid(self) -> SystemScore:
        """The chosen fusion on all test queries: the deliverable is ``hybrid.gain.low > 0``."""
        return next(row for row in self.scores if row.chosen and row.kind == "all")

    def score(self, system: str, kind: str = "all") -> SystemScore:
        """One row of the table."""
        return next(row for row in self.scores if (row.system, row.kind) == (system, kind))


@dataclass(frozen=True)
class Candidates:
    """What both searches return for some queries, and what they should."""

    dense: tuple[Scores, Ids]
    sparse: tuple[Scores, Ids]
    true_ids: Ids


def measure(
    *,
    n_documents: int = 20_000,
    n_validation: int = 500,
    n_test: int = 1_000,
    max_tokens: int = 64,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HybridReport:
    """Embed the docstrings (cached), index them twice, and compare the systems.

    Parameters
    ----------
    n_documents, n_validation, n_test, seed
        See `known_items`.
    max_tokens
        Of a document that the encoder reads; BM25 reads all of it.
    device, progress
        See `cached_embeddings`.
    """
    from labs.lab2_vector_db.embedding import cached_embeddings

    table = load("docstrings").table("docstrings")
    items = known_items(
        table, n_documents=n_documents, n_validation=n_validation, n_test=n_test, seed=seed
    )
    documents = cached_embeddings(
        items.texts, device=device, max_tokens=max_tokens, progress=progress
    )
    queries = cached_embeddings(
        [query.text for query in [*items.validation, *items.test]], device=device
    )
    scores = evaluate(
        items,
        documents,
        validation_vectors=queries[:n_validation],
        test_vectors=queries[n_validation:],
        seed=seed,
    )
    return HybridReport(scores, n_documents, n_validation, n_test, max_tokens, items.dropped)


def evaluate(
    items: KnownItems,
    document_vectors: NDArray[np.float32],
    *,
    validation_vectors: NDArray[np.float32],
    test_vectors: NDArray[np.float32],
    seed: int = 0,
) -> list[SystemScore]:
    """BM25, dense, RRF as published, RRF and weighted scores as chosen on the validation queries.

    Dense search is exact here: an approximate index would mix its recall into the comparison.

    Parameters
    ----------
    items
        Documents and queries.
    document_vectors : float32 array of shape [n, d]
        Of length 1.
    validation_vectors, test_vectors : float32 arrays of shape [q, d]
        Of the queries, in their order.
    seed
        Of the bootstrap.

    Returns
    -------
    list of SystemScore
        Five systems for all test queries, then for each kind.

    Raises
    ------
    InputError
        Without validation queries.
    """
    require(
        len(items.validation) > 0, "n_validation", 0, "must be >= 1", "fusion is chosen on them"
    )
    index = BM25Index(items.ids, items.texts)
    validation = _candidates(items, index, document_vectors, items.validation, validation_vectors)
    test = _candidates(items, index, document_vectors, items.test, test_vectors)
    by_rank, by_score = choose(validation)
    fused: dict[str, tuple[str, Fusion]] = {
        "rrf": ("constant 60, equal weights, depth 100, as published", RankFusion()),
        "rrf, chosen": (_told(by_rank), by_rank),
        "weighted scores": (_told(by_score), by_score),
    }
    chosen = max(fused, key=lambda name: _mean_ndcg(fused[name][1], validation))
    found = {
        "bm25": ("k1 1.2, b 0.75", test.sparse[1]),
        "dense": ("MiniLM, exact", test.dense[1]),
        **{
            name: (setting, fusion.fuse(test.dense, test.sparse, K)[1])
            for name, (setting, fusion) in fused.items()
        },
    }
    kinds = np.array([query.kind for query in items.test])
    rows = {"all": np.ones(len(kinds), dtype=bool)}
    rows |= {str(kind): kinds == kind for kind in dict.fromkeys(kinds.tolist())}
    return [
        score
        for kind, members in rows.items()
        for score in _scores(found, test.true_ids, members, kind, chosen, seed)
    ]


def choose(validation: Candidates) -> tuple[RankFusion, ScoreFusion]:
    """The settings of either fusion with the best mean nDCG@10 on the validation queries.

    Of equal ones the first; the grids are the constants of this module.
    """
    by_rank = [
        RankFusion(constant, weight, depth)
        for depth in DEPTHS
        for constant in RANK_CONSTANTS
        for weight in DENSE_WEIGHTS
    ]
    by_score = [
        ScoreFusion(normalization, weight, depth)  # type: ignore[arg-type]
        for depth in DEPTHS
        for normalization in NORMALIZATIONS
        for weight in DENSE_WEIGHTS
    ]
    return (
        max(by_rank, key=lambda fusion: _mean_ndcg(fusion, validation)),
        max(by_score, key=lambda fusion: _mean_ndcg(fusion, validation)),
    )


def _mean_ndcg(fusion: Fusion, on: Candidates) -> float:
    _, ids = fusion.fuse(on.dense, on.sparse, K)
    return float(ndcg_at_k(ids, on.true_ids, k=K).mean())


def _candidates(
    items: KnownItems,
    index: BM25Index,
    document_vectors: NDArray[np.float32],
    queries: Sequence[Query],
    vectors: NDArray[np.float32],
) -> Candidates:
    depth = min(max(DEPTHS), len(items.ids))
    scores, rows = exact_search(document_vectors, vectors, depth)
    sparse = index.search([query.text for query in queries], depth)
    return Candidates(in_rank_order(scores, items.ids[rows]), sparse, true_ids(queries))


def _scores(
    found: dict[str, tuple[str, Ids]],
    relevant: Ids,
    members: NDArray[np.bool_],
    kind: str,
    chosen: str,
    seed: int,
) -> list[SystemScore]:
    ndcg = {name: ndcg_at_k(ids, relevant, k=K)[members] for name, (_, ids) in found.items()}
    best = max(("bm25", "dense"), key=lambda name: float(ndcg[name].mean()))
    table = []
    for name, (setting, ids) in found.items():
        single = name in ("bm25", "dense")
        table.append(
            SystemScore(
                system=name,
                setting=setting,
                kind=kind,
                n_queries=int(members.sum()),
                ndcg_at_10=_interval(ndcg[name], seed),
                mrr_at_10=_interval(mrr_at_k(ids, relevant, k=K)[members], seed),
                success_at_1=float(success_at_k(ids, relevant, k=1)[members].mean()),
                success_at_10=float(success_at_k(ids, relevant, k=K)[members].mean()),
                gain=None if single else _interval(ndcg[name] - ndcg[best], seed),
                over="" if single else best,
                chosen=name == chosen,
            )
        )
    return table


def _interval(values: NDArray[np.float64], seed: int) -> Interval:
    low, high = bootstrap_ci(values, n_boot=N_BOOT, seed=seed)
    return Interval(float(values.mean()), low, high)


def _told(fusion: Fusion) -> str:
    how = (
        f"constant {fusion.rank_constant:g}"
        if isinstance(fusion, RankFusion)
        else fusion.normalization
    )
    return f"{how}, dense weight {fusion.dense_weight:g}, depth {fusion.depth}"
