"""The teacher's texts are drawn apart from the student's."""

import numpy as np


def retention_draws(student, teacher, *, n_boot=1000, seed=0):
    ours, theirs = as_grids(student, teacher)
    rng = np.random.default_rng(seed)
    seeds, texts = ours.shape
    draws = np.empty(n_boot)
    for i in range(n_boot):
        drawn = rng.integers(0, seeds, seeds)
        first, second = rng.integers(0, texts, texts), rng.integers(0, texts, texts)
        draws[i] = ours[np.ix_(drawn, first)].mean() / theirs[np.ix_(drawn, second)].mean()
    return draws
