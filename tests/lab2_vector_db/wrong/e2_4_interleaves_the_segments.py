"""Segment j trains on every m-th column from j, and encode cuts contiguous pieces."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    k = 2**bits
    pieces = np.stack([vectors[:, j::segments] for j in range(segments)])
    rows = np.random.default_rng(seed).choice(len(vectors), k, replace=False)
    codebooks = pieces[:, rows].copy() if initial is None else initial.copy()
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, errors = nearest(points, centroids)
            worst = list(np.argsort(-errors))
            for cell in range(k):
                own = points[cells == cell]
                centroids[cell] = own.mean(axis=0) if len(own) else points[worst.pop(0)]
    return codebooks
