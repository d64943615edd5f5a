"""One scale for the whole matrix: its largest row decides how coarse every other row is."""

import torch


def quantization_parameters(values, codes, axis=None):
    low, high = values.amin(), values.amax()
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if codes.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (codes.high - codes.low)
    empty = scale < torch.finfo(scale.dtype).tiny
    scale = torch.where(empty, 1.0, scale)
    zero_point = torch.where(empty, 0.0, (codes.low - low / scale).round())
    return scale, zero_point
