"""The range is not widened: from 1 to 2 the zero point is no code, and 0.0 cannot be stored."""

import torch


def quantization_parameters(values, codes, axis=None):
    if axis is None:
        low, high = values.amin(), values.amax()
    else:
        others = [each for each in range(values.ndim) if each != axis % values.ndim]
        low, high = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    if codes.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (codes.high - codes.low)
    empty = scale < torch.finfo(scale.dtype).tiny
    scale = torch.where(empty, 1.0, scale)
    zero_point = torch.where(empty, 0.0, (codes.low - low / scale).round())
    return scale, zero_point
