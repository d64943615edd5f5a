"""The rank is ceil(n (1 - alpha)), not ceil((n + 1) (1 - alpha))."""

import numpy as np


def conformal_quantile(scores, alpha):
    checked_alpha(alpha)
    values = np.sort(np.asarray(scores, dtype=float))
    return float(values[int(np.ceil(len(values) * (1 - alpha))) - 1])
