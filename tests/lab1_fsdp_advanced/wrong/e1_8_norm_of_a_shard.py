"""Clips by the norm of this rank's own shard, and reports it."""

import torch
from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    scaler.unscale_(optimizer)
    parameters = list(parameters)
    shards = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters]
    norm = nn.utils.get_total_norm(shards)
    for shard in shards:
        shard.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return float(norm), scaler.get_scale() < before
