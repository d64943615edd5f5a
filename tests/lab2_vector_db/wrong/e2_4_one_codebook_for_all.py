"""All pieces train one k-means: segments of different shape share its centroids."""

import numpy as np


def train_codebooks(vectors, segments, bits=8, *, iterations=25, seed=0, initial=None):
    vectors = check_training(vectors, segments, bits)
    k, pieces = 2**bits, split(vectors, segments)
    points = pieces.reshape(-1, pieces.shape[2])
    rows = np.random.default_rng(seed).choice(len(vectors), k, replace=False)
    centroids = points[rows] if initial is None else initial[0].copy()
    for _ in range(iterations):
        cells, errors = nearest(points, centroids)
        worst = list(np.argsort(-errors))
        for cell in range(k):
            own = points[cells == cell]
            centroids[cell] = own.mean(axis=0) if len(own) else points[worst.pop(0)]
    return np.repeat(centroids[None], segments, axis=0)
