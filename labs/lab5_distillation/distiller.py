"""A training loop for any objective: any pair of modules, any loss, any batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError, require
from labs.lab5_distillation.objectives import Objective

OnStep = Callable[[int, float], None]


class Loader(Protocol):
    """Batches of one epoch; a ``set_epoch(epoch)`` is called before each where there is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


def fit(
    objective: Objective,
    loader: Loader,
    optimizer: Optimizer,
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    max_norm: float | None = 1.0,
    autocast: torch.dtype | None = None,
    on_step: OnStep | None = None,
) -> list[float]:
    """Minimise ``objective`` over ``loader`` for ``epochs`` passes, in place.

    Parameters
    ----------
    scheduler
        Stepped after every batch.
    max_norm
        Largest L2 norm of the gradient of all of the objective's parameters; None leaves it.
    autocast
        Type for matrix products in the forward pass, such as ``torch.bfloat16``; None: as it is.
    on_step
        ``on_step(steps done, loss)`` after each batch.

    Returns
    -------
    list of float
        Mean loss of each epoch.
    """
    require(epochs >= 1, "epochs", epochs, "must be >= 1")
    parameters = [each for each in objective.parameters() if each.requires_grad]
    means, done = [], 0
    for epoch in range(epochs):
        set_epoch = getattr(loader, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        losses = []
        objective.train()
        for batch in loader:
            device = parameters[0].device.type
            cast: AbstractContextManager[Any] = (
                torch.autocast(device, autocast) if autocast else nullcontext()
            )
            with cast:
                loss = objective(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.detach())
            done += 1
            if on_step is not None:
                on_step(done, float(losses[-1]))
        if not losses:
            raise InputError("loader gave no batch")
        means.append(float(np.mean([float(each) for each in losses])))
    return means
