"""The largest p-value gets rank 1: the smallest is hardly corrected at all."""

import numpy as np


def benjamini_hochberg(p_values):
    p = checked(p_values)
    order = np.argsort(p, kind="stable")
    m = len(p)
    steps = np.minimum(p[order] * m / np.arange(m, 0, -1), 1.0)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return adjusted
