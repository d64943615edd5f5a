"""m p / rank without the running minimum: a smaller p-value can get the larger adjusted one."""

import numpy as np


def benjamini_hochberg(p_values):
    p = checked(p_values)
    order = np.argsort(p, kind="stable")
    m = len(p)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(p[order] * m / np.arange(1, m + 1), 1.0)
    return adjusted
