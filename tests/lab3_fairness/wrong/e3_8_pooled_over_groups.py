"""One multinomial over the pooled cells: every group is drawn from everybody."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1)
    pooled = counts.sum(axis=0) / counts.sum()
    drawn = rng.multinomial(sizes, pooled, size=(n_boot, len(sizes)))
    return rates(drawn, values, counted)
