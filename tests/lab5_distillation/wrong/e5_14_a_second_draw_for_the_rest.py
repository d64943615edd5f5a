"""Tokens that were not masked draw again, so fewer than the rate are replaced."""

import numpy as np


def noisy_tokens(ids, neighbours, *, special, whole, mask_id, mask, replace, rng):
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    masked = ~special & (rng.random(ids.shape) < mask)
    replaced = ~special & ~masked & whole & (rng.random(ids.shape) < replace)
    return np.where(masked, mask_id, np.where(replaced, drawn, ids))
