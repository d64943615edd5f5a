"""A pruned channel has scale 0, and 0 / 0 is NaN."""

import numpy as np


def quantize_symmetric(weights):
    scales = (np.abs(weights).max(axis=1) / 127).astype(np.float32)
    q = np.clip(np.rint(weights / scales[:, None]), -127, 127).astype(np.int8)
    return q, scales
