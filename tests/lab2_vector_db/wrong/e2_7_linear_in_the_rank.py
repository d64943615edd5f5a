"""Points fall linearly with the rank (Borda count): the first places hardly stand out."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    points = []
    for ranking, weight in zip(rankings, given):
        width = ranking.shape[1]
        places = np.arange(width, 0, -1) / (width + rank_constant)
        counts = (ranking >= 0) & ~repeated(ranking)
        points.append(np.where(counts, weight * places, 0.0))
    return top_sums(np.concatenate(rankings, axis=1), np.concatenate(points, axis=1), k)
