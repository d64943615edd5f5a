"""Each cell is a binomial of its own: the cells of a group no longer sum to its size."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1, keepdims=True)
    drawn = rng.binomial(sizes, counts / sizes, size=(n_boot, *counts.shape))
    return rates(drawn, values, counted)
