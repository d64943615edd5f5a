"""A word is always replaced by its nearest neighbour: every copy has the same new words."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    u = rng.random(ids.shape)
    found = np.where(whole & (u >= mask) & (u < mask + replace), neighbours[ids, 0], ids)
    return np.where(special, ids, np.where(u < mask, mask_id, found))
