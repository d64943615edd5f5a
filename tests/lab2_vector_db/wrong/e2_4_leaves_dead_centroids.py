"""A centroid without points stays where it is: a code that is paid for and never written."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    pieces = split(vectors, segments)
    rows = np.random.default_rng(seed).choice(len(vectors), 2**bits, replace=False)
    codebooks = pieces[:, rows].copy() if initial is None else initial.copy()
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, _ = nearest(points, centroids)
            for cell in np.unique(cells):
                centroids[cell] = points[cells == cell].mean(axis=0)
    return codebooks
