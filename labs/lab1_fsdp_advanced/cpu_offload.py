"""CPU offload: shards, gradients and optimizer in the memory of the host, the GPU only computes.

The weights cross to the GPU when they are gathered, the reduced gradients cross back, and the
optimizer steps on the CPU. It buys 16 bytes a parameter / N on the GPU, and costs a transfer of

    weights:   4 P / N bytes to the GPU, once a gather (twice a step under FULL_SHARD)
    gradients: 4 P / N bytes back, once a step

ZeRO-Offload: Ren et al. (2021), arXiv 2101.06840.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.fsdp import CPUOffloadPolicy

BYTES = 4


def offload_policy(device: str) -> CPUOffloadPolicy:
    """Keep shards on the CPU, for ``shard(..., offload=...)``.

    Page-locked memory lets the GPU copy while it computes; a rank that computes on the CPU has
    nothing to copy to and needs none.
    """
    return CPUOffloadPolicy(pin_memory=device != "cpu")


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank moves between host and GPU in one step."""

    to_device: int
    to_host: int

    def seconds(self, bytes_per_second: float) -> float:
        """The least time on a link that carries both ways at once (PCIe 5 x16: about 5e10)."""
        return max(self.to_device, self.to_host) / bytes_per_second


def traffic(parameters: int, sharing: int, *, gathers: int = 2) -> Traffic:
    """Bytes that one step moves, for fp32 shards of ``parameters / sharing``.

    Parameters
    ----------
    sharing
        Ranks that share one replica.
    gathers
        2 under FULL_SHARD (forward and backward pass), 1 under SHARD_GRAD_OP and ZERO_1; times the
        micro-batches, except under ZERO_1.
    """
    shard = BYTES * parameters // sharing
    return Traffic(gathers * shard, shard)
