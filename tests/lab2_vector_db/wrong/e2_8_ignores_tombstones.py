"""Only -1 is dropped: deleted and superseded rows of a segment are still found."""

import numpy as np


def search_alive(parts, queries, k, *, larger_is_better):
    worst = -np.inf if larger_is_better else np.inf
    scores = np.full((len(queries), k), worst, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for part in parts:
        if part.n_alive:
            part_scores, rows = part.nearest(queries, k)
            scores = np.concatenate([scores, part_scores], axis=1)
            ids = np.concatenate([ids, np.where(rows >= 0, part.ids[rows], -1)], axis=1)
    again = _repeated(ids)
    scores[again | (ids < 0)] = worst
    ids[again] = -1
    order = np.argsort(-scores if larger_is_better else scores, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return np.where(ids >= 0, scores, np.float32(np.nan)), ids
