"""Calls fully_shard with its defaults, whatever strategy was asked for: always ZeRO-3."""

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
    from torch.distributed.device_mesh import init_device_mesh

    line = init_device_mesh("cpu", (mesh.size(),))
    for block in blocks or ():
        fully_shard(block, mesh=line, mp_policy=precision(param_dtype, reduce_dtype, root=False))
    return fully_shard(model, mesh=line, mp_policy=precision(param_dtype, reduce_dtype, root=True))
