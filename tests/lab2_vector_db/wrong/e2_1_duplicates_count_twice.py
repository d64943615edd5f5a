"""Hits are counted on the found side, so an id returned twice is two neighbours."""

import numpy as np


def recall_at_k(found_ids, true_ids):
    hits = (found_ids[:, :, None] == true_ids[:, None, :]).any(axis=2) & (found_ids >= 0)
    return hits.sum(axis=1) / (true_ids >= 0).sum(axis=1)
