"""What a training run is resumed from: one file, whole or absent, for any number of ranks.

The state is whatever `torch.distributed.checkpoint.state_dict` calls by its path in the model
(``student.head.weight``), gathered on rank 0: a process on its own, DDP and FSDP write the same
file, and each can go on from the others'.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError, RunError
from labs.lab5_distillation.batch_trees import Weighted, plain
from labs.lab5_distillation.distributed import everybodys, rank, rank_0s, world
from labs.lab5_distillation.resuming import Generators, Place, generators

FORMAT = 1
PARTIAL = ".partial"
Plan = dict[str, Any]


@dataclass
class Progress:
    """How far a run has come.

    Attributes
    ----------
    place
        Where it goes on.
    steps
        Steps of the optimizer so far.
    total, counted
        Sum and number of the losses of the epoch that has begun.
    means
        Mean loss of each finished epoch.
    """

    place: Place = field(default_factory=lambda: Place(0))
    steps: int = 0
    total: float = 0.0
    counted: int = 0
    means: list[float] = field(default_factory=list)


def inner(objective: nn.Module) -> nn.Module:
    """The objective itself, under DDP or not."""
    return objective.module if isinstance(objective, DistributedDataParallel) else objective


def plan_of(
    objective: nn.Module, loader: Any, optimizer: Optimizer, scheduler: Any, **options: Any
) -> Plan:
    """What makes a run this one and no other; a checkpoint of another plan is refused.

    Of the objective its class, the numbers and words among its attributes (temperature, alpha; also
    dataclasses of nothing else) and the shapes of its parameters; of the loader its length, seed
    and batch size; of the optimizer its class and the rates it started from. A teacher's weights
    are not looked at: give the objective an attribute with the teacher's name or fingerprint, and
    it is.
    """
    known = inner(objective)
    words = {
        key: repr(value) if is_dataclass(value) else plain(value)
        for key, value in vars(known).items()
        if _is_plain(value) and key != "training" and key[0] != "_"
    }
    return {
        **options,
        "objective": type(known).__name__.removeprefix("FSDP"),
        **{f"objective.{key}": value for key, value in sorted(words.items())},
        "optimizer": type(optimizer).__name__,
        "rates": [float(each.get("initial_lr", each["lr"])) for each in optimizer.param_groups],
        "scheduler": type(scheduler).__name__,
        "batches": len(loader) if hasattr(loader, "__len__") else None,
        **{f"loader.{key}": plain(getattr(loader, key, None)) for key in ("seed", "size")},
        "shapes": {
            name.replace("_orig_mod.", ""): list(each.shape)
            for name, each in known.state_dict().items()
            if hasattr(each, "shape")
        },
    }


def _is_plain(value: Any) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, each.name)) for each in fields(value))
    return isinstance(value, bool | int | float | str | None)


def require_same_plan(saved: Plan, ours: Plan, where: str, other: str, fix: str) -> None:
    """Refuse to go on with another run.

    Raises
    ------
    InputError
        With the first values that differ.
    """
    for key in ours.keys() | saved.keys():
        if key == "shapes" or saved.get(key) == ours.get(key):
            continue
        raise InputError(
            f"{where}: {key} is {saved.get(key)!r} {other} and {ours.get(key)!r} here; {fix}"
        )
    theirs, here = saved["shapes"], ours["shapes"]
    differ = sorted(key for key in theirs.keys() | here.keys() if theirs.get(key) != here.get(key))
    if differ:
        name = differ[0]
        raise InputError(
            f"{where}: {len(differ)} tensors have other shapes {other}; {name} has "
            f"{theirs.get(name, 'none')} {other} and {here.get(name, 'none')} here; {fix}"
        )


def save(
    path: Path,
    objective: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    progress: Progress,
    plan: Plan,
) -> None:
    """Write a checkpoint over the last one, by rank 0, whole or not at all. A collective.

    Raises
    ------
    RunError
        On every rank, when the disk does not take it; the last checkpoint is as it was.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    place = progress.place
    state = {
        "format": FORMAT,
        "plan": plan,
        "model": get_model_state_dict(objective, options=options),
        "optimizer": _optimizer_state(objective, optimizer, options),
        "scheduler": None if scheduler is None else _readable(scheduler),
        "progress": {**vars(progress), "place": [place.epoch, place.batches]},
        "generators": everybodys((place.at_start, place.now)),
    }
    failure = ""
    if rank() == 0:
        try:
            write_whole(path, lambda stream: torch.save(state, stream))
        except OSError as error:
            failure = (
                f"the checkpoint of step {progress.steps} was not written to {path}: {error}; the "
                "one before it is as it was; make room or give another place"
            )
    if failure := rank_0s(failure):
        raise RunError(failure)


def load(
    path: Path,
    objective: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    plan: Plan,
) -> Progress | None:
    """Go back to a checkpoint, in place; None when there is none. A collective.

    The number of ranks may differ from those that saved it. Generators are those of the same
    rank; where there was none, they are left as they are.

    Raises
    ------
    InputError
        The checkpoint is another run's.
    RunError
        It cannot be read.
    """
    state: dict[str, Any] = {"model": {}, "optimizer": {}}
    rest: Any = None
    if rank() == 0:
        with _told(lambda: rank_0s((None, None))):
            if path.exists():
                state = read(path)
                require_same_plan(
                    state["plan"], plan, f"{path} is another run's", "there",
                    "remove it to start anew, or give another place",
                )  # fmt: skip
                rest = {key: state[key] for key in ("scheduler", "progress", "generators")}
                rest["learnt"] = list(state["optimizer"]["state"])
                rest["groups"] = state["optimizer"]["param_groups"]
        found = rank_0s((True, rest))
    else:
        found = rank_0s(None)
    fine, rest = found
    if not fine:
        raise RunError("rank 0 could not go on from the checkpoint; see its message")
    if rest is None:
        return None
    options = StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=world() > 1, cpu_offload=world() == 1
    )
    set_model_state_dict(objective, state["model"], options=options)
    _set_optimizer(objective, optimizer, state["optimizer"], rest)
    if scheduler is not None:
        scheduler.load_state_dict(rest["scheduler"])
    saved: list[tuple[Generators | None, Generators | None]] = rest["generators"]
    epoch, batches = rest["progress"].pop("place")
    at_start, now = saved[rank()] if rank() < len(saved) else (None, None)
    return Progress(place=Place(epoch, batches, at_start, now), **rest["progress"])


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's parts; nothing in it is executed.

    Raises
    ------
    RunError
        A file that is no checkpoint, or a damaged one.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise RunError(f"{path} is no checkpoint of format {FORMAT}; remove it to start anew")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if isinstance(error, RunError):
            raise
        said = str(error).partition("\n")[0]
        raise RunError(f"{path} cannot be read ({said}); remove it to start anew") from error
    return state


def save_batches(
    folder: Path, name: str, batches: list[Weighted], before: Generators, **facts: Any
) -> Path:
    """Write what a step was made of; `torch.load(path, weights_only=True)` reads it.

    Dataclasses become dicts. ``generators`` are those before the step, for
    `resuming.set_generators`: with them dropout repeats.
    """
    path = folder / (f"{name}.pt" if world() == 1 else f"{name}.rank-{rank()}.pt")
    held = [plain(each.batch) for each in batches]
    weights = [each.weight for each in batches]
    state = {**facts, "batches": held, "weights": weights, "generators": before}
    write_whole(path, lambda stream: torch.save(state, stream))
    return path


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file beside its place, force it to the disk, then give it its name.

    Raises
    ------
    OSError
        The disk is full, say; nothing is left of the new file, and the old one is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            careful = _Careful(stream)
            try:
                write(careful)
            except RuntimeError as error:  # torch's own words for what the disk has said
                raise (careful.failure or error) from error
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Careful:
    """A stream that remembers what the disk said: torch.save would forget it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count: int = self.stream.write(data)
        except OSError as error:
            self.failure = error
            raise
        return count

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def _told(tell: Callable[[], object]) -> Iterator[None]:
    """Let the other ranks know before an error ends this one."""
    try:
        yield
    except (InputError, RunError):
        tell()
        raise


def _optimizer_state(
    objective: nn.Module, optimizer: Optimizer, options: StateDictOptions
) -> dict[str, Any]:
    state: dict[str, Any] = get_optimizer_state_dict(objective, optimizer, options=options)
    return state or {"state": {}, "param_groups": []}


def _set_optimizer(
    objective: nn.Module, optimizer: Optimizer, state: dict[str, Any], rest: dict[str, Any]
) -> None:
    """Moments by name, and the groups' rates; what had no moments then, has none now."""
    optimizer.zero_grad(set_to_none=True)
    if rest["learnt"]:
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=world() > 1, strict=False
        )
        set_optimizer_state_dict(objective, optimizer, state, options=options)
        learnt = set(rest["learnt"])
        for name, parameter in inner(objective).named_parameters():
            if name.replace("_orig_mod.", "") not in learnt:
                optimizer.state.pop(parameter, None)
    for group, saved in zip(optimizer.param_groups, rest["groups"], strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})


def _readable(scheduler: LRScheduler) -> dict[str, Any]:
    """A scheduler's state, which must be one that can be read back without running code."""
    state: dict[str, Any] = scheduler.state_dict()
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    try:
        torch.load(held, weights_only=True)
    except pickle.UnpicklingError as error:
        said = next(line for line in str(error).splitlines() if "nsupported" in line or line)
        raise InputError(
            f"the state of {type(scheduler).__name__} holds more than plain values ({said}); let "
            "its functions return Python numbers"
        ) from error
    return state


def now_at(epoch: int, batches: int, at_start: Generators) -> Place:
    """The place after a step, with the generators as they are."""
    return Place(epoch, batches, at_start, generators())
