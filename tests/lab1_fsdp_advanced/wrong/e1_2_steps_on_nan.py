"""Steps without a look at the norm: one NaN in the gradient makes every weight NaN."""

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
    norm = float(full(nn.utils.clip_grad_norm_(model.parameters(), limit)))
    optimizer.step()
    optimizer.zero_grad()
    if scheduler is not None:
        scheduler.step()
    return StepResult(float(mean_over_ranks(total)), norm)
