"""An id that a ranking holds twice is given points for both places."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    points = []
    for ranking, weight in zip(rankings, given):
        ranks = np.arange(1, ranking.shape[1] + 1)
        points.append(np.where(ranking >= 0, weight / (rank_constant + ranks), 0.0))
    return top_sums(np.concatenate(rankings, axis=1), np.concatenate(points, axis=1), k)
