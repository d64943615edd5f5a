"""The mean of each seed's ratio, in place of the ratio of both means."""

import numpy as np


def retention_draws(student, teacher, *, n_boot=1000, seed=0):
    ours, theirs = as_grids(student, teacher)
    rng = np.random.default_rng(seed)
    seeds, texts = ours.shape
    draws = np.empty(n_boot)
    for i in range(n_boot):
        cells = np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, texts, texts))
        draws[i] = (ours[cells].mean(axis=1) / theirs[cells].mean(axis=1)).mean()
    return draws
