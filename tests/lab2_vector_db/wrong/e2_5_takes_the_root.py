"""The root is taken of each segment's distance: a sum of lengths is no distance."""

import numpy as np


def asymmetric_distances(queries, codes, codebooks, metric="l2"):
    pieces = queries.reshape(len(queries), len(codebooks), -1)
    if metric == "l2":
        tables = np.sqrt(((pieces[:, :, None] - codebooks) ** 2).sum(axis=3))
    else:
        tables = (pieces[:, :, None] * codebooks).sum(axis=3)
    return sum(tables[:, j, codes[:, j]] for j in range(len(codebooks)))
