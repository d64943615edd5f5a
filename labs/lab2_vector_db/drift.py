"""Drift: do the centroids and codebooks still fit the vectors that come in?

An index is trained once and then only added to. When the vectors change (a new embedding model, a
new language, another season), they lie far from every centroid or all in a few lists: nothing
fails, recall falls and latency rises. Two numbers show it, without any query.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.search import unwrap

SAMPLE_ROWS = 16_384
MAX_ERROR_RATIO = 1.25
MAX_IMBALANCE_RATIO = 2.0
LEAST_ROWS = 1_000  # of new vectors; below, chance alone looks like drift


@dataclass(frozen=True)
class Profile:
    """How well quantizers fit some vectors.

    Parameters
    ----------
    error
        Mean squared distance of a vector to what it is quantized to: its list's centroid, or
        without lists its decoded code.
    imbalance
        n_lists * sum p_i^2 for shares p_i of the lists: 1 when all are equal, n_lists when all
        vectors are in one. It is the factor by which the average query reads more (Jégou et al.
        2010, "imbalance factor"). 1 without lists.
    rows
        Vectors measured.
    """

    error: float
    imbalance: float
    rows: int


@dataclass(frozen=True)
class Drift:
    """New vectors against those of training, as ratios; 1: as then."""

    error_ratio: float
    imbalance_ratio: float
    rows: int

    @property
    def retrain(self) -> bool:
        """Whether the quantizers should be trained again."""
        enough = self.rows >= LEAST_ROWS
        return enough and (
            self.error_ratio > MAX_ERROR_RATIO or self.imbalance_ratio > MAX_IMBALANCE_RATIO
        )


def measure(index: faiss.Index, vectors: NDArray[np.float32]) -> Profile | None:
    """The profile of vectors under the quantizers of a trained index.

    Parameters
    ----------
    index
        Trained; what it holds does not matter.
    vectors : float32 array of shape [n, d]
        At most 16,384 of them are looked at, evenly spaced.

    Returns
    -------
    Profile or None
        None for an index that learns nothing from vectors, which cannot drift.

    Notes
    -----
    The imbalance is estimated without bias from counts c_i of m vectors,
    ``n_lists * sum c_i (c_i - 1) / (m (m - 1))``: the plain ``sum (c_i / m)^2`` of a sample is
    larger by about n_lists / m, however the vectors lie.

    Raises
    ------
    InputError
        For fewer than two vectors.
    """
    require(len(vectors) >= 2, "vectors", len(vectors), "must be at least 2 to measure drift")
    step = -(-len(vectors) // SAMPLE_ROWS)
    sample = np.ascontiguousarray(vectors[::step], np.float32)
    layers = unwrap(index)
    base = layers.base
    if layers.transform is not None:
        for position in range(layers.transform.chain.size()):
            rotation = faiss.downcast_VectorTransform(layers.transform.chain.at(position))
            sample = rotation.apply(sample)
    if layers.hnsw is not None:
        base = faiss.downcast_index(base.storage)
    if isinstance(base, faiss.IndexIVF):
        _, lists = base.quantizer.search(sample, 1)
        centroids = base.quantizer.reconstruct_batch(lists[:, 0])
        counts = np.bincount(lists[:, 0], minlength=base.nlist).astype(np.float64)
        m = len(sample)
        imbalance = base.nlist * float((counts * (counts - 1)).sum()) / (m * (m - 1))
        return Profile(_mean_square(sample - centroids), imbalance, m)
    if isinstance(base, faiss.IndexFlat) or not hasattr(base, "sa_encode"):
        return None
    decoded = base.sa_decode(base.sa_encode(sample))
    return Profile(_mean_square(sample - decoded), 1.0, len(sample))


def compare(training: Profile, new: Profile) -> Drift:
    """How far new vectors are from those of training."""
    tiny = np.finfo(np.float64).tiny
    return Drift(
        new.error / max(training.error, tiny),
        new.imbalance / max(training.imbalance, tiny),
        new.rows,
    )


def _mean_square(differences: NDArray[np.float32]) -> float:
    return float((differences.astype(np.float64) ** 2).sum(axis=1).mean())
