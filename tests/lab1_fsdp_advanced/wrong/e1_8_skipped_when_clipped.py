"""Takes a clipped step for a skipped one: the scheduler stands still while the weights move."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.step(optimizer)
    scaler.update()
    whole = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return whole, not whole <= max_norm
