"""Clips before it unscales: the gradient ends up smaller than max_norm by the whole scale."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    before = scaler.get_scale()
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(whole) / before, scaler.get_scale() < before
