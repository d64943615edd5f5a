"""The level is right, but the quantile falls back to the score below it."""

import numpy as np


def conformal_quantile(scores, alpha):
    checked_alpha(alpha)
    values = np.sort(np.asarray(scores, dtype=float))
    level = min(1.0, conformal_rank(len(values), alpha) / (len(values) + 1))
    return float(np.quantile(values, level, method="lower"))
