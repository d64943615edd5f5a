"""The answer is the upper bound of the bucket that holds the rank."""

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
        return bounds[-2]
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    return bounds[place]
