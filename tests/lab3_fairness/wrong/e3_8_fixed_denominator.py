"""The drawn sum is divided by the rows that the data had, not by those drawn."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1)
    drawn = rng.multinomial(sizes, counts / sizes[:, np.newaxis], size=(n_boot, len(sizes)))
    weights = np.asarray(counted, dtype=float)
    return drawn @ (np.asarray(values) * weights).T / (counts @ weights.T)
