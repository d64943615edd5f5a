"""Ten million vectors that no machine has lying around: a mixture fitted to real embeddings.

What makes a data set hard to search is neither its size nor its dimension alone, but how many
directions the neighbours of a point spread over (its local intrinsic dimension) and how much
nearer the nearest is than the others (its relative contrast). Both are measured on the real
vectors and on the generated ones, at the same number of points, and fitted.

Independent uniform or Gaussian vectors have a contrast near 1: every index looks hopeless. A few
tight clusters make every index look brilliant.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.index_types import check_vectors, normalize

BLOCK = 65_536
"""Rows drawn from one seed: any slice of the data is the same whoever asks for it."""
NEIGHBOURS = 20
"""Neighbours that the local intrinsic dimension is estimated from."""


@dataclass(frozen=True)
class Hardness:
    """What makes data hard to search, at ``n`` points."""

    n: int
    local_dimension: float
    """Median over the queries of the local intrinsic dimension."""
    contrast: float
    """Relative contrast: mean distance of a query to all points / to its nearest."""


def hardness(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> Hardness:
    """How hard these vectors are to search with these queries.

    Parameters
    ----------
    vectors : float32 array of shape [n, d]
        n > 20; none of them a query.
    queries : float32 array of shape [q, d]

    Notes
    -----
    With distances r_1 <= ... <= r_k of a query to its k = 20 nearest points, the local intrinsic
    dimension is ``-1 / mean(log(r_i / r_k))`` over i < k, the maximum-likelihood estimate of Levina
    & Bickel (2005), eq. 8; the relative contrast is ``mean_x |q - x| / min_x |q - x|`` of He,
    Kumar & Chang (2012), eq. 1, here as ratio of the means over the queries. Queries with a
    duplicate among the points (distance 0) are left out.
    """
    vectors = check_vectors(vectors)
    queries = check_vectors(queries, dimension=vectors.shape[1], name="queries")
    require(len(vectors) > NEIGHBOURS, "number of vectors", len(vectors), f"must be > {NEIGHBOURS}")
    squared, _ = faiss.knn(queries, vectors, NEIGHBOURS)
    near = np.sqrt(np.maximum(squared, 0).astype(np.float64))
    near = near[near[:, 0] > 1e-3]
    logs = np.log(near[:, :-1] / near[:, -1:]).mean(axis=1)
    dimension = float(np.median(-1 / logs[logs < 0]))
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), 4096)).astype(int)]
    far = np.sqrt(np.maximum(faiss.pairwise_distances(queries, sample), 0)).mean()
    return Hardness(len(vectors), dimension, float(far / near[:, 0].mean()))


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians on the unit sphere.

    Component c has weight ``weights[c]`` and gives ``means[c] + factors[c]^T z + noise[c] * e`` for
    standard normal z and e, scaled to length 1: a probabilistic PCA each (Tipping & Bishop 1999).

    Attributes
    ----------
    weights : float64 array of shape [C]
    means : float32 array of shape [C, d]
    factors : float32 array of shape [C, r, d]
    noise : float32 array of shape [C]
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float32]
    factors: NDArray[np.float32]
    noise: NDArray[np.float32]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parameters: what two runs must share to have the same vectors."""
        digest = hashlib.sha256()
        for array in (self.weights, self.means, self.factors, self.noise):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def draw(self, rows: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Independent vectors of length 1, float32 [rows, d]."""
        dimension, rank = self.means.shape[1], self.factors.shape[1]
        component = rng.choice(len(self.weights), size=rows, p=self.weights)
        order = np.argsort(component, kind="stable")
        sizes = np.bincount(component, minlength=len(self.weights))
        latent = rng.standard_normal((rows, rank), dtype=np.float32)
        grouped = rng.standard_normal((rows, dimension), dtype=np.float32)
        start = 0
        for c, size in enumerate(sizes):
            part = slice(start, start + size)
            grouped[part] *= self.noise[c]
            grouped[part] += latent[part] @ self.factors[c]
            grouped[part] += self.means[c]
            start += size
        grouped /= np.linalg.norm(grouped, axis=1, keepdims=True)
        drawn = np.empty_like(grouped)
        drawn[order] = grouped
        return drawn


class GeneratedVectors:
    """``n`` rows of a mixture, made when they are asked for: ``rows[start:stop]``, float32.

    Rows come in blocks of 65,536, each from a seed of its own, so a slice is the same in every
    process and at every ``n``. ``stream`` 0 is the data; another stream is independent of it
    (queries).
    """

    def __init__(self, mixture: Mixture, n: int, *, seed: int = 0, stream: int = 0) -> None:
        require(n >= 1, "n", n, "must be >= 1")
        self.mixture, self.seed, self.stream = mixture, seed, stream
        self.shape = (n, mixture.means.shape[1])
        self.dtype = np.dtype(np.float32)

    @property
    def fingerprint(self) -> str:
        """What identifies the rows, for checkpoints of work done on them."""
        return f"{self.mixture.fingerprint}-{self.seed}-{self.stream}-{self.shape[0]}"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, step = rows.indices(self.shape[0])
        require(step == 1, "slice step", step, "must be 1")
        parts = [np.empty((0, self.shape[1]), np.float32)]
        for block in range(start // BLOCK, -(-stop // BLOCK) if stop > start else 0):
            rng = np.random.default_rng([self.seed, self.stream, block])
            first = block * BLOCK
            part = self.mixture.draw(BLOCK, rng)
            parts.append(part[max(start - first, 0) : stop - first])
        return np.concatenate(parts)


def stored_vectors(
    source: GeneratedVectors, path: Path, *, progress: Callable[[int], object] | None = None
) -> NDArray[np.float32]:
    """The rows in a file, made once, as a memory map [n, d]; goes on where it was stopped.

    Parameters
    ----------
    source
        What to write. The caller keeps a file to itself by its ``fingerprint``.
    path
        Appears when the file is whole; until then rows go to ``<path>.partial``.
    progress
        Called with the rows written.
    """
    n, dimension = source.shape
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        block_bytes = BLOCK * dimension * 4
        with partial.open("ab") as stream:
            whole = stream.tell() // block_bytes
            stream.truncate(whole * block_bytes)
            for start in range(whole * BLOCK, n, BLOCK):
                rows = source[start : min(start + BLOCK, n)]
                stream.write(rows.data)
                if progress is not None:
                    progress(start + len(rows))
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
    return np.memmap(path, np.float32, "r", shape=(n, dimension))


@dataclass(frozen=True)
class Fit:
    """A mixture and how its hardness compares with that of the vectors it was fitted to."""

    mixture: Mixture
    real: Hardness
    generated: Hardness
    components: int
    rank: int


def project(vectors: NDArray[np.float32], dimension: int) -> tuple[NDArray[np.float32], float]:
    """The vectors on their first principal components, scaled to length 1.

    Returns
    -------
    projected : float32 array of shape [n, dimension]
    kept : float
        Share of the variance in those components.
    """
    vectors = check_vectors(vectors)
    require(
        1 <= dimension <= vectors.shape[1],
        "dimension",
        dimension,
        f"must be 1 to {vectors.shape[1]}",
    )
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    kept = float(values[-dimension:].sum() / values.sum())
    return normalize(vectors @ directions[:, : -dimension - 1 : -1]), kept


def fit(
    real: NDArray[np.float32],
    *,
    components: tuple[int, ...] = (256, 512, 1024),
    ranks: tuple[int, ...] = (4, 8, 16, 32),
    queries: int = 500,
    seed: int = 0,
) -> Fit:
    """The mixture whose local intrinsic dimension and contrast are nearest to the real ones.

    Parameters
    ----------
    real : float32 array of shape [n, d]
        Real embeddings of length 1, n some thousands. 500 of them are held out as queries.
    components, ranks
        Sizes tried; the measure of each is the sum of the two relative differences.

    Returns
    -------
    Fit
    """
    real = check_vectors(real)
    require(len(real) >= 3 * queries, "number of vectors", len(real), f"must be >= {3 * queries}")
    shuffled = real[np.random.default_rng(seed).permutation(len(real))]
    held_out, rest = shuffled[:queries], shuffled[queries:]
    goal = hardness(rest, held_out)
    best: tuple[float, Fit] | None = None
    for count in components:
        clusters = _cluster(rest, min(count, len(rest) // 16), seed)
        for rank in ranks:
            if rank >= real.shape[1]:
                continue
            mixture = _mixture(rest, clusters, rank)
            found = hardness(
                GeneratedVectors(mixture, len(rest), seed=seed)[:],
                GeneratedVectors(mixture, queries, seed=seed, stream=1)[:],
            )
            distance = abs(np.log(found.local_dimension / goal.local_dimension))
            distance += abs(np.log(found.contrast / goal.contrast))
            if best is None or distance < best[0]:
                sizes = Fit(mixture, goal, found, len(mixture.weights), rank)
                best = (float(distance), sizes)
    assert best is not None
    return best[1]


def _cluster(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=15, seed=seed + 1, verbose=False)
    kmeans.cp.min_points_per_centroid = 1
    kmeans.train(vectors)
    _, nearest = kmeans.index.search(vectors, 1)
    return np.asarray(nearest[:, 0], dtype=np.int64)


def _mixture(vectors: NDArray[np.float32], clusters: NDArray[np.int64], rank: int) -> Mixture:
    """One probabilistic PCA a cluster; what lies outside the first ``rank`` directions is noise."""
    dimension = vectors.shape[1]
    present = [c for c in np.unique(clusters) if (clusters == c).sum() > 1]
    weights = np.empty(len(present))
    means = np.empty((len(present), dimension), np.float32)
    factors = np.zeros((len(present), rank, dimension), np.float32)
    noise = np.empty(len(present), np.float32)
    for i, c in enumerate(present):
        members = vectors[clusters == c]
        weights[i], means[i] = len(members), members.mean(axis=0)
        centred = (members - means[i]) / np.sqrt(len(members) - 1)
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        used = min(rank, len(values))
        rest = float((values[used:] ** 2).sum()) / (dimension - used)
        spread = np.sqrt(np.maximum(values[:used] ** 2 - rest, 0))
        factors[i, :used] = spread[:, None] * directions[:used]
        noise[i] = np.sqrt(rest)
    return Mixture(weights / weights.sum(), means, factors, noise)
