"""Bytes a rank holds: counted in its tensors, and predicted by the ZeRO formulas."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from labs.lab1_fsdp_advanced.sharding import Strategy, hybrid_shape


@dataclass(frozen=True)
class Held:
    """Bytes of one rank between two steps, gradients of the last one still there."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def local_bytes(tensor: Tensor) -> int:
    """Bytes of the part of a tensor that this rank has."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of parameters on this rank *now*: after a forward pass they may be whole."""
    return sum(local_bytes(parameter) for parameter in model.parameters())


def held(model: nn.Module, optimizer: Optimizer) -> Held:
    """Count the tensors of this rank; a collective in no way."""
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0
    ]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return Held(
        parameter_bytes(model),
        sum(local_bytes(gradient) for gradient in gradients),
        sum(local_bytes(state) for state in states),
    )


def predicted(
    parameters: int, strategy: Strategy, world: int, local_world: int, *, states: int = 2
) -> Held:
    """Bytes a rank of fp32 training with an optimizer of ``states`` moments (Adam: 2).

    With N ranks that share a replica: parameters 4 P / N, gradients 4 P / N, Adam 8 P / N;
    NO_SHARD has N = 1. ZeRO (arXiv 1910.02054), section 3.1 and figure 1, which counts 16 bytes a
    parameter in mixed precision as well.
    """
    sharing = world
    if strategy is Strategy.NO_SHARD:
        sharing = 1
    elif strategy is Strategy.HYBRID_SHARD:
        sharing = hybrid_shape(world, local_world)[1]
    part = 4 * parameters // sharing
    return Held(part, part, states * part)
