"""The quantile is 1 - alpha: the targets are what a fair coin seldom exceeds, not falls below."""

import numpy as np
from scipy.stats import binom


def minimum_targets(k, p, alpha):
    check_test(k, p, alpha)
    lengths = np.arange(1, k + 1)
    return np.maximum(binom.ppf(1 - alpha, lengths, p), 0).astype(np.int64)
