"""A streaming runbook: inserts, deletes, replaces and searches in one order, with exact truth.

A benchmark that builds once and then only searches hides what breaks an index in production: the
data move on. Here a runbook is data: the same steps run on any collection, and at each search the
exact answer over the vectors alive at that moment says what recall is. The semantics are those of
the streaming track of big-ann-benchmarks (Simhadri et al., Results of the Big ANN: NeurIPS'23
competition, arXiv:2409.17424): a vector is inserted under its own row as id, and a
replace gives an existing id the vector of another row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.collection_stats import CollectionStats
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.index_types import Recipe, check_vectors, normalize

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
Retrain = bool | Literal["auto"]


@dataclass(frozen=True)
class Insert:
    """Insert vectors ``rows`` [n] under their rows as ids; none of them is alive."""

    rows: Rows


@dataclass(frozen=True)
class Delete:
    """Delete the ids ``rows`` [n], all of them alive."""

    rows: Rows


@dataclass(frozen=True)
class Replace:
    """Give the living ids ``rows`` [n] the vectors ``new_rows`` [n]."""

    rows: Rows
    new_rows: Rows


@dataclass(frozen=True)
class Search:
    """Ask all queries, and compare with the exact answer of this moment."""


Step = Insert | Delete | Replace | Search


@dataclass(frozen=True)
class Checkpoint:
    """What one search of a runbook showed.

    Attributes
    ----------
    step
        Position in the runbook.
    n_live
        Vectors alive.
    recall
        Mean recall@k over the queries.
    recall_of_new
        The same over the queries whose nearest neighbour came since the search before; NaN when
        there are none. What an index that went stale loses first.
    codes_read
        Codes that a query was compared with, on average: its price, which drift raises even where
        recall stays. 0 without inverted lists.
    tombstone_share
        Of all rows stored, before the compaction.
    error_ratio, imbalance_ratio
        Drift of the rows that came since the search before, against those the index was trained
        on (:mod:`labs.lab2_vector_db.drift`); NaN without an index or such rows.
    drifted
        Whether these ratios ask for training.
    """

    step: int
    n_live: int
    recall: float
    recall_of_new: float
    codes_read: float
    tombstone_share: float
    error_ratio: float
    imbalance_ratio: float
    drifted: bool


@dataclass(frozen=True)
class RunbookReport:
    """A runbook on one collection: what it was told about training, and a checkpoint a search."""

    retrain: Retrain
    k: int
    n_inserted: int
    n_deleted: int
    n_replaced: int
    checkpoints: tuple[Checkpoint, ...]

    @property
    def recall_last(self) -> float:
        return self.checkpoints[-1].recall

    @property
    def recall_least(self) -> float:
        return min(checkpoint.recall for checkpoint in self.checkpoints)


class Live:
    """Which vector each id has: ``row_of`` [n_rows], -1 for an id that is not alive.

    Parameters
    ----------
    vectors : float32 array of shape [n_rows, d]
        All vectors of the runbook.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.row_of = np.full(len(vectors), -1, np.int64)

    @property
    def ids(self) -> Rows:
        """Ids that are alive, ascending."""
        return np.flatnonzero(self.row_of >= 0)

    def apply(self, step: Step) -> None:
        """Follow one step.

        Raises
        ------
        InputError
            For rows that do not exist or repeat, an insert of a living id, a delete or replace of
            a dead one.
        """
        if isinstance(step, Search):
            return
        name = type(step).__name__.lower()
        rows = self._checked(step.rows, name)
        alive = self.row_of[rows] >= 0
        wrong = rows[alive if isinstance(step, Insert) else ~alive]
        if wrong.size:
            state = "alive already" if isinstance(step, Insert) else "not alive"
            raise InputError(f"{name} of id {wrong[0]}, which is {state} ({wrong.size} such ids)")
        if isinstance(step, Replace):
            new = self._checked(step.new_rows, "replace")
            require(new.shape == rows.shape, "new_rows.shape", new.shape, f"must be {rows.shape}")
            self.row_of[rows] = new
        else:
            self.row_of[rows] = rows if isinstance(step, Insert) else -1

    def truth(self, queries: Vectors, k: int, metric: str) -> Rows:
        """Ids [q, k] of the exact nearest living vectors; ``metric`` as in a Schema."""
        ids = self.ids
        require(ids.size >= k, "living vectors", ids.size, f"must be >= k = {k} at each search")
        stored = self.vectors[self.row_of[ids]]
        if metric == "cosine":
            stored, queries = normalize(stored), normalize(queries)
        _, found = exact_search(stored, queries, k, "l2" if metric == "l2" else "inner_product")
        return ids[found]

    def _checked(self, rows: Rows, name: str) -> Rows:
        outside = rows[(rows < 0) | (rows >= len(self.vectors))]
        if outside.size:
            raise InputError(f"{name} of row {outside[0]}: there are {len(self.vectors)} vectors")
        require(np.unique(rows).size == rows.size, f"rows of a {name}", rows.size, "must differ")
        return rows


def drifting_runbook(
    vectors: Vectors,
    *,
    rounds: int = 8,
    batches: int = 4,
    delete_share: float = 0.5,
    replace_share: float = 0.1,
    seed: int = 0,
) -> list[Step]:
    """A runbook in which clusters arrive one after another, and old ones fade.

    k-means cuts the vectors into ``rounds`` clusters, which come in the order of their centroids
    along the first principal axis: the data move through the space, and what an index learned from
    the first rounds describes the last ones badly. In each round ``1 - replace_share`` of a cluster
    is inserted in batches; the rest replaces vectors that are alive; ``delete_share`` of the
    cluster of two rounds ago is deleted; and all queries are asked.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
    rounds
        Clusters, and searches; at least 2, and 39 vectors a cluster or more.
    batches
        Inserts a round.
    delete_share, replace_share
        From 0 to 1; ``replace_share`` below 1.

    References
    ----------
    The "clustered" runbooks of big-ann-benchmarks, neurips23/streaming.
    """
    vectors = check_vectors(vectors)
    require(2 <= rounds <= len(vectors) // 39, "rounds", rounds, f"must be 2..{len(vectors) // 39}")
    require(batches >= 1, "batches", batches, "must be >= 1", "try 4")
    require(0 <= delete_share <= 1, "delete_share", delete_share, "must be from 0 to 1")
    require(0 <= replace_share < 1, "replace_share", replace_share, "must be from 0 to below 1")
    rng = np.random.default_rng(seed)
    live = Live(vectors)
    steps: list[Step] = []
    clusters = [rng.permutation(rows) for rows in _clusters_in_order(vectors, rounds, seed)]
    for number, cluster in enumerate(clusters):
        reserved = int(len(cluster) * replace_share)
        todo: list[Step] = [
            Insert(part) for part in np.array_split(cluster[reserved:], batches) if part.size
        ]
        if number >= 2:
            old = clusters[number - 2]
            old = old[live.row_of[old] >= 0]
            todo.append(Delete(rng.choice(old, int(len(old) * delete_share), replace=False)))
        for step in todo:
            live.apply(step)
        changed = rng.choice(live.ids, min(reserved, live.ids.size), replace=False)
        todo += [Replace(changed, cluster[: changed.size]), Search()]
        live.apply(todo[-2])
        steps += [step for step in todo if isinstance(step, Search) or step.rows.size]
    return steps


def _clusters_in_order(vectors: Vectors, n_clusters: int, seed: int) -> list[Rows]:
    """Rows of each k-means cluster, the clusters ordered along the first principal axis."""
    kmeans = faiss.Kmeans(vectors.shape[1], n_clusters, niter=10, seed=seed)
    kmeans.train(vectors)
    centred = kmeans.centroids - vectors.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    _, nearest = kmeans.index.search(vectors, 1)
    order = np.argsort(centred @ axis, kind="stable")
    clusters = [np.flatnonzero(nearest[:, 0] == cluster) for cluster in order]
    return [rows for rows in clusters if rows.size]


def run_runbook(
    collection: Collection,
    steps: Sequence[Step],
    vectors: Vectors,
    queries: Vectors,
    *,
    k: int = 10,
    retrain: Retrain = "auto",
    nprobe: int | None = None,
) -> RunbookReport:
    """Follow a runbook on an empty collection; flush, compact and measure at every search.

    Parameters
    ----------
    collection
        Open for writing, of the vectors' dimension, without payload fields.
    vectors : float32 array of shape [n, d]
    queries : float32 array of shape [q, d]
    k
        Neighbours; the report is of recall@k.
    retrain
        What :meth:`Collection.compact` is told at every search: False keeps the centroids and
        codebooks of the first segment, True learns them again each time, "auto" when the vectors
        have drifted.
    nprobe
        Lists to visit; None as the collection's recipe says.
    """
    require(len(collection) == 0, "len(collection)", len(collection), "must be 0", "use a new one")
    vectors, queries = check_vectors(vectors), check_vectors(queries, name="queries")
    live = Live(vectors)
    counts = {Insert: 0, Delete: 0, Replace: 0}
    checkpoints: list[Checkpoint] = []
    arrived = np.zeros(len(vectors), bool)
    for position, step in enumerate(steps):
        live.apply(step)
        if isinstance(step, Search):
            collection.flush()
            stats = collection.stats()
            collection.compact(retrain=retrain)
            counters: Any = faiss.cvar  # of the process: nobody else may search meanwhile
            counters.indexIVF_stats.reset()
            found = collection.search(queries, k, nprobe=nprobe).ids
            read = counters.indexIVF_stats.ndis / len(queries)
            true_ids = live.truth(queries, k, collection.schema.metric)
            checkpoints.append(_checkpoint(position, stats, read, found, true_ids, arrived))
            arrived[:] = False
            continue
        counts[type(step)] += step.rows.size
        if isinstance(step, Delete):
            collection.delete(step.rows)
            continue
        collection.upsert(step.rows, vectors[live.row_of[step.rows]])
        arrived[step.rows] = True
    require(bool(checkpoints), "searches", 0, "must be at least one in a runbook")
    inserted, deleted, replaced = counts.values()
    return RunbookReport(retrain, k, inserted, deleted, replaced, tuple(checkpoints))


def _checkpoint(
    step: int,
    stats: CollectionStats,
    codes_read: float,
    found: Rows,
    true_ids: Rows,
    arrived: NDArray[np.bool_],
) -> Checkpoint:
    recalls = recall_at_k(found, true_ids)
    of_new = recalls[arrived[true_ids[:, 0]]]
    drift = stats.drift
    return Checkpoint(
        step=step,
        n_live=stats.n_rows,
        recall=float(recalls.mean()),
        recall_of_new=float(of_new.mean()) if of_new.size else float("nan"),
        codes_read=codes_read,
        tombstone_share=stats.tombstone_share,
        error_ratio=drift.error_ratio if drift else float("nan"),
        imbalance_ratio=drift.imbalance_ratio if drift else float("nan"),
        drifted=drift is not None and drift.retrain,
    )


def compare_retraining(
    folder: Path,
    vectors: Vectors,
    queries: Vectors,
    recipe: Recipe,
    *,
    metric: Literal["l2", "inner_product", "cosine"] = "cosine",
    k: int = 10,
    rounds: int = 8,
    nprobe: int | None = None,
    seed: int = 0,
) -> tuple[RunbookReport, ...]:
    """One drifting runbook on three collections: never trained again, on drift, and always.

    Parameters
    ----------
    folder
        Receives the three collections.
    vectors, queries : float32 arrays of shape [n, d] and [q, d]
        The queries are asked at every search, so those near a cluster that is still to come are
        answered from what is there.
    recipe
        The index of a segment; without inverted lists or codes there is nothing to go stale.

    Returns
    -------
    tuple of RunbookReport
        For ``retrain`` False, "auto" and True, in this order.
    """
    steps = drifting_runbook(vectors, rounds=rounds, seed=seed)
    schema = Schema(vectors.shape[1], metric, recipe=recipe)
    settings: tuple[Retrain, ...] = (False, "auto", True)
    reports = []
    for retrain in settings:
        path = folder / f"retrain-{str(retrain).lower()}"
        with Collection.create(path, schema, auto_compact=False, index_rows=0, seed=seed) as stored:
            reports.append(
                run_runbook(stored, steps, vectors, queries, k=k, retrain=retrain, nprobe=nprobe)
            )
    return tuple(reports)
