"""Ranks are counted from 0, as columns are: every constant is off by one."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    points = []
    for ranking, weight in zip(rankings, given):
        ranks = np.arange(ranking.shape[1])
        counts = (ranking >= 0) & ~repeated(ranking)
        with np.errstate(divide="ignore"):
            points.append(np.where(counts, weight / (rank_constant + ranks), 0.0))
    return top_sums(np.concatenate(rankings, axis=1), np.concatenate(points, axis=1), k)
