"""The target is the expected number, floor(p i): a ranking by a fair coin mostly fails it."""

import numpy as np


def minimum_targets(k, p, alpha):
    check_test(k, p, alpha)
    return np.floor(p * np.arange(1, k + 1)).astype(np.int64)
