"""One scale for the whole matrix: channels with small weights round to zero."""

import numpy as np


def quantize_symmetric(weights):
    largest = np.abs(weights).max()
    scale = largest / 127 if largest > 0 else 1.0
    scales = np.full(len(weights), scale, dtype=np.float32)
    q = np.clip(np.rint(weights / scales[:, None]), -127, 127).astype(np.int8)
    return q, scales
