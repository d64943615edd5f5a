"""Sharding strategies: what each rank keeps, and when it asks the others for the rest.

================  ============  ==========  ==========  =========  =============================
strategy          ZeRO stage    parameters  gradients   optimizer  FSDP2
================  ============  ==========  ==========  =========  =============================
NO_SHARD          0 (DDP)       whole       whole       whole      ``replicate``
ZERO_1            1             sharded*    sharded*    sharded    as ZeRO-2, and see below
SHARD_GRAD_OP     2             sharded*    sharded     sharded    ``reshard_after_forward=False``
FULL_SHARD        3             sharded     sharded     sharded    ``reshard_after_forward=True``
HYBRID_SHARD      3 in a group  sharded     sharded     sharded    a (replicate, shard) mesh
================  ============  ==========  ==========  =========  =============================

(*) sharded between steps, whole from the forward pass to the end of the backward pass. ZERO_1 keeps
weights and gradients whole from the first micro-batch to the last: ``train_step`` asks for it with
``set_reshard_after_backward(False)``. With a single micro-batch it is SHARD_GRAD_OP.
The names are those of FSDP1's ``ShardingStrategy``, which has no ZeRO-1; FSDP2 has no such enum,
only the last column.

ZeRO: Rajbhandari et al. (2020), arXiv 1910.02054. FSDP: Zhao et al. (2023), arXiv 2304.11277.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from common.errors import InputError
from common.exercises import exercise


class Strategy(StrEnum):
    """How parameters, gradients and optimizer state are spread over the ranks."""

    NO_SHARD = "NO_SHARD"
    ZERO_1 = "ZERO_1"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    FULL_SHARD = "FULL_SHARD"
    HYBRID_SHARD = "HYBRID_SHARD"


def hybrid_shape(world: int, local_world: int) -> tuple[int, int]:
    """(replicas, ranks that share one replica) of HYBRID_SHARD.

    Each node shards its own replica, so that the frequent all-gathers stay on the node's fast
    links and only gradients cross the network. On one node there is no slow link to avoid; an
    even number of ranks makes two replicas all the same, so that the strategy can be studied.

    Raises
    ------
    InputError
        When the nodes have different numbers of ranks.
    """
    if world % local_world:
        raise InputError(
            f"world = {world} must be a multiple of the ranks a node = {local_world}; "
            "start the same number of ranks on each node"
        )
    nodes = world // local_world
    if nodes > 1:
        return nodes, local_world
    return (2, world // 2) if world % 2 == 0 else (1, world)


def make_mesh(strategy: Strategy, device: torch.device | str) -> DeviceMesh:
    """The ranks of the world as a line, or as a (replicate, shard) grid for HYBRID_SHARD."""
    world = dist.get_world_size()
    kind = torch.device(device).type
    if strategy is Strategy.HYBRID_SHARD:
        shape = hybrid_shape(world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
        return init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))
    name = "replicate" if strategy is Strategy.NO_SHARD else "shard"
    return init_device_mesh(kind, (world,), mesh_dim_names=(name,))


def precision(
    param_dtype: torch.dtype | None, reduce_dtype: torch.dtype | None, *, root: bool
) -> MixedPrecisionPolicy:
    """Compute in ``param_dtype``, sum gradients in ``reduce_dtype``; the weights stay fp32.

    The root also returns fp32, so that a loss is never computed from bf16 logits.
    """
    if param_dtype is None:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=param_dtype,
        reduce_dtype=reduce_dtype,
        output_dtype=torch.float32 if root else None,
    )


@exercise(
    "1.1",
    points=10,
    title="Shard a model by strategy",
    hint="The order matters: a block must be wrapped before the module that holds it, because the "
    "root takes every parameter that nobody has taken. Which argument tells ZeRO-2 from ZeRO-3?",
)
def shard(
    model: nn.Module,
    strategy: Strategy,
    *,
    device: torch.device | str,
    blocks: Sequence[nn.Module] | None = None,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = torch.float32,
    offload: OffloadPolicy | None = None,
) -> nn.Module:
    """Spread ``model`` over all ranks, in place. Build the optimizer only afterwards.

    Each block becomes one communication group, gathered just before it computes; the root takes
    what is left (embeddings, last norm, head). Every rank must hold equal weights on entry.

    Parameters
    ----------
    model
        On any device; it is moved to ``device``. On the meta device it has shapes and no memory:
        it is sharded first, then each rank gets uninitialised memory for its own shards, and
        the caller fills them (``init_weights``). No rank ever holds the whole model.
    strategy
        See the table at the top of this module.
    device
        This rank's device, ``Ranks.device``.
    blocks
        Submodules that become groups of their own, in the order in which they run. ``None``: the
        whole model is one group, gathered at once, which saves no memory while it computes.
    param_dtype
        ``torch.bfloat16`` computes in bf16 over fp32 weights; None computes in the weights' type.
    reduce_dtype
        Type in which gradients are summed over ranks when ``param_dtype`` is given.
    offload
        ``cpu_offload.offload_policy(...)`` keeps the shards in CPU memory; None on the device.
        NO_SHARD has no shards and ignores it.

    Returns
    -------
    nn.Module
        ``model`` itself, now also an ``FSDPModule``: parameters are DTensors, and only
        ``model(...)`` gathers them (a method other than ``forward`` sees shards).

    Examples
    --------
    >>> shard(model, Strategy.FULL_SHARD, device=ranks.device, blocks=list(model.blocks))
    """
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
        reshard = strategy not in (Strategy.ZERO_1, Strategy.SHARD_GRAD_OP)
        for block in blocks or ():
            fully_shard(
                block,
                mesh=mesh,
                reshard_after_forward=reshard,
                mp_policy=inner,
                offload_policy=keep,
            )
        # The root is the last to compute forwards and the first backwards: freeing it between the
        # two would gather it again at once. None, the default, knows that.
        fully_shard(model, mesh=mesh, mp_policy=outer, offload_policy=keep)
    if on_meta:
        model.to_empty(device="cpu" if isinstance(keep, CPUOffloadPolicy) else device)
    return model
