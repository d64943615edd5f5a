"""Returns the loss of the last micro-batch on this rank."""

import math

import torch
from torch import nn


def train_step(
    model,
    optimizer,
    micro_batches,
    loss_fn,
    *,
    max_norm,
    scheduler=None,
    scaler=None,
    reshard_between=True,
):
    if not micro_batches:
        raise InputError("micro_batches is empty: a step needs at least one")
    count = len(micro_batches)
    limit = math.inf if max_norm is None else max_norm
    for number, batch in enumerate(micro_batches, start=1):
        model.set_requires_gradient_sync(number == count)
        if not reshard_between:
            model.set_reshard_after_backward(number == count)
        loss = loss_fn(model, batch) / count
        (loss if scaler is None else scaler.scale(loss)).backward()
        last = float(loss.detach()) * count
    skipped = False
    if scaler is None:
        norm = float(full(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        if not math.isfinite(norm):
            raise RunError(f"the norm of the gradient is {norm}")
        optimizer.step()
    else:
        norm, skipped = scaled_step(optimizer, model.parameters(), scaler, limit)
        if skipped and scaler.get_scale() < LEAST_SCALE:
            raise RunError("the gradient overflows at any scale: training has diverged")
    optimizer.zero_grad()
    if scheduler is not None and not skipped:
        scheduler.step()
    return StepResult(last, norm, skipped)
