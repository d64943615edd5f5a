"""max / 128 makes 128 of the largest weight, which wraps around to -128 in int8."""

import numpy as np


def quantize_symmetric(weights):
    largest = np.abs(weights).max(axis=1)
    scales = np.where(largest > 0, largest / 128, 1.0).astype(np.float32)
    q = np.rint(weights / scales[:, None]).astype(np.int32).astype(np.int8)
    return q, scales
