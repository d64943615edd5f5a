"""The quantile of the calibration scores themselves: the new row is not counted."""

import numpy as np


def conformal_quantile(scores, alpha):
    checked_alpha(alpha)
    values = np.sort(np.asarray(scores, dtype=float))
    return float(np.quantile(values, 1 - alpha))
