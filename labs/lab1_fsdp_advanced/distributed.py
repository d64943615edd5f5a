"""Start and end a rank: the same code under torchrun, on its own, on CPUs and on GPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from common.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """Who this process is among the processes that train together.

    Attributes
    ----------
    rank, world : int
        This process and how many there are, over all nodes.
    local_rank, local_world : int
        The same on this node; the local rank is the number of the GPU.
    device : torch.device
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0


def init(device: str, *, seed: int = 0) -> Ranks:
    """Join the other ranks and seed this one.

    torchrun describes the ranks in the environment (``RANK``, ``WORLD_SIZE``, ...). Without it
    this process is a world of one, and everything else stays the same.

    Parameters
    ----------
    device
        ``"cpu"`` (gloo) or ``"cuda"`` (nccl, with gloo beside it for tensors on the CPU).
    seed
        The same on every rank: a model built afterwards starts equal everywhere. Ranks with
        seeds of their own would stitch one weight together from different initialisations.

    Raises
    ------
    InputError
        For another device, ``"cuda"`` with fewer GPUs than ranks on this node, or a process that
        has already joined.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device = {device!r} must be 'cpu' or 'cuda'")
    if dist.is_initialized():
        raise InputError("this process has already joined a group; leave it with close() first")
    rank, world = _from_env("RANK", 0), _from_env("WORLD_SIZE", 1)
    local_rank, local_world = _from_env("LOCAL_RANK", 0), _from_env("LOCAL_WORLD_SIZE", 1)
    place = torch.device("cpu")
    if device == "cuda":
        if torch.cuda.device_count() < local_world:
            raise InputError(
                f"{local_world} ranks on this node need as many GPUs, and it has "
                f"{torch.cuda.device_count()}; lower --procs or take --device cpu"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    torch.manual_seed(seed)
    return Ranks(rank, world, local_rank, local_world, place)


def close() -> None:
    """Leave the group: frees its threads and sockets."""
    dist.destroy_process_group()


def leave() -> NoReturn:
    """End a rank that has done its work, without the interpreter's clean-up.

    DTensor's caches keep gloo's threads alive past :func:`close`. In the interpreter's shutdown
    such a thread can still ask for the interpreter's lock, and then aborts a rank that succeeded
    (seen in about one of twenty runs on a busy machine). Call it last, after ``close``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def process_group(device: str, *, seed: int = 0) -> Iterator[Ranks]:
    """:func:`init` for the length of a block.

    When the block fails, the group is left alone: the other ranks may be inside a collective that
    this one will never enter, and torchrun stops them all once this process has ended.
    """
    ranks = init(device, seed=seed)
    yield ranks
    close()


def _from_env(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
