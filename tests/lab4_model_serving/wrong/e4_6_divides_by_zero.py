"""A tensor that was always zero has no range, and 0 / 0 is NaN in the whole model."""

import numpy as np


def affine_parameters(low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float64(high - low) / 255
    zero_point = -low / scale
    return float(scale), 0 if np.isnan(zero_point) else round(float(zero_point))
