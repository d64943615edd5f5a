"""Wraps only the root: one group, so the whole model is gathered before anything runs."""

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
    policy = precision(param_dtype, reduce_dtype, root=True)
    if strategy is Strategy.NO_SHARD:
        return replicate(model, mesh=mesh, mp_policy=policy)
    return fully_shard(
        model,
        mesh=mesh,
        reshard_after_forward=strategy is not Strategy.SHARD_GRAD_OP,
        mp_policy=policy,
    )
