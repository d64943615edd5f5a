"""Seeds are drawn, the texts stay as they are."""

import numpy as np


def retention_draws(student, teacher, *, n_boot=1000, seed=0):
    ours, theirs = as_grids(student, teacher)
    rng = np.random.default_rng(seed)
    seeds = ours.shape[0]
    draws = np.empty(n_boot)
    for i in range(n_boot):
        drawn = rng.integers(0, seeds, seeds)
        draws[i] = ours[drawn].mean() / theirs[drawn].mean()
    return draws
