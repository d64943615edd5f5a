"""The first i positions get the target of i - 1: every target comes one position late."""

import numpy as np
from scipy.stats import binom


def minimum_targets(k, p, alpha):
    check_test(k, p, alpha)
    return np.maximum(binom.ppf(alpha, np.arange(k), p), 0).astype(np.int64)
