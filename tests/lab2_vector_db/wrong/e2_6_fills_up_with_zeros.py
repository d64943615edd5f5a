"""Places that stay open keep the zeros they were made with: id 0 at distance 0."""

import numpy as np


def search(lists, queries, k, nprobe):
    queries = check_search(lists, queries, k, nprobe)
    sign = 1 if lists.metric == "l2" else -1
    scores = np.zeros((len(queries), k), dtype=np.float32)
    ids = np.zeros((len(queries), k), dtype=np.int64)
    for row, query in enumerate(queries):
        if lists.metric == "l2":
            coarse = ((lists.centroids - query) ** 2).sum(axis=1)
        else:
            coarse = -(lists.centroids @ query)
        visited = np.argsort(coarse)[:nprobe]
        found = np.concatenate([lists.scores(query, c) for c in visited])
        names = [lists.ids[lists.offsets[c] : lists.offsets[c + 1]] for c in visited]
        best = np.argsort(sign * found)[:k]
        scores[row, : len(best)] = found[best]
        ids[row, : len(best)] = np.concatenate(names)[best]
    return scores, ids
