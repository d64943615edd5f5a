"""Count the collectives that a block of code issues, whoever issues them, and their bytes.

Each collective is an operator of torch's ``c10d`` library, so a dispatch mode sees those of
DistributedDataParallel's C++ reducer and of ZeroRedundancyOptimizer as well as our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operator -> name, the argument that holds the whole tensor, and the times it crosses the network.
OPERATORS = {
    "allreduce_": ("all_reduce", 0, 2),
    "broadcast_": ("broadcast", 0, 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1, 1),
    "reduce_scatter_": ("reduce_scatter", 1, 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1, 1),
    "_allgather_base_": ("all_gather", 0, 1),
    "allgather_": ("all_gather", 0, 1),
    "allgather_into_tensor_coalesced_": ("all_gather", 0, 1),
}


class Traffic(TorchDispatchMode):
    """A context manager that counts the collectives issued inside it, backward passes included.

    Attributes
    ----------
    calls : Counter[str]
        Collectives by kind: all_reduce, broadcast, reduce_scatter, all_gather.
    volume : int
        Bytes, as ZeRO counts them (arXiv 1910.02054, section 7.1): the size of the whole tensor,
        twice for an all-reduce, which is a reduce-scatter and an all-gather.

    Examples
    --------
    >>> with Traffic() as traffic:
    ...     dist.all_reduce(torch.ones(3))
    >>> traffic.calls["all_reduce"], traffic.volume
    (1, 24)
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.volume = 0

    @property
    def collectives(self) -> int:
        """How many collectives of any kind."""
        return self.calls.total()

    def sent(self, world: int) -> float:
        """Bytes that each of ``world`` ranks sends when every collective is a ring.

        A formula, (N - 1) / N of the volume, not a measurement: which algorithm a backend takes
        is its own affair. No algorithm sends less (Patarasuk and Yuan, 2009).
        """
        return self.volume * (world - 1) / world

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d" and func._opname in OPERATORS:
            name, position, crossings = OPERATORS[func._opname]
            self.calls[name] += 1
            tensors = flatten(args[position])
            self.volume += crossings * sum(t.numel() * t.element_size() for t in tensors)
        return func(*args, **(kwargs or {}))


def flatten(value: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    """The tensors in nested lists of tensors."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for each in value:
            yield from flatten(each)
