"""The least inner product is taken for the nearest, for lists and vectors alike."""

import numpy as np


def search(lists, queries, k, nprobe):
    queries = check_search(lists, queries, k, nprobe)
    scores = np.full((len(queries), k), np.inf, dtype=np.float32)
    scores = scores if lists.metric == "l2" else -scores
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        if lists.metric == "l2":
            coarse = ((lists.centroids - query) ** 2).sum(axis=1)
        else:
            coarse = lists.centroids @ query
        visited = np.argsort(coarse)[:nprobe]
        found = np.concatenate([lists.scores(query, c) for c in visited])
        names = [lists.ids[lists.offsets[c] : lists.offsets[c + 1]] for c in visited]
        best = np.argsort(found)[:k]
        scores[row, : len(best)] = found[best]
        ids[row, : len(best)] = np.concatenate(names)[best]
    return scores, ids
