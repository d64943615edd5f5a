"""An index in shards: built in parallel, searched scatter-gather, on Ray actors.

A shard is a process that holds the index of its rows. A search sends the queries to the shards
(scatter), waits for their answers until a deadline, and merges what has come (gather). A shard
that is lost or late makes the answer partial, and the answer says so.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.index_building import (
    new_index,
    require_enough,
    sample_rows,
    training_size,
)
from labs.lab2_vector_db.index_types import Recipe
from labs.lab2_vector_db.merging import merge, merge_top_k, set_ids
from labs.lab2_vector_db.partitioning import Partition
from labs.lab2_vector_db.ray_cluster import ray_cluster, require_free
from labs.lab2_vector_db.shard_actor import MappedFile, Shard, ShardInfo
from labs.lab2_vector_db.vectors import check_ids, check_vectors

DEADLINE_S = 2.0
BUILD_TIMEOUT_S = 3600.0
PENDING_CALLS = 64  # of one shard; beyond it is taken for late, and not asked


@dataclass(frozen=True)
class ShardedResult:
    """What the shards found, and which of them it comes from.

    Parameters
    ----------
    scores : float32 array of shape [q, k]
        Best first; NaN where fewer than k were found.
    ids : int64 array of shape [q, k]
        -1 where fewer than k were found.
    answered, missing
        Shards that answered in time, and shards that were asked and did not.
    """

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    answered: tuple[int, ...]
    missing: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard that was asked has answered."""
        return not self.missing


def train(
    source: NDArray[np.float32], recipe: Recipe, *, train_size: int | None = None, seed: int = 0
) -> faiss.Index:
    """The recipe's index, trained on a sample and empty, to be shipped to every shard.

    Shards that were trained alike answer as one index with the same lists would, and can be
    merged into one. Shards that train by themselves cannot: their codes mean different vectors.

    Parameters
    ----------
    source : float32 array of shape [n, d]
        Only the sample is read.
    train_size
        Vectors to train on; None: as many as the recipe can use.

    Raises
    ------
    InputError
        For vectors that are too few, not finite, or do not fit the recipe.
    """
    size = training_size(recipe, len(source)) if train_size is None else train_size
    sample = sample_rows(source, min(size, len(source)), seed=seed)
    require_enough(len(sample), recipe)
    index = new_index(sample.shape[1], recipe, seed=seed)
    index.train(sample)
    return index


class ShardedIndex:
    """Make it with :meth:`build`; close it, or use it as a context manager."""

    def __init__(
        self,
        source: NDArray[np.float32],
        recipe: Recipe,
        partition: Partition,
        ids: NDArray[np.int64],
        trained: faiss.Index | None,
        threads: int,
        seed: int,
    ) -> None:
        self.recipe, self.partition, self.dimension = recipe, partition, source.shape[1]
        self.global_ids = [ids[rows] for rows in partition.rows]
        self.infos: list[ShardInfo | None] = [None] * partition.n_shards
        self._source, self._file, self._seed = source, MappedFile.of(source), seed
        self._trained = None if trained is None else faiss.serialize_index(trained)
        self._threads, self._closed = threads, False
        self._exit = ExitStack()
        self._ray: Any = None
        self._actors: list[Any] = [None] * partition.n_shards

    @classmethod
    def build(
        cls,
        source: NDArray[np.float32],
        recipe: Recipe,
        partition: Partition,
        *,
        ids: NDArray[np.int64] | None = None,
        trained: faiss.Index | None = None,
        threads_per_shard: int = 1,
        timeout_s: float = BUILD_TIMEOUT_S,
        seed: int = 0,
    ) -> ShardedIndex:
        """Start the shards and build them all at the same time.

        Parameters
        ----------
        source : float32 array of shape [n, d]
            A whole memory map is opened by each shard itself (on a cluster its path must be seen
            by every node); of any other array each shard is sent its rows.
        recipe
            Of every shard's index.
        partition
            See :mod:`labs.lab2_vector_db.partitioning`.
        ids : int64 array of shape [n], optional
            None: row numbers.
        trained
            From :func:`train`; None: each shard trains on its own rows.
        threads_per_shard
            Cores that Ray reserves for a shard, and threads that faiss uses there.
        timeout_s
            For all shards together.

        Raises
        ------
        InputError
            For vectors, ids or a recipe that do not fit, or a cluster that is too small.
        RunError
            When a shard is lost or too late while it builds. Nothing is left running.
        """
        require(source.ndim == 2, "source.shape", source.shape, "must be [n, d]")
        n = sum(map(len, partition.rows))
        require(len(source) == n, "source.shape", source.shape, f"must have the {n} rows to spread")
        require(threads_per_shard >= 1, "threads_per_shard", threads_per_shard, "must be >= 1")
        known = np.arange(n) if ids is None else check_ids(ids, n)
        new_index(source.shape[1], recipe)  # refuses here what the shards could not build
        shards = cls(source, recipe, partition, known, trained, threads_per_shard, seed)
        try:
            shards._connect()
            shards._start(range(partition.n_shards), timeout_s)
        except BaseException:
            shards.close()
            raise
        return shards

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        nprobe: int | None = None,
        k_factor: float | None = None,
        ef_search: int | None = None,
        ask: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> ShardedResult:
        """The k nearest of each query over the shards that answer in time.

        Parameters
        ----------
        queries : float32 array of shape [q, d]
        k
            From 1 to the number of vectors.
        nprobe, k_factor, ef_search
            In every shard; as in :func:`labs.lab2_vector_db.search.search`.
        ask
            Shards a query, by cluster; None: all of them.
        deadline_s
            Seconds to wait for the slowest shard. A shard that is later is missing.

        Raises
        ------
        InputError
            As :func:`labs.lab2_vector_db.search.search`, and for an ``ask`` that does not fit.
        """
        self._require_open()
        queries = check_vectors(queries, dimension=self.dimension, name="queries")
        n = sum(map(len, self.global_ids))
        require(1 <= k <= n, "k", k, f"must be from 1 to {n}, the vectors stored")
        require(deadline_s > 0, "deadline_s", deadline_s, "must be > 0", "try 2.0")
        asked = self.partition.route(queries, ask)
        how = {"nprobe": nprobe, "k_factor": k_factor, "ef_search": ef_search}
        which = {
            shard: np.flatnonzero(asked[:, shard])
            for shard in range(self.partition.n_shards)
            if asked[:, shard].any()
        }
        everything = self._ray.put(queries) if asked.all() else None

        def send(shard: int) -> Any:
            part = everything if everything is not None else queries[which[shard]]
            return self._actors[shard].search.remote(part, k, how)

        found = self._gather(list(which), send, deadline_s)
        answers = [_spread(len(queries), which[shard], answer) for shard, answer in found.items()]
        ids = [self.global_ids[shard] for shard in found]
        nothing = (np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        scores, best = merge_top_k(
            [nothing, *answers], [np.empty(0, np.int64), *ids], k, self.recipe.metric
        )
        missing = tuple(sorted(set(which) - set(found)))
        return ShardedResult(scores, best, tuple(sorted(found)), missing)

    def repair(self, *, deadline_s: float = DEADLINE_S, timeout_s: float = BUILD_TIMEOUT_S) -> (
        tuple[int, ...]
    ):  # fmt: skip
        """Build again, from the source, the shards that do not answer; returns their numbers.

        Raises
        ------
        RunError
            When one is lost again while it builds.
        """
        self._require_open()
        probe = np.zeros((1, self.dimension), dtype=np.float32)
        every = range(self.partition.n_shards)
        alive = self._gather(
            every, lambda shard: self._actors[shard].search.remote(probe, 1, {}), deadline_s
        )
        lost = tuple(shard for shard in every if shard not in alive)
        self._kill(lost)
        self._start(lost, timeout_s)
        return lost

    def signal(self, shard: int, number: int) -> None:
        """Send a signal to a shard's process, to see what its loss does.

        Raises
        ------
        InputError
            When the shard runs on another host.
        """
        self._require_open()
        info = self.infos[shard]
        if info is None or info.host != socket.gethostname():
            raise InputError(f"shard {shard} runs on {info and info.host}, not on this host")
        os.kill(info.pid, number)

    def merged(self) -> faiss.Index:
        """One index from all shards, with the ids of the source; the shards keep theirs.

        Raises
        ------
        InputError
            When the shards were not trained alike.
        RunError
            When a shard is lost.
        """
        self._require_open()
        if self._trained is None:
            raise InputError("the shards trained by themselves; build them with trained=train(...)")
        indexes = []
        for shard, actor in enumerate(self._actors):
            try:
                sent = self._ray.get(actor.export.remote())
            except self._ray.exceptions.RayActorError as error:
                raise RunError(
                    f"shard {shard} is lost: its process ended; call repair()"
                ) from error
            index = faiss.deserialize_index(np.array(sent))
            indexes.append(set_ids(index, self.global_ids[shard]))
        return merge(indexes)

    def close(self) -> None:
        """Stop the shards, and the local cluster if one was started; twice is allowed."""
        self._closed = True
        self._exit.close()

    def _connect(self) -> None:
        store = 0 if self._file else 2 * self._source.nbytes
        store += 0 if self._trained is None else self._trained.nbytes
        cpus = self._threads * self.partition.n_shards
        self._ray = self._exit.enter_context(ray_cluster(cpus=cpus, object_store_bytes=store))
        self._exit.callback(self._kill, range(self.partition.n_shards))
        require_free(self._ray, cpus)
        self._actor = self._ray.remote(Shard).options(
            num_cpus=self._threads, scheduling_strategy="SPREAD", max_pending_calls=PENDING_CALLS
        )

    def _start(self, shards: Sequence[int], timeout_s: float) -> None:
        trained = None if self._trained is None else self._ray.put(self._trained)

        def send(shard: int) -> Any:
            rows = self.partition.rows[shard]
            source = self._file or np.asarray(self._source[rows], dtype=np.float32)
            self._actors[shard] = actor = self._actor.remote(self._threads)
            return actor.build.remote(
                source, rows if self._file else None, self.recipe, trained, self._seed
            )

        built = self._gather(shards, send, timeout_s)
        for shard in shards:
            if shard not in built:
                raise RunError(
                    f"shard {shard} of {len(self.partition.rows[shard]):,} vectors did not finish "
                    f"building in {timeout_s:g} s, or its process died (out of memory?); use more "
                    "shards or a smaller recipe"
                )
            self.infos[shard] = built[shard]

    def _gather(
        self, shards: Sequence[int], send: Callable[[int], Any], deadline_s: float
    ) -> dict[int, Any]:
        """Call the shards, and return what those answered that did so in time."""
        errors = self._ray.exceptions
        end = time.monotonic() + deadline_s
        sent = {}
        for shard in shards:
            try:
                sent[send(shard)] = shard
            except errors.PendingCallsLimitExceeded:
                continue  # it is late with what it was asked before
        if not sent:
            return {}
        left = max(0.0, end - time.monotonic())
        ready, _late = self._ray.wait(list(sent), num_returns=len(sent), timeout=left)
        found = {}
        for call in ready:
            try:
                found[sent[call]] = self._ray.get(call)
            except errors.RayActorError:
                continue
            except errors.RayTaskError as error:
                raise error.cause from None  # a bad argument is the caller's, on any machine
        return found

    def _kill(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if self._actors[shard] is not None:
                self._ray.kill(self._actors[shard])

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("the shards are closed; build them again")

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _spread(
    n_queries: int,
    which: NDArray[np.int64],
    answer: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The answer to some of the queries as an answer to all: nothing for the others."""
    if len(which) == n_queries:
        return answer
    scores = np.zeros((n_queries, answer[0].shape[1]), dtype=np.float32)
    rows = np.full(scores.shape, -1, dtype=np.int64)
    scores[which], rows[which] = answer
    return scores, rows
