"""Rows are translated by ids[rows], where -1 is numpy's last row: empty slots get its id."""

import numpy as np


def search_alive(parts, queries, k, *, larger_is_better):
    worst = -np.inf if larger_is_better else np.inf
    scores = np.full((len(queries), k), worst, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for part in parts:
        if not part.n_alive:
            continue
        part_scores, rows = part.nearest(queries, k)
        part_scores, rows = part_scores.copy(), rows.copy()
        short = np.flatnonzero(part.alive(rows).sum(axis=1) < min(k, part.n_alive))
        if short.size:
            part_scores[short], rows[short] = part.exact(queries[short], k)
        dead = (rows >= 0) & ~part.alive(rows)
        scores = np.concatenate([scores, np.where(dead, worst, part_scores)], axis=1)
        ids = np.concatenate([ids, np.where(dead, -1, part.ids[rows])], axis=1)
    again = _repeated(ids)
    scores[again | (ids < 0)] = worst
    ids[again] = -1
    order = np.argsort(-scores if larger_is_better else scores, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return np.where(ids >= 0, scores, np.float32(np.nan)), ids
