"""ZeRO-1 by hand: every rank has the whole model, and the optimizer's state of one slice of it.

Rajbhandari et al. (2020), arXiv 1910.02054, section 5.1. Data parallelism with Adam keeps on each
of N ranks 4 P bytes of weights, 4 P of gradients and 8 P of moments (fp32, P parameters), and the
moments are the same everywhere. ZeRO-1 keeps them once, in slices: 4 P + 4 P + 8 P / N.

It costs no communication. The all-reduce of data parallelism is a reduce-scatter (each rank gets
the summed gradient of its slice) and an all-gather (everybody gets every slice). ZeRO-1 updates
the slice in between, so that the all-gather carries weights instead of gradients: 2 P elements
either way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from common.errors import InputError, require
from common.exercises import exercise

# Renamed in torch 2.13, which warns of the old names. Gloo has both, but its reduce-scatter puts as
# many bytes on the wire as an all-reduce (measured); NCCL's puts half.
NEW_NAMES = hasattr(dist, "reduce_scatter_single")
reduce_scatter = dist.reduce_scatter_single if NEW_NAMES else dist.reduce_scatter_tensor
all_gather = dist.all_gather_single if NEW_NAMES else dist.all_gather_into_tensor


@exercise(
    "1.4",
    points=15,
    title="ZeRO-1 by hand",
    hint="Parameters that are views of one flat buffer are updated by writing to the buffer. A "
    "slice of the buffer is one more tensor, and torch's optimizers take any tensor. If N does not "
    "divide the number of weights, make the buffer longer.",
)
class ZeroOneOptimizer:
    """An elementwise optimizer (SGD, Adam, AdamW, ...) whose state is spread over the ranks.

    ``step`` also averages the gradients over the ranks, so backward passes are plain: there is no
    DistributedDataParallel, and accumulation needs no ``no_sync``. A parameter without a gradient
    counts as one with a gradient of zero.

    Parameters
    ----------
    params
        fp32, on one device; those that need no gradient are left alone. They become views of
        ``flat`` and take the values of the group's first rank.
    optimizer_class
        Its update of an element must depend on that element only: not LAMB, Adafactor or Muon.
    group
        Ranks that train together; None for all.
    options
        For ``optimizer_class``: ``lr``, ``weight_decay``, ...

    Attributes
    ----------
    flat : float32 [N * ceil(P / N)]
        All P weights in the order of ``params``, then zeros up to a multiple of N. It is the
        memory of the parameters, not a copy: writing to it changes them.
    shard : nn.Parameter, float32 [ceil(P / N)]
        This rank's contiguous slice of ``flat``; it shares its memory too.
    optimizer : Optimizer
        ``optimizer_class`` over ``shard`` alone. Learning-rate schedulers take this one.

    Examples
    --------
    >>> optimizer = ZeroOneOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
    >>> loss_fn(model, batch).backward()
    >>> optimizer.step()
    >>> optimizer.zero_grad()
    """

    flat: Tensor
    shard: nn.Parameter
    optimizer: Optimizer

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        optimizer_class: type[Optimizer],
        *,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        """Lay the weights out in ``flat``, take this rank's slice, and build its optimizer."""
        self.params = check_params([each for each in params if each.requires_grad])
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        # BEGIN SOLUTION
        length = -(-sum(each.numel() for each in self.params) // self.world)
        self.flat = torch.zeros(self.world * length, device=self.params[0].device)
        offset = 0
        for each in self.params:
            view = self.flat[offset : offset + each.numel()].view_as(each)
            each.data = view.copy_(each.detach())
            offset += each.numel()
        dist.broadcast(self.flat, group_src=0, group=group)
        self.shard = nn.Parameter(self.flat[self.rank * length : (self.rank + 1) * length])
        self.optimizer = optimizer_class([self.shard], **options)  # type: ignore[call-arg]
        # END SOLUTION

    @torch.no_grad()
    def step(self) -> None:
        """Average the gradients, update this rank's slice, and give everybody all slices.

        With g_i the gradients of rank i, laid out as ``flat`` is, and r this rank::

            g = (g_0 + ... + g_{N-1})[slice r] / N      reduce_scatter(output, input, group=...)
            shard = optimizer_class(shard, g)           self.optimizer.step(), from shard.grad
            flat = shard of rank 0, ..., of rank N-1    all_gather(output, input, group=...)

        ``reduce_scatter`` (a sum) and ``all_gather`` are those at the top of this module. An
        all-reduce in place of the first gives the same weights, and moves 3 P elements, not 2 P.
        """
        # BEGIN SOLUTION
        gradients = torch.zeros_like(self.flat)
        offset = 0
        for each in self.params:
            if each.grad is not None:
                gradients[offset : offset + each.numel()] = each.grad.flatten()
            offset += each.numel()
        mine = torch.empty_like(self.shard)
        reduce_scatter(mine, gradients, group=self.group)
        self.shard.grad = mine / self.world
        self.optimizer.step()
        self.shard.grad = None
        all_gather(self.flat, self.shard.detach(), group=self.group)
        # END SOLUTION

    def zero_grad(self) -> None:
        """Forget the gradients of the parameters."""
        for each in self.params:
            each.grad = None

    def state_bytes(self) -> int:
        """Bytes of the optimizer's state on this rank; for Adam about 8 P / N."""
        return state_bytes(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """This rank's part: the optimizer's state of its slice, and which slice that is."""
        return {**self._slice(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict` of the same slice.

        Raises
        ------
        InputError
            For the slice of another rank, number of ranks or model: a flat slice says nothing of
            the parameters in it, so it cannot be cut anew. DCP's checkpoints can
            (``checkpoint.py``).
        """
        saved = {name: state.get(name) for name in self._slice()}
        if saved != self._slice():
            raise InputError(
                f"the state is that of {saved}, and this is {self._slice()}; load each rank's own, "
                "with as many ranks as saved it"
            )
        self.optimizer.load_state_dict(state["optimizer"])

    def _slice(self) -> dict[str, int]:
        numel = sum(each.numel() for each in self.params)
        return {"rank": self.rank, "world": self.world, "numel": numel}


def check_params(params: list[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters, if one flat fp32 buffer can hold them."""
    require(bool(params), "params", params, "must hold a parameter that requires a gradient")
    kinds = sorted({f"{each.dtype} on {each.device}" for each in params})
    require(
        len(kinds) == 1 and params[0].dtype == torch.float32,
        "params",
        kinds,
        "must all be torch.float32 on one device",
        "move the model first, and compute in bf16 with torch.autocast",
    )
    return params


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the moments on this rank; counters of steps, a few bytes each, are left out."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0
    )
