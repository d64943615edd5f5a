"""One training step over several ranks: accumulate, synchronise once, clip, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.exercises import exercise

LossFn = Callable[[nn.Module, Any], Tensor]
"""(model, micro batch) -> scalar. It must call ``model(...)``: under FSDP the other methods see
sharded parameters."""
Batches = Callable[[int], Sequence[Any]]
"""Step number -> this rank's micro batches. A function of the step alone, so that a resumed run
sees exactly the batches it would have seen."""


@dataclass(frozen=True)
class StepResult:
    """Mean loss of the rank's micro batches, and the norm of the whole gradient before clipping."""

    loss: float
    grad_norm: float


@exercise(
    "1.2",
    points=8,
    title="A training step with gradient accumulation",
    hint="Synchronise gradients only with the last micro batch, scale each loss so that the sum is "
    "a mean, and remember that the norm of a sharded gradient is itself sharded.",
)
def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[Any],
    loss_fn: LossFn,
    *,
    max_norm: float,
    scheduler: LRScheduler | None = None,
) -> StepResult:
    """Accumulate the gradients of ``micro_batches``, clip, and update once.

    The gradient is that of the mean loss over micro batches and ranks. Ranks exchange gradients
    only in the last backward pass; before it each holds its own unsharded sum (which costs the
    memory that ZeRO-2 and 3 save).

    Parameters
    ----------
    micro_batches
        At least one; handed to ``loss_fn`` one by one.
    loss_fn
        ``loss_fn(model, micro_batch)`` returns a scalar mean.
    max_norm
        The gradient is scaled so that its global L2 norm is at most this.
    scheduler
        Stepped after the optimizer.
    """
    total = 0.0
    # Sets total, the sum of the scaled losses, and norm, that of the whole gradient.
    # BEGIN SOLUTION
    for number, batch in enumerate(micro_batches, 1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(number == len(micro_batches))
        loss = loss_fn(model, batch) / len(micro_batches)
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    # END SOLUTION
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if scheduler is not None:
        scheduler.step()
    return StepResult(total, float(norm))


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Batches,
    loss_fn: LossFn,
    *,
    steps: range,
    max_norm: float = 1.0,
    scheduler: LRScheduler | None = None,
    on_step: Callable[[int, StepResult], None] | None = None,
) -> list[StepResult]:
    """Train for the given step numbers.

    Parameters
    ----------
    steps
        For example ``range(resumed_at, total)``.
    on_step
        Called after each step with its number: report, checkpoint.
    """
    model.train()
    results = []
    for step in steps:
        result = train_step(
            model, optimizer, batches(step), loss_fn, max_norm=max_norm, scheduler=scheduler
        )
        results.append(result)
        if on_step is not None:
            on_step(step, result)
    return results


def cosine_schedule(
    optimizer: Optimizer, total: int, *, warmup: float = 0.1, floor: float = 0.05
) -> LRScheduler:
    """Linear warm-up over a share of ``total`` steps, then cosine decay to ``floor`` of the peak."""
    from math import cos, pi

    def factor(step: int) -> float:
        rising = (step + 1) / max(1.0, warmup * total)
        falling = floor + (1 - floor) * 0.5 * (1 + cos(pi * min(step, total) / total))
        return min(rising, 1.0) * falling

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
