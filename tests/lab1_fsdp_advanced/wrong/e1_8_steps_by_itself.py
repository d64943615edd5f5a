"""Calls optimizer.step() where scaler.step(optimizer) looks for infinities first."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    before = scaler.get_scale()
    optimizer.step()
    scaler.update()
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(whole), scaler.get_scale() < before
