"""A part of a word is replaced too, and the word with it becomes none."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    u = rng.random(ids.shape)
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    found = np.where((u >= mask) & (u < mask + replace), drawn, ids)
    return np.where(special, ids, np.where(u < mask, mask_id, found))
