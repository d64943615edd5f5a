"""The codebooks given as a start are trained in place: the caller's index changes under it."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    k, pieces = 2**bits, split(vectors, segments)
    rows = np.random.default_rng(seed).choice(len(vectors), k, replace=False)
    codebooks = pieces[:, rows] if initial is None else np.asarray(initial)
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, errors = nearest(points, centroids)
            worst = list(np.argsort(-errors))
            for cell in range(k):
                own = points[cells == cell]
                centroids[cell] = own.mean(axis=0) if len(own) else points[worst.pop(0)]
    return codebooks
