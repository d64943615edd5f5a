"""One training step over micro-batches, and the loop around it that can be interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from common.errors import InputError, RunError
from common.exercises import exercise
from labs.lab1_fsdp_advanced import checkpoint
from labs.lab1_fsdp_advanced.async_checkpoint import Saver, Timing
from labs.lab1_fsdp_advanced.precision import scaled_step

Batch = TypeVar("Batch")
Batches = Callable[[int, int, int], Sequence[Batch]]
LossFn = Callable[[nn.Module, Batch], Tensor]

LEAST_SCALE = 1e-4
"""Scale of a gradient scaler below which training has diverged: fairseq's limit."""


@dataclass(frozen=True)
class StepResult:
    """What one step did: loss before it, and the gradient's norm before clipping.

    ``skipped``: a gradient scaler left the step out because the scaled gradient overflowed.
    """

    loss: float
    grad_norm: float
    skipped: bool = False


@dataclass
class Fitted:
    """What :func:`fit` did: the step it began at, one result for each step since, its saves."""

    first_step: int
    history: list[StepResult] = field(default_factory=list)
    saves: list[Timing] = field(default_factory=list)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a scalar over all ranks, on every rank."""
    total = value.detach().float().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def full(value: Tensor) -> Tensor:
    """The whole tensor on every rank, of a DTensor or a plain tensor. A collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@exercise(
    "1.2",
    points=10,
    title="A training step with gradient accumulation",
    hint="Gradients add up in p.grad by themselves. Decide for each micro-batch whether the ranks "
    "must talk (model.set_requires_gradient_sync), and ask what a norm of shards is the norm of.",
)
def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    loss_fn: LossFn[Batch],
    *,
    max_norm: float | None,
    scheduler: LRScheduler | None = None,
    scaler: GradScaler | None = None,
    reshard_between: bool = True,
) -> StepResult:
    """Accumulate gradients over the micro-batches, clip, step, and clear the gradients.

    The gradient is that of one batch made of all micro-batches of all ranks, when each loss is a
    mean over equally many targets: micro-batches are averaged here, ranks by FSDP.

    Ranks exchange gradients only after the last micro-batch. Until then each holds *whole*
    gradients, not shards: accumulation without communication costs ZeRO-2 and 3 that memory.
    (HYBRID_SHARD has a middle way, ``set_requires_all_reduce``: reduce within the group after
    each micro-batch, and between the groups only after the last.)

    Parameters
    ----------
    model
        As returned by ``shard``.
    micro_batches
        At least one; the same number on every rank.
    loss_fn
        ``loss_fn(model, batch)`` -> scalar. It must call ``model(...)``: other methods see shards.
    max_norm
        Largest L2 norm of the whole gradient; None leaves it as it is.
    scheduler
        Stepped once, after the optimizer; not when the step is left out.
    scaler
        For fp16: scale each loss by it before its backward pass, and let
        ``precision.scaled_step`` clip and step. The loss returned is the plain one.
    reshard_between
        False keeps the weights whole until the last micro-batch's backward pass is done
        (``model.set_reshard_after_backward``): ZeRO-1, which gathers once a step. It takes a
        strategy that keeps them after the forward pass as well.

    Returns
    -------
    StepResult
        Mean loss over micro-batches and ranks, and the norm of the whole gradient before
        clipping; both equal on every rank.

    Raises
    ------
    InputError
        Without micro-batches.
    RunError
        When the gradient is not finite, before it reaches the weights. A scaler leaves such a
        step out and goes on, until its scale is below ``LEAST_SCALE``: then it is not the scale.
    """
    if not micro_batches:
        raise InputError("micro_batches is empty: a step needs at least one")
    count = len(micro_batches)
    losses = []
    for number, batch in enumerate(micro_batches, start=1):
        last = number == count
        model.set_requires_gradient_sync(last)  # type: ignore[operator]
        if not reshard_between:
            model.set_reshard_after_backward(last)  # type: ignore[operator]
        loss = loss_fn(model, batch) / count
        losses.append(loss.detach().float())
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
    limit = math.inf if max_norm is None else max_norm
    skipped = False
    if scaler is None:
        # A DTensor's norm is one of shards until it is reduced; full_tensor() reduces it.
        norm = float(full(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        if not math.isfinite(norm):
            raise RunError(f"the gradient's norm is {norm}; lower the learning rate or max_norm")
        optimizer.step()
    else:
        norm, skipped = scaled_step(optimizer, model.parameters(), scaler, limit)
        if skipped and scaler.get_scale() < LEAST_SCALE:
            raise RunError(
                f"the gradient overflows at a scale of {scaler.get_scale():.3g} still, so training "
                "has diverged; lower the learning rate, or take bf16"
            )
    optimizer.zero_grad()
    if scheduler is not None and not skipped:
        scheduler.step()
    return StepResult(float(mean_over_ranks(torch.stack(losses).sum())), norm, skipped)


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Batches[Batch],
    loss_fn: LossFn[Batch],
    *,
    steps: int,
    max_norm: float | None = 1.0,
    scheduler: LRScheduler | None = None,
    scaler: GradScaler | None = None,
    reshard_between: bool = True,
    seed: int = 0,
    directory: Path | None = None,
    save_every: int = 0,
    asynchronous: bool = False,
    extra: dict[str, Any] | None = None,
    on_step: Callable[[int, StepResult], None] | None = None,
) -> Fitted:
    """Train up to ``steps`` steps; with ``directory``, go on from its newest checkpoint.

    An interrupted run that is started again gives what the uninterrupted one would have given:
    the batches of a step depend on nothing but its number, and every step seeds its own random
    numbers (dropout) from ``(seed, step, rank)``.

    Parameters
    ----------
    batches
        ``batches(step, rank, world)`` -> micro-batches of this rank for step 0, 1, ... It must
        depend on its arguments only. Take the global batch from the step, and this rank's share
        of it from rank and world, and the run can go on with another number of ranks.
    loss_fn, scaler, reshard_between
        See :func:`train_step`.
    steps
        Number of the last step; a checkpoint at step k leaves ``steps - k`` to do.
    directory
        Where checkpoints are kept, the same folder for every rank.
    save_every
        Steps between checkpoints, and one after the last step; 0 saves none.
    asynchronous
        Train on while a checkpoint is written: see ``async_checkpoint.Saver``.
    extra
        JSON values kept with each checkpoint, such as the configuration.
    on_step
        ``on_step(done, result)`` after each step, on every rank.

    Raises
    ------
    InputError
        ``save_every`` without a directory, or a checkpoint without the state of ``scheduler`` or
        ``scaler``.
    """
    if save_every and directory is None:
        raise InputError(f"save_every = {save_every} needs a directory to save in")
    rank, world = dist.get_rank(), dist.get_world_size()
    loaded = None if directory is None else checkpoint.load(directory, model, optimizer)
    for name, part in (("scheduler", scheduler), ("scaler", scaler)):
        if loaded is not None and part is not None:
            if name not in loaded.extra:
                raise InputError(
                    f"the checkpoint of step {loaded.step} in {directory} has no {name}; go on as "
                    "the run that saved it, or give another directory"
                )
            part.load_state_dict(loaded.extra[name])
    fitted = Fitted(0 if loaded is None else loaded.step)
    model.train()
    with _saver(directory, save_every, asynchronous) as saver:
        for step in range(fitted.first_step, steps):
            torch.manual_seed(Random(f"{seed}, {step}, {rank}").getrandbits(63))
            result = train_step(
                model,
                optimizer,
                batches(step, rank, world),
                loss_fn,
                max_norm=max_norm,
                scheduler=scheduler,
                scaler=scaler,
                reshard_between=reshard_between,
            )
            fitted.history.append(result)
            done = step + 1
            if saver is not None and (done % save_every == 0 or done == steps):
                kept = dict(extra or {})
                for name, part in (("scheduler", scheduler), ("scaler", scaler)):
                    if part is not None:
                        kept[name] = part.state_dict()
                saver.save(model, optimizer, done, kept)
            elif saver is not None and asynchronous:
                saver.poll()
            if on_step is not None:
                on_step(done, result)
    if saver is not None:
        fitted.saves = saver.timings
    return fitted


def _saver(
    directory: Path | None, save_every: int, asynchronous: bool
) -> AbstractContextManager[Saver | None]:
    if directory is None or not save_every:
        return nullcontext()
    return Saver(directory, asynchronous=asynchronous)


def cosine_schedule(
    optimizer: Optimizer, steps: int, *, warmup: float = 0.1, floor: float = 0.05
) -> LRScheduler:
    """Linear warm-up over a share of ``steps``, then cosine decay to ``floor`` of the peak."""

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / max(1.0, warmup * steps))
        wave = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
        return rising * (floor + (1 - floor) * wave)

    return LambdaLR(optimizer, factor)
