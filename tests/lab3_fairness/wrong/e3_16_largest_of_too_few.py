"""With too few rows the largest score stands in for infinity: a promise that cannot be kept."""

import numpy as np


def conformal_quantile(scores, alpha):
    checked_alpha(alpha)
    values = np.sort(np.asarray(scores, dtype=float))
    rank = min(conformal_rank(len(values), alpha), len(values))
    return float(values[rank - 1])
