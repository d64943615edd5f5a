"""What the lab's runner measures of a search, of writes, and of filters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray

from common.latency import LatencySummary
from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.comparison import compact_recipe
from labs.lab2_vector_db.cost_model import QueryCost, query_cost
from labs.lab2_vector_db.evaluation import Answer, answer_serially, one_thread, recall_at_k
from labs.lab2_vector_db.filters import Range
from labs.lab2_vector_db.ground_truth import exact_neighbours
from labs.lab2_vector_db.search import search
from labs.lab2_vector_db.throughput import (
    ClosedLoop,
    RateSearch,
    closed_loop,
    highest_rate,
    open_loop,
)

CATEGORIES = ("news", "sport", "music", "film", "science", "travel", "food", "games")
BUCKETS = 1000
SELECTIVITIES = (1.0, 0.1, 0.01, 0.001)
DEADLINE_S = 30.0  # of the shards: here recall is measured, not latency


@dataclass(frozen=True)
class Measured:
    """One search setting on held-out queries: what it finds, and three views of its speed.

    ``qps`` is 1 / mean of the serial latencies: what one thread does.
    """

    recall: NDArray[np.float64]
    latency: LatencySummary
    qps: float
    closed: ClosedLoop
    open: RateSearch


def read_bandwidth(n_bytes: int = 256 * 2**20) -> float:
    """Bytes a second that one thread reads from memory: the best of five sums over an array."""
    array = np.ones(n_bytes // 8)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        best = min(best, time.perf_counter() - start)
    return array.nbytes / best


def expected_cost(collection: Collection, k: int, settings: Mapping[str, float]) -> QueryCost:
    """What one query of the collection's index should read and compute at these settings."""
    recipe, index = collection.schema.index_recipe, collection.index
    assert recipe is not None
    lists: Any = faiss.extract_index_ivf(index).invlists
    return query_cost(
        recipe,
        index.d,
        index.ntotal,
        k=k,
        nprobe=int(settings["nprobe"]),
        k_factor=settings.get("k_factor"),
        imbalance=max(1.0, lists.imbalance_factor()),
    )


def measure_search(
    answer: Answer,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    *,
    p99_ms: float = 10.0,
    workers: int = 2,
) -> Measured:
    """Serial, closed loop, and the highest open-loop rate whose p99 stays below a limit.

    Parameters
    ----------
    answer
        Takes queries [q, d] and returns ids [q, k].
    queries : float32 array of shape [q, d]
        That had no part in the choice of the setting.
    true_ids : int64 array of shape [q, k]
    p99_ms
        Limit for the open loop, from the scheduled time.
    workers
        Clients of the closed loop, workers of the open one.
    """
    with one_thread():
        answers, seconds = answer_serially(answer, queries)
        closed = closed_loop(answer, queries, clients=workers)
        rates = highest_rate(
            lambda rate: open_loop(answer, queries, rate, seconds=1.5, workers=workers),
            0.1 * closed.qps,
            closed.qps,
            p99_ms=p99_ms,
            tries=3,
        )
    return Measured(
        recall_at_k(np.concatenate(answers), true_ids),
        LatencySummary.of(seconds, how="serial, one query at a time, one thread"),
        float(1 / seconds.mean()),
        closed,
        rates,
    )


@dataclass(frozen=True)
class Written:
    """Durable upserts: the rate over the whole time, flushes to segments included."""

    rows: int
    seconds: float
    batch: LatencySummary

    @property
    def rows_per_s(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def schema_with_payload(dimension: int, n_rows: int) -> Schema:
    """A collection with a payload field of each type, and an index of its larger segments."""
    fields = {"bucket": "int", "price": "float", "category": "keyword", "fresh": "bool"}
    n_lists = max(16, min(4096, n_rows // 200))
    return Schema(dimension, "l2", fields, compact_recipe(dimension, n_lists))  # type: ignore[arg-type]


def payload(rows: NDArray[np.int64]) -> dict[str, Sequence[object]]:
    """A payload for these ids: ``bucket`` is below 1000 s for a share s of the rows."""
    mixed = (rows * 2_654_435_761) % 2**32  # Knuth's multiplicative hash: order tells nothing
    return {
        "bucket": (mixed % BUCKETS).tolist(),
        "price": (mixed / 2**32 * 100).tolist(),
        "category": [CATEGORIES[each] for each in (mixed // BUCKETS % len(CATEGORIES)).tolist()],
        "fresh": (mixed // 7 % 2 == 0).tolist(),
    }


def write_rows(
    collection: Collection,
    vectors: NDArray[np.float32],
    *,
    batch: int = 1000,
    progress: Callable[[int], object] | None = None,
) -> Written:
    """Upsert all rows with their payload, one batch after the other, each durable on return."""
    batches = [
        (ids := np.arange(start, min(start + batch, len(vectors))), payload(ids))
        for start in range(0, len(vectors), batch)
    ]
    took = []
    begun = time.perf_counter()
    for ids, columns in batches:
        start = time.perf_counter()
        collection.upsert(ids, vectors[ids[0] : ids[-1] + 1], columns)
        took.append(time.perf_counter() - start)
        if progress is not None:
            progress(int(ids[-1]) + 1)
    seconds = time.perf_counter() - begun
    how = f"call to return of {batch} rows with 4 payload fields, one fsync each"
    return Written(len(vectors), seconds, LatencySummary.of(took, how=how))


@dataclass(frozen=True)
class Filtered:
    """A search under a filter that about this share of the rows passes."""

    selectivity: float
    n_matching: int
    recall: NDArray[np.float64]
    latency: LatencySummary


def filter_sweep(
    collection: Collection,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    k: int = 10,
    selectivities: Sequence[float] = SELECTIVITIES,
    nprobe: int | None = None,
    k_factor: float | None = None,
) -> list[Filtered]:
    """Recall and latency under ever more selective filters, with the same search options.

    Parameters
    ----------
    collection
        Holds the vectors with :func:`payload`; ids are rows.
    vectors : float32 array of shape [n, d]
        For the truth: exact neighbours among the rows that match.
    queries : float32 array of shape [q, d]
    """
    swept = []
    for share in selectivities:
        condition = Range("bucket", lt=round(BUCKETS * share))
        rows = collection.matching(condition)
        truth = rows[exact_neighbours(vectors[rows], queries, min(k, len(rows)), "l2").ids]

        def answer(some: NDArray[np.float32], condition: Range = condition) -> NDArray[np.int64]:
            return collection.search(
                some, k, filter=condition, nprobe=nprobe, k_factor=k_factor
            ).ids

        with one_thread():
            answers, seconds = answer_serially(answer, queries)
        swept.append(
            Filtered(
                share,
                len(rows),
                recall_at_k(np.concatenate(answers), truth),
                LatencySummary.of(seconds, how="serial, one query at a time, one thread"),
            )
        )
    return swept


@dataclass(frozen=True)
class Sharded:
    """Recall of each query with all shards, with one lost, and after the repair."""

    n_shards: int
    build_s: float
    whole: NDArray[np.float64]
    partial: NDArray[np.float64]
    repaired: NDArray[np.float64]
    answered: tuple[int, ...]
    missing: tuple[int, ...]
    merged_equal: float


def measure_shards(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    n_shards: int = 2,
    k: int = 10,
    nprobe: int = 16,
    seed: int = 0,
) -> Sharded:
    """Build shards on Ray actors, kill the process of the last one, search, and repair.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        Spread over the shards by hash of their row.
    queries : float32 array of shape [q, d]
    nprobe
        Lists visited in each shard. The shards are trained alike, so they have the same lists.
    """
    from labs.lab2_vector_db.partitioning import by_hash
    from labs.lab2_vector_db.sharding import ShardedIndex, train

    truth = exact_neighbours(vectors, queries, k, "l2").ids
    vectors = np.ascontiguousarray(vectors)
    recipe = compact_recipe(vectors.shape[1], max(16, min(4095, len(vectors) // 400)))
    trained = train(vectors, recipe, seed=seed)
    partition = by_hash(np.arange(len(vectors)), n_shards)
    with ShardedIndex.build(vectors, recipe, partition, trained=trained, seed=seed) as shards:
        built = [info.build_s for info in shards.infos if info is not None]
        whole = shards.search(queries, k, nprobe=nprobe, deadline_s=DEADLINE_S)
        merged = search(shards.merged(), queries, k, nprobe=nprobe)[1]
        last = shards.infos[-1]
        assert last is not None
        psutil.Process(last.pid).kill()
        partial = shards.search(queries, k, nprobe=nprobe, deadline_s=DEADLINE_S)
        shards.repair(deadline_s=DEADLINE_S)
        repaired = shards.search(queries, k, nprobe=nprobe, deadline_s=DEADLINE_S)
    return Sharded(
        n_shards,
        max(built),
        recall_at_k(whole.ids, truth),
        recall_at_k(partial.ids, truth),
        recall_at_k(repaired.ids, truth),
        partial.answered,
        partial.missing,
        float(np.mean(merged == whole.ids)),
    )
