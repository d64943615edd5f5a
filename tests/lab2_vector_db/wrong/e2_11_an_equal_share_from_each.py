"""k / shards results are taken from each shard, and the rest of the best are lost."""

import numpy as np


def merge_top_k(answers, global_ids, k, metric):
    check_answers(answers, global_ids, k, metric)
    share = -(-k // len(answers))
    answers = [(scores[:, :share], rows[:, :share]) for scores, rows in answers]
    columns = []
    for (_, rows), own in zip(answers, global_ids):
        known = np.full(rows.shape, -1, dtype=np.int64)
        known[rows >= 0] = own[rows[rows >= 0]]
        columns.append(known)
    ids = np.concatenate(columns, axis=1)
    scores = np.concatenate([scores for scores, _ in answers], axis=1)
    keys = np.where(ids >= 0, scores if metric == "l2" else -scores, np.inf)
    order = np.lexsort((ids, keys), axis=1)
    keys, ids = np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)
    by_id = np.argsort(ids, axis=1, kind="stable")
    grouped = np.take_along_axis(ids, by_id, 1)
    again = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(again, by_id[:, 1:], grouped[:, 1:] == grouped[:, :-1], 1)
    keys[again], ids[again] = np.inf, -1
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    best = np.pad(np.take_along_axis(ids, order, 1), missing, constant_values=-1)
    key = np.pad(np.take_along_axis(keys, order, 1), missing, constant_values=np.inf)
    merged = np.where(best >= 0, key if metric == "l2" else -key, np.nan)
    return merged.astype(np.float32), best
