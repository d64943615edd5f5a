"""A channel of zeros gets scale 0, and 0 / 0 is NaN."""

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
    zero_point = (codes.low - low / scale).round()
    return scale, zero_point
