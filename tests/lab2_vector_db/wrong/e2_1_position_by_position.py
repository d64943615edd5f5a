"""Ids are compared position by position: a neighbour found at another rank counts as missed."""

import numpy as np


def recall_at_k(found_ids, true_ids):
    k = true_ids.shape[1]
    hits = (found_ids[:, :k] == true_ids) & (true_ids >= 0)
    return hits.sum(axis=1) / (true_ids >= 0).sum(axis=1)
