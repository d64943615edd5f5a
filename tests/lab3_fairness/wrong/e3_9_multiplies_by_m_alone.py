"""Every p-value times m: that is Bonferroni, which controls another error and finds less."""

import numpy as np


def benjamini_hochberg(p_values):
    p = checked(p_values)
    return np.minimum(p * len(p), 1.0)
