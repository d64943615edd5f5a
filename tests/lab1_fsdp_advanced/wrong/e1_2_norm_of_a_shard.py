"""Reports and clips by the norm of this rank's own shard."""

import math

import torch
from torch import nn


def train_step(model, optimizer, micro_batches, loss_fn, *, max_norm, scheduler=None):
    if not micro_batches:
        raise InputError("micro_batches is empty: a step needs at least one")
    count = len(micro_batches)
    limit = math.inf if max_norm is None else max_norm
    total = torch.zeros(())
    for number, batch in enumerate(micro_batches, start=1):
        model.set_requires_gradient_sync(number == count)
        loss = loss_fn(model, batch) / count
        loss.backward()
        total += loss.detach()
    shards = [p.grad.to_local() for p in model.parameters()]
    norm = float(nn.utils.get_total_norm(shards))
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, torch.tensor(norm))
    if not math.isfinite(norm):
        raise RunError(f"the norm of the gradient is {norm}")
    optimizer.step()
    optimizer.zero_grad()
    if scheduler is not None:
        scheduler.step()
    return StepResult(float(mean_over_ranks(total)), norm)
