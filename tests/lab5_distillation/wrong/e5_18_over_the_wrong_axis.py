"""Reduces over the channels instead of within them: a scale for each input, not for each output."""

import torch


def quantization_parameters(values, codes, axis=None):
    if axis is None:
        low, high = values.amin(), values.amax()
    else:
        low, high = values.amin(axis, keepdim=True), values.amax(axis, keepdim=True)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if codes.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (codes.high - codes.low)
    empty = scale < torch.finfo(scale.dtype).tiny
    scale = torch.where(empty, 1.0, scale)
    zero_point = torch.where(empty, 0.0, (codes.low - low / scale).round())
    return scale, zero_point
