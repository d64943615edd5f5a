"""Unscales and clips rightly, but reports the norm that it took before: too large by the scale."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(parameters, max_norm)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(whole), scaler.get_scale() < before
