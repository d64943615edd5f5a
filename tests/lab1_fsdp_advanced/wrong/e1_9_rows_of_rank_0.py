"""Reads whole weights on every rank, and every rank keeps the first rows: those of rank 0."""

from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer


def read(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    if optimizer is not None:
        initialise(model, optimizer)
    state = state_of(model, optimizer)
    shards = state["model"]
    state["model"] = {name: torch.empty(shard.shape) for name, shard in shards.items()}
    state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())
    for name, shard in shards.items():
        local = shard.to_local() if hasattr(shard, "to_local") else shard
        with torch.no_grad():
            local.copy_(state["model"][name][: len(local)])
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
