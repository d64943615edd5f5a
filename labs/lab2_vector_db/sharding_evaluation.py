"""What sharding keeps and what it costs: one index against shards by hash and by cluster."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db.evaluation import recall_at_k
from labs.lab2_vector_db.index_types import Recipe
from labs.lab2_vector_db.partitioning import by_cluster, by_hash, reachable
from labs.lab2_vector_db.ray_cluster import ray_cluster
from labs.lab2_vector_db.search import search
from labs.lab2_vector_db.sharding import ShardedIndex, train


@dataclass(frozen=True)
class Asked:
    """Shards by cluster when a query asks only the nearest of them."""

    shards: int
    recall: float
    reachable: float
    """Share of the true neighbours that lie on the shards asked: what exact shards would find."""
    vectors: float
    """Share of all vectors that lie on the shards asked, on average over the queries."""


@dataclass(frozen=True)
class ShardingReport:
    """Recall@k against the exact neighbours, unless said otherwise."""

    n_shards: int
    recall_one_index: float
    recall_shards: float
    """All shards by hash, trained once."""
    merged_same_ids: float
    """Share of results of the index merged from the shards that equal the one index's."""
    answered_after_kill: tuple[int, ...]
    missing_after_kill: tuple[int, ...]
    recall_after_kill: float
    """The partial answer, one shard of n killed."""
    repaired: tuple[int, ...]
    recall_after_repair: float
    hash_imbalance: float
    cluster_imbalance: float
    asked: tuple[Asked, ...]
    hash_lost_worst_tenth: float
    """Without one shard, each in turn: mean reachable share of the tenth that loses most."""
    cluster_lost_worst_tenth: float


def evaluate(
    source: NDArray[np.float32],
    queries: NDArray[np.float32],
    true_rows: NDArray[np.int64],
    recipe: Recipe,
    *,
    n_shards: int = 4,
    train_size: int | None = None,
    deadline_s: float = 30.0,
    seed: int = 0,
) -> ShardingReport:
    """Build shards by hash and by cluster on one local cluster, kill one, repair it, merge them.

    Parameters
    ----------
    source : float32 array of shape [n, d]
        In memory or memory-mapped.
    queries : float32 array of shape [q, d]
    true_rows : int64 array of shape [q, k]
        The exact neighbours of each query, as rows of ``source``.
    recipe
        Of the one index and of every shard; not HNSW, which cannot be merged.
    n_shards
        Processes; each takes about 150 MiB and its part of the index.
    train_size
        Vectors that the shared training samples; None: as many as the recipe can use.
    deadline_s
        Of a search. Long: here recall is measured, not latency.
    seed
        Of samples and k-means.
    """
    k = true_rows.shape[1]
    trained = train(source, recipe, train_size=train_size, seed=seed)
    whole = faiss.clone_index(trained)
    whole.add(np.ascontiguousarray(source, dtype=np.float32))
    _, one = search(whole, queries, k)
    hashed = by_hash(np.arange(len(source)), n_shards)
    regions = by_cluster(source, n_shards, recipe.metric, seed=seed)

    def recall(ids: NDArray[np.int64]) -> float:
        return float(recall_at_k(ids, true_rows).mean())

    store = 3 * source.nbytes
    with ray_cluster(cpus=n_shards, object_store_bytes=store):
        with ShardedIndex.build(source, recipe, hashed, trained=trained, seed=seed) as shards:
            found = shards.search(queries, k, deadline_s=deadline_s)
            _, merged = search(shards.merged(), queries, k)
            shards.signal(n_shards - 1, signal.SIGKILL)
            partial = shards.search(queries, k, deadline_s=deadline_s)
            repaired = shards.repair(deadline_s=deadline_s)
            again = shards.search(queries, k, deadline_s=deadline_s)
        with ShardedIndex.build(source, recipe, regions, trained=trained, seed=seed) as shards:
            sizes = np.array([len(rows) for rows in regions.rows])
            asked = []
            for ask in range(1, n_shards + 1):
                answer = shards.search(queries, k, ask=ask, deadline_s=deadline_s)
                visited = regions.route(queries, ask) @ sizes / len(source)
                possible = reachable(regions, queries, true_rows, ask)
                asked.append(
                    Asked(ask, recall(answer.ids), float(possible.mean()), float(visited.mean()))
                )
    lost = [
        _worst_tenth(
            np.concatenate(
                [reachable(partition, queries, true_rows, lost=shard) for shard in range(n_shards)]
            )
        )
        for partition in (hashed, regions)
    ]
    return ShardingReport(
        n_shards=n_shards,
        recall_one_index=recall(one),
        recall_shards=recall(found.ids),
        merged_same_ids=float((merged == one).mean()),
        answered_after_kill=partial.answered,
        missing_after_kill=partial.missing,
        recall_after_kill=recall(partial.ids),
        repaired=repaired,
        recall_after_repair=recall(again.ids),
        hash_imbalance=hashed.imbalance,
        cluster_imbalance=regions.imbalance,
        asked=tuple(asked),
        hash_lost_worst_tenth=lost[0],
        cluster_lost_worst_tenth=lost[1],
    )


def _worst_tenth(share: NDArray[np.float64]) -> float:
    return float(np.sort(share)[: max(1, len(share) // 10)].mean())
