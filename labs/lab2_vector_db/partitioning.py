"""Which shard holds a vector, and which shards a query has to ask.

By hash of the id: every shard is a sample of all vectors, every query asks all of them. By
cluster: a shard holds a region of space, and a query asks the nearest regions only.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab2_vector_db.index_types import FAISS_METRICS, Metric
from labs.lab2_vector_db.vectors import check_vectors

BLOCK = 65_536
SLACK = 1.2


@dataclass(frozen=True)
class Regions:
    """The centroids by which vectors and queries find their shards.

    Parameters
    ----------
    centroids : float32 array of shape [c, d]
    shard : int64 array of shape [c]
        The shard that each centroid's vectors are on.
    metric
        ``"l2"`` or ``"inner_product"``.
    """

    centroids: NDArray[np.float32]
    shard: NDArray[np.int64]
    metric: Metric


@dataclass(frozen=True)
class Partition:
    """Rows of a source, spread over shards.

    Parameters
    ----------
    rows
        One int64 array [n_s] a shard: the rows of the source that it holds.
    regions
        None where any shard may hold a neighbour of any query.
    """

    rows: tuple[NDArray[np.int64], ...]
    regions: Regions | None = None

    def __post_init__(self) -> None:
        for shard, rows in enumerate(self.rows):
            require(len(rows) > 0, f"vectors of shard {shard}", 0, "must be >= 1", "use fewer")

    @property
    def n_shards(self) -> int:
        """The number of shards."""
        return len(self.rows)

    @property
    def imbalance(self) -> float:
        """Vectors of the largest shard / the mean: the slowest shard decides the latency."""
        sizes = [len(rows) for rows in self.rows]
        return float(max(sizes) / np.mean(sizes))

    def route(self, queries: NDArray[np.float32], ask: int | None = None) -> NDArray[np.bool_]:
        """Which shards each query asks.

        Parameters
        ----------
        queries : float32 array of shape [q, d]
        ask
            Shards a query: those of its nearest centroids. None: all.

        Returns
        -------
        bool array of shape [q, n_shards]

        Raises
        ------
        InputError
            For ``ask`` outside 1..n_shards, or fewer than all without regions.
        """
        chosen = np.ones((len(queries), self.n_shards), dtype=bool)
        if ask is None or ask == self.n_shards:
            return chosen
        require(1 <= ask < self.n_shards, "ask", ask, f"must be from 1 to {self.n_shards}")
        if self.regions is None:
            raise InputError(
                f"ask = {ask}, but shards by hash hold neighbours of every query in each of the "
                f"{self.n_shards} shards; leave it out, or partition by cluster"
            )
        regions = self.regions
        distances = queries @ regions.centroids.T
        if regions.metric == "l2":
            distances = 2 * distances - (regions.centroids**2).sum(axis=1)
        best = np.stack(
            [distances[:, regions.shard == shard].max(axis=1) for shard in range(self.n_shards)],
            axis=1,
        )
        chosen[:] = False
        np.put_along_axis(chosen, np.argsort(-best, axis=1)[:, :ask], True, axis=1)
        return chosen


def by_hash(ids: NDArray[np.int64], n_shards: int) -> Partition:
    """Spread rows by a hash of their ids: even, whatever the order in which they came.

    Parameters
    ----------
    ids : int64 array of shape [n]
        ``splitmix64(id) mod n_shards``: a later write of the same id finds the same shard.
    n_shards
        From 1 to n.
    """
    require(1 <= n_shards <= len(ids), "n_shards", n_shards, f"must be from 1 to {len(ids)}")
    shard = splitmix64(ids) % np.uint64(n_shards)
    return Partition(tuple(np.flatnonzero(shard == number) for number in range(n_shards)))


def splitmix64(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of 64-bit integers of which every bit is even (Steele, Lea, Flood, 2014)."""
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def by_cluster(
    vectors: NDArray[np.float32],
    n_shards: int,
    metric: Metric,
    *,
    centroids_per_shard: int = 16,
    sample: int = 50_000,
    seed: int = 0,
) -> Partition:
    """Spread rows by region of space, so that a query need not ask every shard.

    k-means on a sample gives ``n_shards * centroids_per_shard`` small clusters, k-means on their
    centroids the regions. A small cluster goes to the nearest region that has room for it (1.2
    times an equal share), the largest first: real data is not even, and machines are.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        A memory map is read in blocks.
    n_shards
        Regions.
    metric
        ``"inner_product"`` clusters directions (spherical k-means).
    centroids_per_shard
        One centroid a shard routes badly: a region is not a ball.
    sample
        Vectors to train on.
    seed
        Of sample and k-means.
    """
    n = len(vectors)
    wanted = n_shards * centroids_per_shard
    require(n_shards >= 1, "n_shards", n_shards, "must be >= 1")
    require(n >= wanted, "number of vectors", n, f"must be >= {wanted} to train the centroids")
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(n, min(n, max(sample, wanted)), replace=False))
    small = _kmeans(check_vectors(vectors[rows]), wanted, metric, seed)
    cluster = np.concatenate(
        [
            faiss.knn(
                check_vectors(vectors[start : start + BLOCK]), small, 1, FAISS_METRICS[metric]
            )[1][:, 0]
            for start in range(0, n, BLOCK)
        ]
    )
    sizes = np.bincount(cluster, minlength=wanted)
    large = _kmeans(small, n_shards, metric, seed)
    _, nearest = faiss.knn(small, large, n_shards, FAISS_METRICS[metric])
    room = np.full(n_shards, max(SLACK * n / n_shards, sizes.max()))
    shard = np.empty(wanted, dtype=np.int64)
    for number in np.argsort(-sizes):
        fits = room[nearest[number]] >= sizes[number]
        # Where nothing has room, the emptiest: a cluster is not split.
        shard[number] = nearest[number][np.argmax(fits)] if fits.any() else np.argmax(room)
        room[shard[number]] -= sizes[number]
    home = shard[cluster]
    return Partition(
        tuple(np.flatnonzero(home == number) for number in range(n_shards)),
        Regions(small, shard, metric),
    )


def reachable(
    partition: Partition,
    queries: NDArray[np.float32],
    true_rows: NDArray[np.int64],
    ask: int | None = None,
    lost: int | None = None,
) -> NDArray[np.float64]:
    """The share of each query's true neighbours that lie on the shards it asks.

    The recall of exact shards, and the most that any index on them can reach.

    Parameters
    ----------
    queries : float32 array of shape [q, d]
    true_rows : int64 array of shape [q, k]
        Rows of the source.
    ask
        As in :meth:`Partition.route`.
    lost
        A shard that does not answer.

    Returns
    -------
    float64 array of shape [q]
    """
    home = np.empty(sum(map(len, partition.rows)), dtype=np.int64)
    for shard, rows in enumerate(partition.rows):
        home[rows] = shard
    asked = partition.route(queries, ask)
    if lost is not None:
        asked[:, lost] = False
    share: NDArray[np.float64] = np.take_along_axis(asked, home[true_rows], 1).mean(axis=1)
    return share


def _kmeans(vectors: NDArray[np.float32], k: int, metric: Metric, seed: int) -> NDArray[np.float32]:
    means = faiss.Kmeans(
        vectors.shape[1], k, niter=20, seed=seed, spherical=metric == "inner_product",
        min_points_per_centroid=1,
    )  # fmt: skip
    means.train(vectors)
    centroids: NDArray[np.float32] = np.asarray(means.centroids, dtype=np.float32)
    return centroids
