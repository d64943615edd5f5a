"""Shard a model by strategy name: one enumeration over FSDP2's ``fully_shard``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from common.errors import InputError
from common.exercises import exercise


class Strategy(StrEnum):
    """What each rank keeps of parameters (P), gradients (G) and optimizer state (O).

    ============== ==== ================================== ===================================
    name (FSDP1)   ZeRO sharded                            FSDP2
    ============== ==== ================================== ===================================
    NO_SHARD       0    nothing                            mesh (world, 1): all replicas
    SHARD_GRAD_OP  2    G and O; P between steps           ``reshard_after_forward=False``
    FULL_SHARD     3    P, G and O                         ``reshard_after_forward=True``
    HYBRID_SHARD   3    P, G and O within a group of ranks mesh (groups, ranks of a group)
    ============== ==== ================================== ===================================

    Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054), section 5; Zhao et al. 2023, PyTorch FSDP
    (arXiv 2304.11277).
    """

    NO_SHARD = "NO_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    FULL_SHARD = "FULL_SHARD"
    HYBRID_SHARD = "HYBRID_SHARD"

    @classmethod
    def named(cls, name: str) -> Strategy:
        """The strategy called ``name``; InputError lists the names there are."""
        try:
            return cls(name.upper())
        except ValueError:
            known = ", ".join(cls)
            raise InputError(f"strategy {name!r}: no such strategy; choose {known}") from None


def strategy_mesh(strategy: Strategy, device: torch.device, group_size: int | None) -> DeviceMesh:
    """The ranks as FSDP2 wants them: 1-D (shard), or 2-D (replicate, shard)."""
    world = dist.get_world_size()
    if strategy is Strategy.NO_SHARD:
        return init_device_mesh(device.type, (world, 1), mesh_dim_names=("replicate", "shard"))
    if strategy is not Strategy.HYBRID_SHARD:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    size = group_size or _hybrid_group(device, world)
    if world % size:
        raise InputError(f"group_size = {size} must divide the {world} ranks")
    shape = (world // size, size)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def _hybrid_group(device: torch.device, world: int) -> int:
    """Ranks that share a host's GPUs; half of the ranks on CPU or one host."""
    local = torch.cuda.device_count() if device.type == "cuda" else world
    return local if 0 < local < world else max(1, world // 2)


@exercise(
    "1.1",
    points=5,
    title="Shard a model by strategy",
    hint="fully_shard the blocks one by one, then the root, all with the same mesh and policy. "
    "Which strategies gather the parameters again for the backward pass?",
)
def shard(
    model: nn.Module,
    strategy: Strategy,
    *,
    device: torch.device,
    blocks: Sequence[nn.Module] = (),
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype = torch.float32,
    group_size: int | None = None,
) -> nn.Module:
    """Shard ``model`` in place over all ranks and return it.

    Parameters
    ----------
    strategy
        See :class:`Strategy`.
    device
        Where the rank computes; the model is moved there first.
    blocks
        Modules that are gathered one at a time, such as the transformer layers. Without them the
        whole model is one group: all of it is gathered at once, and nothing overlaps.
    param_dtype, reduce_dtype
        Compute and communicate parameters in ``param_dtype`` (``torch.bfloat16``), reduce
        gradients in ``reduce_dtype``; the sharded master weights keep their own type.
    group_size
        Ranks that hold one copy of the model (HYBRID_SHARD).

    Notes
    -----
    Build the optimizer *after* this call: the parameters are replaced by sharded ones, and an
    optimizer built before would update tensors that the model no longer uses.
    """
    model.to(device)
    mesh = strategy_mesh(strategy, device, group_size)
    policy = MixedPrecisionPolicy(
        param_dtype=param_dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False
    )
    # BEGIN SOLUTION
    reshard = strategy in (Strategy.FULL_SHARD, Strategy.HYBRID_SHARD)
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    # END SOLUTION
    return model
