"""The first rows are the start: sorted data leaves the rest of the space to a few centroids."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    k, pieces = 2**bits, split(vectors, segments)
    codebooks = pieces[:, :k].copy() if initial is None else initial.copy()
    for points, centroids in zip(pieces, codebooks):
        for _ in range(iterations):
            cells, errors = nearest(points, centroids)
            worst = list(np.argsort(-errors))
            for cell in range(k):
                own = points[cells == cell]
                centroids[cell] = own.mean(axis=0) if len(own) else points[worst.pop(0)]
    return codebooks
