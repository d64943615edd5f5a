"""Positions in the posting lists are returned in place of ids: ids that exist, of others."""

import numpy as np


def search(lists, queries, k, nprobe):
    queries = check_search(lists, queries, k, nprobe)
    sign = 1 if lists.metric == "l2" else -1
    scores = np.full((len(queries), k), sign * np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        if lists.metric == "l2":
            coarse = ((lists.centroids - query) ** 2).sum(axis=1)
        else:
            coarse = -(lists.centroids @ query)
        visited = np.argsort(coarse)[:nprobe]
        found = np.concatenate([lists.scores(query, c) for c in visited])
        places = [np.arange(lists.offsets[c], lists.offsets[c + 1]) for c in visited]
        best = np.argsort(sign * found)[:k]
        scores[row, : len(best)] = found[best]
        ids[row, : len(best)] = np.concatenate(places)[best]
    return scores, ids
