"""The scale is max |w| / 8 and positive: a largest weight of +8 steps does not exist and is cut."""

import numpy as np


def quantize_blocks(weights, block_size):
    out, columns = weights.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((out, blocks * block_size), np.float32)
    padded[:, :columns] = weights
    each = padded.reshape(out, blocks, block_size)
    scales = (np.abs(each).max(axis=2)[..., None] / 8).astype(np.float32)
    steps = np.divide(each, scales, out=np.zeros_like(each), where=scales != 0)
    codes = np.clip(np.rint(steps) + 8, 0, 15).astype(np.uint8)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed, scales[..., 0]
