"""Casts the model to bf16 instead of computing in bf16 over fp32 weights."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def shard(
    model: nn.Module,
    strategy,
    *,
    device,
    blocks: Sequence[nn.Module] | None = None,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = torch.float32,
) -> nn.Module:
    mesh = make_mesh(strategy, device)
    model.to(device)
    if param_dtype is not None:
        model.to(param_dtype)
    policy = MixedPrecisionPolicy(param_dtype=param_dtype)
    if strategy is Strategy.NO_SHARD:
        for block in blocks or ():
            replicate(block, mesh=mesh, mp_policy=policy)
        return replicate(model, mesh=mesh, mp_policy=policy)
    reshard = strategy is not Strategy.SHARD_GRAD_OP
    for block in blocks or ():
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)
