"""One objective on several ranks: each learns from a shard of every batch, as one process would.

torchrun starts the ranks. `replicate` (DDP) keeps a whole copy on each, `shard` (FSDP2) divides
parameters, gradients and optimizer state, of the student, of what a method adds and of the frozen
teacher. Build the optimizer afterwards: sharding replaces the parameters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from labs.lab5_distillation.batch_trees import Weighted, examples, rows, weighted
from labs.lab5_distillation.objectives import FrozenTeacher

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device


def world() -> int:
    """Number of ranks; 1 for a process on its own."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 for a process on its own."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(device: str, *, seed: int = 0) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, for the length of a block.

    Every rank draws from a seed of its own, so that their dropout masks differ; `replicate` and
    `shard` give all of them rank 0's weights.

    Parameters
    ----------
    device
        ``"cpu"`` (gloo) or ``"cuda"`` (nccl).
    """
    if "RANK" not in os.environ:
        raise InputError("no RANK in the environment: start this module with torchrun")
    place = torch.device("cpu")
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    torch.manual_seed(seed + rank())
    yield Ranks(rank(), world(), place)
    dist.destroy_process_group()


def leave() -> NoReturn:
    """End a rank that has done its work, without the interpreter's clean-up.

    gloo's threads outlive the group, and one of them may abort a rank that is shutting down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def replicate(objective: nn.Module) -> DistributedDataParallel:
    """The objective under DDP: gradients are averaged over the ranks. A collective.

    DDP gives every rank rank 0's weights. It cannot know of the teachers, which are no part of the
    objective: a teacher with a new head, say, would be another one on each rank.
    """
    for teacher in teachers(objective):
        from_rank_0(teacher)
    return DistributedDataParallel(objective)


def shard(objective: M) -> M:
    """The objective under FSDP2, with the teachers it asks. A collective; in place.

    Each layer of the student and of a teacher is a group of its own, gathered when it computes.
    The objective itself is the last group: the student's other parts, and what a method adds. So
    the gradient, and the norm it is clipped to, are those of one vector over everything.

    A frozen teacher has no backward pass that would shard its root again, so it is told to do so
    after the forward pass; by default its root's parameters would stay whole on every rank.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    learning = next(objective.parameters())
    mesh = init_device_mesh(learning.device.type, (world(),))
    from_rank_0(objective)
    for layer in layers(objective.student if hasattr(objective, "student") else objective):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    for teacher in teachers(objective):
        from_rank_0(teacher)
        for layer in layers(teacher):
            fully_shard(layer, mesh=mesh)
        fully_shard(teacher, mesh=mesh, reshard_after_forward=True)
    return objective


def from_rank_0(module: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers. A collective.

    Ranks that drew weights of their own would otherwise stitch one matrix from all of them.
    """
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, 0)


def layers(model: Any) -> list[nn.Module]:
    """The topmost ``nn.ModuleList``s' children: what a transformer repeats."""
    if isinstance(model, nn.ModuleList):
        return list(model)
    return [layer for child in model.children() for layer in layers(child)]


def teachers(objective: nn.Module) -> list[nn.Module]:
    """The models behind each `FrozenTeacher` that the objective has as an attribute."""
    held: list[Any] = []
    for value in vars(objective).values():
        held += value if isinstance(value, list | tuple) else [value]
    return [each.model for each in held if isinstance(each, FrozenTeacher)]


class Sharded:
    """A loader's batches, of which each rank takes every ``world``-th row.

    All ranks must be given the same batches: the same seed. Texts are padded to the longest of the
    whole batch, and rows that a `CachedTeacher` is asked for travel with their texts. A batch with
    fewer rows than ranks leaves some without any; they repeat its first row at weight 0, since
    every rank has to take part in every step.
    """

    def __init__(self, loader: Any, rank: int, world: int) -> None:
        self.loader, self.rank, self.world = loader, rank, world
        self.seed, self.size = getattr(loader, "seed", None), getattr(loader, "size", None)

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the loader, where it has an order for each epoch."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Weighted]:
        for whole in self.loader:
            given = weighted(whole)
            count = examples(given.batch)
            mine = range(self.rank, count, self.world)
            chosen = slice(self.rank, None, self.world) if mine else slice(0, 1)
            yield Weighted(rows(given.batch, chosen), given.weight * len(mine) / count)


def sums(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value summed over the ranks. A collective."""
    if world() == 1:
        return list(values)
    held = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(held)
    found: list[float] = held.tolist()
    return found


def everybodys(value: Any) -> list[Any]:
    """What each rank holds, by rank. A collective."""
    found: list[Any] = [value] * world()
    if world() > 1:
        dist.all_gather_object(found, value)
    return found


def rank_0s(value: Any) -> Any:
    """What rank 0 holds. A collective."""
    found = [value]
    if world() > 1:
        dist.broadcast_object_list(found, 0)
    return found[0]


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; any other as it is. A collective for sharded ones."""
    gather = getattr(tensor, "full_tensor", None)
    found: Tensor = tensor if gather is None else gather()
    return found
