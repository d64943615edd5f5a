"""Two searches, one ranking: fusion by ranks (RRF) or by scores, with one filter on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise

Scores = NDArray[np.floating]
Ids = NDArray[np.int64]
Normalization = Literal["min_max", "z_score", "three_sigma"]


@exercise(
    "2.7",
    points=6,
    title="Reciprocal rank fusion",
    hint="Make an array of points for each ranking: its weight over the constant plus the rank, "
    "and 0 where no document stands for the first time. Then add up what belongs to one id.",
)
def reciprocal_rank_fusion(
    rankings: Sequence[Ids],
    k: int,
    *,
    rank_constant: float = 60.0,
    weights: Sequence[float] | None = None,
) -> tuple[NDArray[np.float64], Ids]:
    """Fuse rankings of the same queries by ranks alone.

    ``RRF(d) = Σ_r w_r / (rank_constant + rank_r(d))``, over the rankings r that hold d. The first
    place, the first column, has rank 1. A ranking without d adds nothing, and d may well win.
    Scores are not asked: that of BM25 has no upper end and a cosine ends at 1.

    Parameters
    ----------
    rankings
        int64 arrays of shape [q, r_i], best first; the widths may differ. -1 is an empty slot: no
        document, though what follows keeps its rank. An id that a ranking holds twice counts
        there once, where it stands first (`repeated` finds the rest).
    k
        Results a query.
    rank_constant
        >= 0. The larger it is, the less the first places stand out, and the more it counts to be
        in several rankings.
    weights
        w, one number >= 0 for each ranking; None for 1.

    Returns
    -------
    scores : float64 array of shape [q, k]
        Best first, equal scores by smaller id; NaN where there are fewer than k documents.
    ids : int64 array of shape [q, k]
        -1 there. `top_sums` makes both from all ids and what each is given.

    Raises
    ------
    InputError
        From `check_rankings`: no ranking, other numbers of queries or weights, k below 1.

    References
    ----------
    Cormack, Clarke, Büttcher: Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank
    Learning Methods, SIGIR 2009, the formula of section 2; k = 60 there is the constant here.

    Examples
    --------
    >>> reciprocal_rank_fusion([np.array([[7, 4]]), np.array([[4, 9]])], 3)[1]
    array([[4, 7, 9]])
    """
    given = check_rankings(rankings, k, rank_constant, weights)
    points = []
    for ranking, weight in zip(rankings, given):
        ranks = np.arange(1, ranking.shape[1] + 1)
        counts = (ranking >= 0) & ~repeated(ranking)
        points.append(np.where(counts, weight / (rank_constant + ranks), 0.0))
    return top_sums(np.concatenate(rankings, axis=1), np.concatenate(points, axis=1), k)


def check_rankings(
    rankings: Sequence[Ids], k: int, rank_constant: float, weights: Sequence[float] | None
) -> list[float]:
    """Refuse rankings that do not belong together; returns the weights, 1 where none are given.

    Raises
    ------
    InputError
        No ranking, one that is not [q, r], other numbers of queries or weights, a negative
        weight or constant, k below 1.
    """
    require(len(rankings) > 0, "number of rankings", 0, "must be at least 1")
    for number, ranking in enumerate(rankings):
        name = f"rankings[{number}].shape"
        require(ranking.ndim == 2, name, ranking.shape, "must be [q, r]")
        rows = len(rankings[0])
        require(len(ranking) == rows, name, ranking.shape, f"must have {rows} rows, as the first")
    require(k >= 1, "k", k, "must be >= 1", "try 10")
    require(rank_constant >= 0, "rank_constant", rank_constant, "must be >= 0", "try 60")
    given = [1.0] * len(rankings) if weights is None else [float(weight) for weight in weights]
    require(len(given) == len(rankings), "weights", given, f"must be {len(rankings)}, one each")
    require(min(given) >= 0, "weights", given, "must be >= 0")
    return given


def repeated(ids: Ids) -> NDArray[np.bool_]:
    """[q, r]: whether the same id stands further left in its row."""
    order = np.argsort(ids, axis=1, kind="stable")
    along = np.take_along_axis(ids, order, axis=1)
    again = np.zeros(ids.shape, dtype=bool)
    again[:, 1:] = along[:, 1:] == along[:, :-1]
    result = np.empty_like(again)
    np.put_along_axis(result, order, again, axis=1)
    return result


def top_sums(ids: Ids, points: Scores, k: int) -> tuple[NDArray[np.float64], Ids]:
    """Add up the points of each id in a row, and return the k ids with the most.

    Parameters
    ----------
    ids, points : arrays of shape [q, m]
        -1 is no document, whatever its points.
    k
        Results a query.

    Returns
    -------
    (sums, ids)
        float64 and int64 arrays of shape [q, k]: best first, sums equal to twelve digits by
        smaller id, NaN and -1 where there are fewer than k different ids.
    """
    q, m = ids.shape
    order = np.argsort(ids, axis=1, kind="stable")
    along = np.take_along_axis(ids, order, axis=1)
    begins = np.ones((q, m), dtype=bool)
    begins[:, 1:] = along[:, 1:] != along[:, :-1]
    group = np.arange(q)[:, None] * m + begins.cumsum(axis=1) - 1
    values = np.take_along_axis(points, order, axis=1)
    sums = np.bincount(group.ravel(), values.ravel(), minlength=q * m).reshape(q, m)
    names = np.full(q * m, -1, dtype=np.int64)
    names[group.ravel()] = along.ravel()
    names = names.reshape(q, m)
    best = np.lexsort((names, -sums.round(12), names < 0), axis=1)[:, :k]
    top_ids = np.full((q, k), -1, dtype=np.int64)
    top = np.full((q, k), np.nan)
    top_ids[:, : best.shape[1]] = np.take_along_axis(names, best, axis=1)
    top[:, : best.shape[1]] = np.take_along_axis(sums, best, axis=1)
    top[top_ids < 0] = np.nan
    return top, top_ids


def min_max(scores: Scores) -> NDArray[np.float64]:
    """Each row to 0..1: ``(s - min) / (max - min)``; 1 where all scores of a row are equal.

    One outlier presses all others together, and the last candidate gets as little as none.
    """
    low, high, _, _ = _moments(scores)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (scores - low) / spread, np.where(np.isnan(scores), np.nan, 1.0))


def z_score(scores: Scores) -> NDArray[np.float64]:
    """Each row in standard deviations above its lowest score: ``(s - min) / σ``.

    The usual z-score ``(s - μ) / σ``, moved so that the last candidate has 0. Without that, a
    document that a search did not find (0 points) would beat those it found below the mean.
    """
    low, _, _, deviation = _moments(scores)
    return (scores - low) / np.where(deviation > 0, deviation, 1.0)


def three_sigma(scores: Scores) -> NDArray[np.float64]:
    """Each row to 0..1: ``(s - (μ - 3σ)) / 6σ``, cut off outside; 0.5 where σ is 0.

    Qdrant calls fusion with it distribution-based score fusion (DBSF).
    """
    _, _, mean, deviation = _moments(scores)
    wide = np.where(deviation > 0, 6 * deviation, 1.0)
    return np.clip((scores - mean) / wide + 0.5, 0.0, 1.0)


NORMALIZATIONS: dict[str, Callable[[Scores], NDArray[np.float64]]] = {
    "min_max": min_max,
    "z_score": z_score,
    "three_sigma": three_sigma,
}


def weighted_sum(
    scores: Sequence[Scores],
    rankings: Sequence[Ids],
    k: int,
    *,
    weights: Sequence[float],
    normalize: Callable[[Scores], NDArray[np.float64]] = min_max,
) -> tuple[NDArray[np.float64], Ids]:
    """Fuse searches by their scores: ``S(d) = Σ_r w_r norm_r(s_r(d))``, 0 where r lacks d.

    Unlike ranks, scores tell a clear first place from a narrow one. They have to be brought to
    one scale first, a query and a search at a time.

    Parameters
    ----------
    scores
        Float arrays of shape [q, r_i]: higher is better, NaN in empty slots.
    rankings
        The ids, as for `reciprocal_rank_fusion`.
    k, weights
        As there.
    normalize
        `min_max`, `z_score` or `three_sigma`.

    Returns
    -------
    (scores, ids)
        As `reciprocal_rank_fusion`.

    References
    ----------
    Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023.
    """
    given = check_rankings(rankings, k, 0.0, weights)
    points = []
    for values, ranking, weight in zip(scores, rankings, given, strict=True):
        require(values.shape == ranking.shape, "scores.shape", values.shape, f"= {ranking.shape}")
        counts = (ranking >= 0) & ~repeated(ranking)
        scaled = normalize(np.where(counts, values, np.nan))
        points.append(np.where(counts, weight * scaled, 0.0))
    return top_sums(np.concatenate(rankings, axis=1), np.concatenate(points, axis=1), k)


@dataclass(frozen=True)
class RankFusion:
    """`reciprocal_rank_fusion` of ``depth`` candidates from each side."""

    rank_constant: float = 60.0
    dense_weight: float = 0.5
    depth: int = 100

    def __post_init__(self) -> None:
        require(self.rank_constant >= 0, "rank_constant", self.rank_constant, "must be >= 0")
        _check_fusion(self.dense_weight, self.depth)

    def fuse(
        self, dense: tuple[Scores, Ids], sparse: tuple[Scores, Ids], k: int
    ) -> tuple[NDArray[np.float64], Ids]:
        """The k best of two (scores, ids), each of shape [q, at least depth]."""
        return reciprocal_rank_fusion(
            [dense[1][:, : self.depth], sparse[1][:, : self.depth]],
            k,
            rank_constant=self.rank_constant,
            weights=[self.dense_weight, 1 - self.dense_weight],
        )


@dataclass(frozen=True)
class ScoreFusion:
    """`weighted_sum` of ``depth`` candidates from each side."""

    normalization: Normalization = "min_max"
    dense_weight: float = 0.5
    depth: int = 100

    def __post_init__(self) -> None:
        known = ", ".join(NORMALIZATIONS)
        require(
            self.normalization in NORMALIZATIONS,
            "normalization",
            self.normalization,
            f"must be one of {known}",
        )
        _check_fusion(self.dense_weight, self.depth)

    def fuse(
        self, dense: tuple[Scores, Ids], sparse: tuple[Scores, Ids], k: int
    ) -> tuple[NDArray[np.float64], Ids]:
        """The k best of two (scores, ids), each of shape [q, at least depth]."""
        return weighted_sum(
            [dense[0][:, : self.depth], sparse[0][:, : self.depth]],
            [dense[1][:, : self.depth], sparse[1][:, : self.depth]],
            k,
            weights=[self.dense_weight, 1 - self.dense_weight],
            normalize=NORMALIZATIONS[self.normalization],
        )


Fusion = RankFusion | ScoreFusion


@dataclass(frozen=True)
class HybridHits:
    """Fused scores (float64) and ids (int64) of shape [q, k]; NaN and -1 in empty slots."""

    scores: NDArray[np.float64]
    ids: Ids


class DenseSearcher(Protocol):
    """What a `Collection` offers; higher scores are better (cosine, inner product)."""

    def search(self, queries: NDArray[np.float32], k: int, *, filter: Any = None) -> Any:
        """Hits with ``scores`` and ``ids`` of shape [q, k]."""

    def matching(self, filter: Any = None) -> Ids:
        """The ids of all rows that match."""


class SparseSearcher(Protocol):
    """What a `BM25Index` offers."""

    def search(
        self, queries: Sequence[str], k: int, *, allowed: Ids | None = None
    ) -> tuple[NDArray[np.float32], Ids]:
        """Scores and ids of shape [q, k], of documents among ``allowed``."""


class HybridSearcher:
    """Vectors and words over the same ids, one filter, one ranking.

    The filter is on the payload, which the collection holds. It is answered there once, as a set
    of ids, and both searches keep to that set: a filter on one side alone lets the other bring
    back what was excluded. Write every change to both: an id that only one side has deleted is
    still found by the other.

    Parameters
    ----------
    dense
        A collection with metric cosine or inner_product.
    sparse
        An index of the same ids.
    fusion
        Chosen on queries that are not reported (`hybrid_evaluation.choose`).
    """

    def __init__(
        self, dense: DenseSearcher, sparse: SparseSearcher, *, fusion: Fusion | None = None
    ) -> None:
        self.dense, self.sparse, self.fusion = dense, sparse, fusion or RankFusion()

    def search(
        self, vectors: NDArray[np.float32], texts: Sequence[str], k: int, *, filter: Any = None
    ) -> HybridHits:
        """The k best documents of each query; both searches run at the same time.

        Parameters
        ----------
        vectors : float32 array of shape [q, d]
            The embedded queries.
        texts
            The same q queries as text.
        k
            At least 1; each side is asked for ``max(k, depth)`` candidates.
        filter
            A condition on the payload (`labs.lab2_vector_db.filters`); None for none.

        Raises
        ------
        InputError
            For other numbers of vectors and texts, k below 1, and what either side refuses.
        """
        vectors = np.atleast_2d(vectors)
        require(
            len(vectors) == len(texts), "texts", len(texts), f"must be {len(vectors)}, one each"
        )
        require(k >= 1, "k", k, "must be >= 1", "try 10")
        allowed = None if filter is None else self.dense.matching(filter)
        depth = max(k, self.fusion.depth)
        with ThreadPoolExecutor(1) as pool:
            words = pool.submit(self.sparse.search, texts, depth, allowed=allowed)
            dense = self.dense.search(vectors, depth, filter=filter)
            sparse = words.result()
        scores, ids = self.fusion.fuse((dense.scores, dense.ids), sparse, k)
        return HybridHits(scores, ids)


def _moments(scores: Scores) -> tuple[Scores, Scores, Scores, Scores]:
    """Lowest, highest, mean and standard deviation of each row's scores, NaN left out: [q, 1]."""
    real = ~np.isnan(scores)
    n = np.maximum(real.sum(axis=1, keepdims=True), 1)
    low = np.where(real, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    high = np.where(real, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    values = np.where(real, scores, 0.0).astype(np.float64)
    mean = values.sum(axis=1, keepdims=True) / n
    squares = np.where(real, (values - mean) ** 2, 0.0)
    return low, high, mean, np.sqrt(squares.sum(axis=1, keepdims=True) / n)


def _check_fusion(dense_weight: float, depth: int) -> None:
    require(0 <= dense_weight <= 1, "dense_weight", dense_weight, "must be from 0 to 1")
    require(depth >= 1, "depth", depth, "must be >= 1", "try 100")
