"""The process group: the same code under torchrun, or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from common.ports import LOOPBACK, free_port


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks, and the device it computes on."""

    rank: int
    local_rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone prints and writes single files."""
        return self.rank == 0


@contextmanager
def process_group(device: str, *, seed: int = 0) -> Iterator[Ranks]:
    """Join the group that torchrun describes, or form a group of one.

    Parameters
    ----------
    device
        ``"cpu"`` (gloo) or ``"cuda"`` (NCCL, with gloo beside it for CPU tensors, which
        asynchronous checkpoints need).
    seed
        Given to every rank alike: ranks that initialise a model differently would stitch one
        weight together from different drafts, without an error.
    """
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": LOOPBACK}
        os.environ.update(alone | {"MASTER_PORT": str(free_port())})
    local_rank = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        chosen = torch.device("cuda", local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=chosen)
    else:
        chosen = torch.device("cpu")
        dist.init_process_group("gloo")
    torch.manual_seed(seed)
    try:
        yield Ranks(dist.get_rank(), local_rank, dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()
