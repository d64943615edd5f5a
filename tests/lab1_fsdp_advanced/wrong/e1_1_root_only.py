"""Wraps only the root: one group, so the whole model is gathered before anything runs."""

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
    outer = precision(param_dtype, reduce_dtype, root=True)
    if strategy is Strategy.NO_SHARD:
        replicate(model, mesh=mesh, mp_policy=outer)
    else:
        reshard = strategy not in (Strategy.ZERO_1, Strategy.SHARD_GRAD_OP)
        fully_shard(
            model, mesh=mesh, reshard_after_forward=reshard, mp_policy=outer, offload_policy=keep
        )
    if on_meta:
        model.to_empty(device="cpu" if isinstance(keep, CPUOffloadPolicy) else device)
    return model
