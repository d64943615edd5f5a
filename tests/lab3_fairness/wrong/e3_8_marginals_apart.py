"""Labels and predictions are drawn separately and multiplied, so a label loses its prediction."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1)
    shares = (counts / sizes[:, np.newaxis]).reshape(-1, 2, 2)
    independent = shares.sum(axis=2)[:, :, np.newaxis] * shares.sum(axis=1)[:, np.newaxis, :]
    drawn = rng.multinomial(sizes, independent.reshape(-1, 4), size=(n_boot, len(sizes)))
    return rates(drawn, values, counted)
