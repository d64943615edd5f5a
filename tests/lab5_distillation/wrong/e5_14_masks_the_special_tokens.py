"""[CLS] and [SEP] are masked like words: the text has no beginning and no end."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    u = rng.random(ids.shape)
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    found = np.where(whole & ~special & (u >= mask) & (u < mask + replace), drawn, ids)
    return np.where(u < mask, mask_id, found)
