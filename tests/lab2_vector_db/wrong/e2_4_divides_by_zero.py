"""The mean of no points is NaN, and numpy only warns: a centroid that nothing can be near to."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    k, pieces = 2**bits, split(vectors, segments)
    rows = np.random.default_rng(seed).choice(len(vectors), k, replace=False)
    codebooks = pieces[:, rows].copy() if initial is None else initial.copy()
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, _ = nearest(points, centroids)
            sums = [np.bincount(cells, weights=column, minlength=k) for column in points.T]
            centroids[:] = np.stack(sums, axis=1) / np.bincount(cells, minlength=k)[:, None]
    return codebooks
