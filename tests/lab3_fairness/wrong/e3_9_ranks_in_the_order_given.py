"""The rank is the place in the list, not the place in sorted order."""

import numpy as np


def benjamini_hochberg(p_values):
    p = checked(p_values)
    m = len(p)
    steps = p * m / np.arange(1, m + 1)
    return np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
