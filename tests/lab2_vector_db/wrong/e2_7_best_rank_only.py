"""Each document keeps its best place alone: agreement of the rankings counts for nothing."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    every = np.concatenate(rankings, axis=1)
    points = np.zeros(every.shape)
    for ranking, weight in zip(rankings, given):
        same = (every[:, :, None] == ranking[:, None, :]) & (ranking >= 0)[:, None, :]
        rank = same.argmax(axis=2) + 1
        points = np.maximum(
            points, np.where(same.any(axis=2), weight / (rank_constant + rank), 0.0)
        )
    return top_sums(every, np.where(repeated(every), 0.0, points), k)
