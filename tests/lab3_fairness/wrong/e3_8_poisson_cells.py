"""Every cell is drawn on its own (Poisson), so a group has other sizes than the data."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.poisson(counts, size=(n_boot, *counts.shape))
    return rates(drawn, values, counted)
