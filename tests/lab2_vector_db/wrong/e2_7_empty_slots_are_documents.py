"""-1 is fused like an id: it stands in every short ranking, and so comes out on top."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    scores = np.full((len(rankings[0]), k), np.nan)
    ids = np.full((len(rankings[0]), k), -1, dtype=np.int64)
    for row in range(len(ids)):
        total = {}
        for ranking, weight in zip(rankings, given):
            for rank, name in enumerate(dict.fromkeys(ranking[row].tolist()), start=1):
                total[name] = total.get(name, 0.0) + weight / (rank_constant + rank)
        best = sorted(total, key=lambda name: (-total[name], name))[:k]
        ids[row, : len(best)] = best
        scores[row, : len(best)] = [total[name] for name in best]
    return scores, ids
