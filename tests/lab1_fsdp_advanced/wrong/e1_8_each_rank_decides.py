"""Looks for infinities in this rank's shard only: the others step, and the ranks part."""

from torch import nn


def scaled_step(optimizer, parameters, scaler, max_norm):
    scaler.unscale_(optimizer)
    parameters = list(parameters)
    shards = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters]
    mine = any(not shard.isfinite().all() for shard in shards)
    for found in scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():
        found.fill_(mine)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(whole), scaler.get_scale() < before
