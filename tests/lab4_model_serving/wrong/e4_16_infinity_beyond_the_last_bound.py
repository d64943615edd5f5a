"""A rank in the +Inf bucket gives infinity, and every graph and alert with it."""

import math

import numpy as np


def quantile(buckets, q):
    if math.isnan(q) or len(buckets) < 2 or not math.isinf(buckets[-1][0]):
        return math.nan
    if not 0 <= q <= 1:
        return -math.inf if q < 0 else math.inf
    bounds = [bound for bound, _ in buckets]
    counts = np.maximum.accumulate([count for _, count in buckets])
    if counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    place = int(np.searchsorted(counts, rank))
    if place >= len(bounds) - 1:
        return math.inf
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    if inside == 0:
        return math.nan
    return float(start + (bounds[place] - start) * (rank - below) / inside)
