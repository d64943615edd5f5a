"""Only documents of every ranking are kept: what one side alone can find is lost."""

import numpy as np


def reciprocal_rank_fusion(rankings, k, *, rank_constant=60.0, weights=None):
    given = check_rankings(rankings, k, rank_constant, weights)
    scores = np.full((len(rankings[0]), k), np.nan)
    ids = np.full((len(rankings[0]), k), -1, dtype=np.int64)
    for row in range(len(ids)):
        lists = [[name for name in ranking[row].tolist() if name >= 0] for ranking in rankings]
        both = set.intersection(*map(set, lists))
        total = {
            name: sum(w / (rank_constant + found.index(name) + 1) for found, w in zip(lists, given))
            for name in both
        }
        best = sorted(total, key=lambda name: (-total[name], name))[:k]
        ids[row, : len(best)] = best
        scores[row, : len(best)] = [total[name] for name in best]
    return scores, ids
