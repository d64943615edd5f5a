"""The texts themselves are changed: the next epoch masks what this one has left."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    u = rng.random(ids.shape)
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    replaced = whole & ~special & (u >= mask) & (u < mask + replace)
    ids[replaced] = drawn[replaced]
    ids[~special & (u < mask)] = mask_id
    return ids
