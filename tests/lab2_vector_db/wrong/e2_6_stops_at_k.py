"""The search stops at the first list that fills the row: nprobe raises nothing after that."""

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
        found, names = np.empty(0, np.float32), np.empty(0, np.int64)
        for c in np.argsort(coarse)[:nprobe]:
            found = np.concatenate([found, lists.scores(query, c)])
            names = np.concatenate([names, lists.ids[lists.offsets[c] : lists.offsets[c + 1]]])
            if len(found) >= k:
                break
        best = np.argsort(sign * found)[:k]
        scores[row, : len(best)] = found[best]
        ids[row, : len(best)] = names[best]
    return scores, ids
