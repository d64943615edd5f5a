"""Frees the weights of ZeRO-1 after the forward pass: they are gathered twice a micro-batch."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.fsdp import fully_shard


def shard(
    model: nn.Module,
    strategy,
    *,
    device,
    blocks: Sequence[nn.Module] | None = None,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = torch.float32,
    offload=None,
) -> nn.Module:
    mesh = make_mesh(strategy, device)
    keep = OffloadPolicy() if offload is None or strategy is Strategy.NO_SHARD else offload
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if not on_meta:
        model.to(device)
    inner = precision(param_dtype, reduce_dtype, root=False)
    outer = precision(param_dtype, reduce_dtype, root=True)
    if strategy is Strategy.NO_SHARD:
        for block in blocks or ():
            replicate(block, mesh=mesh, mp_policy=inner)
        replicate(model, mesh=mesh, mp_policy=outer)
    else:
        reshard = strategy is not Strategy.SHARD_GRAD_OP
        for block in blocks or ():
            fully_shard(
                block,
                mesh=mesh,
                reshard_after_forward=reshard,
                mp_policy=inner,
                offload_policy=keep,
            )
        fully_shard(model, mesh=mesh, mp_policy=outer, offload_policy=keep)
    if on_meta:
        model.to_empty(device="cpu" if isinstance(keep, CPUOffloadPolicy) else device)
    return model
