"""A training loop for any objective: any pair of modules, any loss, any batches, any ranks."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError, RunError, require
from labs.lab5_distillation import distiller_checkpoint as saved
from labs.lab5_distillation.batch_trees import Weighted, weighted
from labs.lab5_distillation.distiller_checkpoint import Progress
from labs.lab5_distillation.distributed import everybodys, rank, sums, whole, world
from labs.lab5_distillation.resuming import Place, generators, rest_of_epoch

OnStep = Callable[[int, float], None]
NAMED = 3


class Loader(Protocol):
    """Batches of one epoch; a ``set_epoch(epoch)`` is called before each where there is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


class NotFinite(ArithmeticError):
    """A step's loss or gradient is NaN or infinite; nothing has been changed."""

    def __init__(self, what: str, value: float, own: float) -> None:
        super().__init__(f"{what} is {value}")
        self.own = own


def fit(
    objective: nn.Module,
    loader: Loader,
    optimizer: Optimizer,
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    max_norm: float | None = 1.0,
    autocast: torch.dtype | None = None,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    accumulate: int = 1,
    bad_batches: Path | None = None,
) -> list[float]:
    """Minimise ``objective`` over ``loader`` for ``epochs`` passes, in place.

    On several ranks it is a collective: see `distributed` for ``objective`` and ``loader``.

    Parameters
    ----------
    objective
        A module that gives the loss of a batch: see `objectives`.
    loader
        Its batches may be anything that the objective reads; nothing moves them to a device. The
        loss of a batch counts by its number of examples, or by what `batch_trees.Weighted` says.
    optimizer
        Over all of the objective's parameters that learn.
    scheduler
        Stepped after every step of the optimizer.
    max_norm
        Largest L2 norm of the gradient of all of the objective's parameters; None leaves it.
    autocast
        Type for matrix products in the forward pass, such as ``torch.bfloat16``; None: as it is.
    on_step
        ``on_step(steps done, loss)`` after each step.
    checkpoint
        A file. Where it exists the run goes on from it, to the same losses as if it had never
        stopped; a finished run returns at once with its weights. Written every ``every`` steps, at
        the end, and on SIGINT or SIGTERM (after the step or the checkpoint that is under way; a
        second signal does not wait). Remove it to start anew.
    every
        Steps between two checkpoints.
    accumulate
        Batches of one step: its loss is the mean over all their examples.
    bad_batches
        Folder for the batches of a step that is not finite; None: beside the checkpoint.

    Returns
    -------
    list of float
        Mean loss of each epoch, over its steps.

    Raises
    ------
    InputError
        An option out of range, a loader without batches, an optimizer that is not over the
        objective's parameters, a checkpoint of another run.
    RunError
        A loss or gradient that is NaN or infinite: the weights are those before that step. A
        checkpoint that cannot be written or read.
    """
    require(epochs >= 1, "epochs", epochs, "must be >= 1")
    require(every >= 1, "every", every, "must be >= 1")
    require(accumulate >= 1, "accumulate", accumulate, "must be >= 1")
    parameters = learning(objective, optimizer)
    plan = saved.plan_of(
        objective, loader, optimizer, scheduler,
        epochs=epochs, accumulate=accumulate, max_norm=max_norm, autocast=str(autocast),
    )  # fmt: skip
    for number, other in enumerate(everybodys(plan)):
        saved.require_same_plan(
            other, plan, "the ranks differ", f"on rank {number}", "give all ranks the same run"
        )
    progress = Progress()
    if checkpoint is not None:
        progress = saved.load(checkpoint, objective, optimizer, scheduler, plan) or progress

    def save() -> None:
        if checkpoint is not None:
            saved.save(checkpoint, objective, optimizer, scheduler, progress, plan)

    unsaved = False
    with Asked(listen=checkpoint is not None) as asked:
        for epoch in range(progress.place.epoch, epochs):
            at_start = progress.place.at_start or generators()
            batches = map(weighted, rest_of_epoch(loader, progress.place))
            for group in groups(batches, accumulate):
                before = generators()
                weight, stop = sums(
                    [sum(each.weight for each in group), float(asked.number is not None)],
                    parameters[0].device,
                )
                try:
                    loss = train_step(
                        objective, group, optimizer, parameters,
                        total=weight, max_norm=max_norm, autocast=autocast,
                    )  # fmt: skip
                except NotFinite as error:
                    folder = bad_batches or (checkpoint.parent if checkpoint else None)
                    raise stopped(error, group, before, progress, folder) from error
                if scheduler is not None:
                    scheduler.step()
                progress.place = saved.now_at(epoch, progress.place.batches + len(group), at_start)
                progress.steps += 1
                progress.total += loss
                progress.counted += 1
                unsaved = True
                if on_step is not None:
                    try:
                        on_step(progress.steps, loss)
                    except KeyboardInterrupt:
                        if world() == 1:
                            save()
                        raise
                if stop or (world() == 1 and asked.number is not None):
                    save()
                    asked.answer()
                if checkpoint is not None and progress.steps % every == 0:
                    save()
                    unsaved = False
            if not progress.counted:
                raise InputError("loader gave no batch")
            progress.means.append(progress.total / progress.counted)
            progress.total, progress.counted = 0.0, 0
            progress.place = Place(epoch + 1)
            unsaved = True
        if unsaved:
            save()
    # A signal that came after the last step: everything is saved, and it still has to be answered.
    (late,) = sums([float(asked.number is not None)], parameters[0].device)
    if late:
        asked.answer()
    return list(progress.means)


def train_step(
    objective: nn.Module,
    batches: Sequence[Weighted],
    optimizer: Optimizer,
    parameters: Sequence[Tensor],
    *,
    total: float,
    max_norm: float | None = 1.0,
    autocast: torch.dtype | None = None,
) -> float:
    """One step of the optimizer over several batches. A collective.

    Parameters
    ----------
    batches
        This rank's; each loss is a mean that counts by the batch's weight.
    parameters
        All that learns.
    total
        Sum of the weights over all batches and ranks. DDP and FSDP average gradients over the
        ranks, as though all had the same weight: a loss is scaled by ``weight * ranks / total``.
    max_norm, autocast
        See `fit`.

    Returns
    -------
    float
        The mean loss over all batches and ranks, before the step.

    Raises
    ------
    NotFinite
        On every rank; parameters, buffers and the optimizer's state are as before.
    """
    if total <= 0:
        raise InputError(f"the batches of a step weigh {total} together; that must be > 0")
    buffers = [(each, each.clone()) for each in objective.buffers()]
    objective.train()
    optimizer.zero_grad(set_to_none=True)
    own = 0.0
    for number, given in enumerate(batches, 1):
        device = parameters[0].device.type
        cast: AbstractContextManager[Any] = (
            torch.autocast(device, autocast) if autocast else nullcontext()
        )
        with _without_sync(objective, number < len(batches)):
            with cast:
                loss = objective(given.batch)
            (loss * (given.weight * world() / total)).backward()
        own += float(loss.detach()) * (given.weight / total)
    (mean,) = sums([own], parameters[0].device)
    # Clipping to infinity changes nothing and gives the norm.
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    size = float(whole(norm))
    if not (math.isfinite(mean) and math.isfinite(size)):
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)
        if not math.isfinite(mean):
            raise NotFinite("the loss", mean, own)
        raise NotFinite("the norm of the gradient", size, own)
    optimizer.step()
    return mean


def learning(objective: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """The objective's parameters that learn, all of which the optimizer must hold.

    Raises
    ------
    InputError
        None learns; the optimizer lacks some, or holds others: a teacher's, or those of before
        `distributed.shard` replaced them.
    """
    named = {name: each for name, each in objective.named_parameters() if each.requires_grad}
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    lacks = [name for name, each in named.items() if id(each) not in held]
    if not named:
        raise InputError("the objective has no parameter that learns (requires_grad)")
    if lacks:
        raise InputError(
            f"the optimizer lacks {len(lacks)} of the objective's {len(named)} parameters "
            f"({', '.join(lacks[:NAMED])}); build it over objective.parameters(), after sharding, "
            "and freeze what shall not learn with requires_grad_(False)"
        )
    if foreign := held - {id(each) for each in objective.parameters()}:
        raise InputError(
            f"the optimizer holds {len(foreign)} parameters that are not the objective's, such as "
            "a teacher's; build it over objective.parameters()"
        )
    return list(named.values())


def groups(batches: Iterator[Weighted], size: int) -> Iterator[list[Weighted]]:
    """Lists of ``size`` batches; the last of an epoch may be shorter."""
    while group := list(islice(batches, size)):
        yield group


def stopped(
    error: NotFinite,
    batches: list[Weighted],
    before: dict[str, Any],
    progress: Progress,
    folder: Path | None,
) -> RunError:
    """Save the batches of a step that is not finite, and say where it was.

    When a rank's own loss is finite and the mean is not, another rank's batch is the bad one.
    """
    step, place = progress.steps + 1, progress.place
    where = (
        f"{error} at step {step} (epoch {place.epoch}, batch {place.batches} of it, from 0); the "
        "weights are those before that step"
    )
    if folder is None:
        return RunError(
            f"{where}; its batch was not saved: train again with bad_batches= (a folder) or "
            "checkpoint= (a file, beside which it is then) to have it"
        )
    try:
        path = saved.save_batches(
            folder, f"bad-step-{step}", batches, before, step=step, loss=error.own,
        )  # fmt: skip
    except OSError as failure:
        return RunError(f"{where}; its batch could not be saved to {folder}: {failure}")
    return RunError(f"{where}; its batch is torch.load('{path}', weights_only=True)['batches']")


class Asked:
    """Whether a signal has asked the run to stop.

    A step is not cut in two: the first SIGINT or SIGTERM is remembered, and answered when a step
    is done and saved, in the way it would have been without us. The second is answered at once.
    """

    def __init__(self, *, listen: bool) -> None:
        self.number: int | None = None
        self.listen = listen and threading.current_thread() is threading.main_thread()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Asked:
        for number in (signal.SIGINT, signal.SIGTERM) if self.listen else ():
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self.before[number] = handler
                signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: object) -> None:
        if self.number is not None:
            self.__exit__()
            signal.raise_signal(number)
        self.number = number

    def answer(self) -> None:
        """Do what the signal would have done; on another rank, end as after SIGINT."""
        self.__exit__()
        if self.number is not None:
            signal.raise_signal(self.number)
        raise KeyboardInterrupt(f"rank {rank()} was asked to stop")


def _without_sync(objective: nn.Module, more: bool) -> AbstractContextManager[Any]:
    """DDP averages gradients once a step; FSDP after every batch, so as to hold shards only."""
    if more and isinstance(objective, DistributedDataParallel):
        return objective.no_sync()
    return nullcontext()
