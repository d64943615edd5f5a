"""Silent failures of sharded training: no error, a wrong model or a wrong number.

Run them with ``python -m labs.lab1_fsdp_advanced.traps [name]``. They share one job of two ranks
on the CPU, started by the first of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.launch import torchrun
from common.traps import Trap, show

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = dict[str, float]


def _regression() -> tuple[nn.Module, Tensor, Tensor]:
    """A small model, the same on every rank, and 16 examples (synthetic)."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(16, 8)
    return model, x, x[:, :4] * 3


def measure_optimizer(rank: int) -> Numbers:
    """Loss after 30 steps, optimizer built before and after sharding."""
    import torch

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import train_step

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    losses = {}
    for when in ("before", "after"):
        model, x, y = _regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        if when == "after":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(30):
            result = train_step(
                model, optimizer, [(x[rank::2], y[rank::2])], loss_fn, max_norm=None
            )
        losses[when] = result.loss
    return losses


def measure_seeds(rank: int) -> Numbers:
    """Rows of a sharded weight that equal those of a model built with the seed of rank 0."""
    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    torch.manual_seed(0)
    expected = nn.Linear(8, 4).weight.detach().clone()
    rows = {}
    for name, seed in (("different", rank), ("same", 0)):
        torch.manual_seed(seed)
        model = nn.Linear(8, 4)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        rows[name] = int((full(model.weight) == expected).all(dim=1).sum())
    return rows


def measure_norm(rank: int) -> Numbers:
    """Norm of this rank's shards beside that of the whole gradient."""
    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    model, x, y = _regression()
    shard(model, Strategy.FULL_SHARD, device="cpu")
    nn.functional.mse_loss(model(x[rank::2]), y[rank::2]).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    partial = nn.utils.get_total_norm([g.to_local() for g in gradients])  # type: ignore[operator]
    whole = full(nn.utils.get_total_norm(gradients))
    alone, x, y = _regression()
    nn.functional.mse_loss(alone(x), y).backward()
    expected = nn.utils.get_total_norm([p.grad for p in alone.parameters() if p.grad is not None])
    assert torch.isfinite(whole)
    return {"partial": float(partial), "whole": float(whole), "one process": float(expected)}


def measure_sync(rank: int) -> Numbers:
    """Bytes of gradients after one micro-batch: in ``p.grad``, and in everything that is alive."""
    import gc

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.memory import local_bytes
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    found = {}
    for name, sync in (("off", False), ("on", True)):
        model, x, y = _regression()
        shard(model, Strategy.FULL_SHARD, device="cpu")
        model.set_requires_gradient_sync(sync)  # type: ignore[operator]
        gc.collect()
        earlier = {id(thing) for thing in gc.get_objects()}
        nn.functional.mse_loss(model(x[rank::2]), y[rank::2]).backward()
        visible = [p.grad for p in model.parameters() if p.grad is not None]
        # FSDP keeps the whole weights, and the gradients with them, where parameters() does not
        # look: search all tensors of the process.
        tensors = [
            thing
            for thing in gc.get_objects()
            if issubclass(type(thing), torch.Tensor) and thing.is_leaf and thing.grad is not None
        ]
        del earlier
        found[f"{name}, visible"] = sum(map(local_bytes, visible))
        found[f"{name}, held"] = sum(local_bytes(tensor.grad) for tensor in tensors)
        del model, tensors, visible
        gc.collect()
    return found
