"""The zero point is not rounded: 0.0 lies between two codes and comes back as something else."""

import torch


def quantization_parameters(values, codes, axis=None):
    if axis is None:
        low, high = values.amin(), values.amax()
    else:
        others = [each for each in range(values.ndim) if each != axis % values.ndim]
        low, high = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if codes.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (codes.high - codes.low)
    empty = scale < torch.finfo(scale.dtype).tiny
    scale = torch.where(empty, 1.0, scale)
    zero_point = torch.where(empty, 0.0, codes.low - low / scale)
    return scale, zero_point
