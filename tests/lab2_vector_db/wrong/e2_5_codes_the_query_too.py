"""The query is coded as well (symmetric distances): its own error is added to every score."""

import numpy as np


def asymmetric_distances(queries, codes, codebooks, metric="l2"):
    pieces = queries.reshape(len(queries), len(codebooks), -1)
    near = np.argmin(((pieces[:, :, None] - codebooks) ** 2).sum(axis=3), axis=2)
    pieces = codebooks[np.arange(len(codebooks)), near]
    if metric == "l2":
        tables = ((pieces[:, :, None] - codebooks) ** 2).sum(axis=3)
    else:
        tables = (pieces[:, :, None] * codebooks).sum(axis=3)
    return sum(tables[:, j, codes[:, j]] for j in range(len(codebooks)))
