"""Leaves an overflow at once, without update: the scale stays, and so does the overflow."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    scale = scaler.get_scale()
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad.div_(scale)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    whole = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not math.isfinite(whole):
        return whole, True
    optimizer.step()
    return whole, False
