"""The running maximum from the smallest up, as in Holm's rule: step-down where step-up is asked."""

import numpy as np


def benjamini_hochberg(p_values):
    p = checked(p_values)
    order = np.argsort(p, kind="stable")
    m = len(p)
    steps = p[order] * m / np.arange(1, m + 1)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
