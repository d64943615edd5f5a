"""Texts are drawn, the seeds stay as they are."""

import numpy as np


def retention_draws(student, teacher, *, n_boot=1000, seed=0):
    ours, theirs = as_grids(student, teacher)
    rng = np.random.default_rng(seed)
    texts = ours.shape[1]
    draws = np.empty(n_boot)
    for i in range(n_boot):
        rows = rng.integers(0, texts, texts)
        draws[i] = ours[:, rows].mean() / theirs[:, rows].mean()
    return draws
