"""Each drawn seed gets texts of its own, as if there were S times as many."""

import numpy as np


def retention_draws(student, teacher, *, n_boot=1000, seed=0):
    ours, theirs = as_grids(student, teacher)
    rng = np.random.default_rng(seed)
    seeds, texts = ours.shape
    draws = np.empty(n_boot)
    for i in range(n_boot):
        drawn = rng.integers(0, seeds, seeds)[:, None]
        rows = rng.integers(0, texts, (seeds, texts))
        draws[i] = ours[drawn, rows].mean() / theirs[drawn, rows].mean()
    return draws
