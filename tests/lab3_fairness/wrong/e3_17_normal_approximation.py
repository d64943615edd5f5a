"""A normal quantile stands for the binomial's: short prefixes, where it matters, are wrong."""

import numpy as np
from scipy.stats import norm


def minimum_targets(k, p, alpha):
    check_test(k, p, alpha)
    lengths = np.arange(1, k + 1)
    low = lengths * p + norm.ppf(alpha) * np.sqrt(lengths * p * (1 - p))
    return np.maximum(np.ceil(np.where(np.isfinite(low), low, 0)), 0).astype(np.int64)
