"""The tables are flattened and the offset is added to the uint8 codes, where it wraps at 256."""

import numpy as np


def asymmetric_distances(queries, codes, codebooks, metric="l2"):
    segments, k, _ = codebooks.shape
    pieces = queries.reshape(len(queries), segments, -1)
    if metric == "l2":
        tables = ((pieces[:, :, None] - codebooks) ** 2).sum(axis=3)
    else:
        tables = (pieces[:, :, None] * codebooks).sum(axis=3)
    flat = tables.reshape(len(queries), -1)
    places = codes + (np.arange(segments) * k).astype(codes.dtype)
    return sum(flat[:, places[:, j]] for j in range(segments))
