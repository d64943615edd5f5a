"""Value +- z s / sqrt(n) is the interval of a mean, and a latency is not normal."""

from statistics import NormalDist

import numpy as np


def percentile_interval(values, q, confidence=0.95):
    ordered = np.sort(np.ravel(np.asarray(values, dtype=np.float64)))
    n = len(ordered)
    value = quantile(ordered, q)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(ordered.std()) / np.sqrt(n)
    low, high = value - half, value + half
    return PercentileInterval(value, low, high, n, q, confidence)
