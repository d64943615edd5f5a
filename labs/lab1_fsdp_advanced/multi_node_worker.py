"""What each rank of :mod:`labs.lab1_fsdp_advanced.multi_node` does: train, and count the bytes.

``torchrun ... -m labs.lab1_fsdp_advanced.multi_node_worker OUTPUT [INTERFACE]``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from common.errors import require
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.model import Shape, next_token_loss
from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
from labs.lab1_fsdp_advanced.sharding import Strategy
from labs.lab1_fsdp_advanced.training import StepResult, fit

SHAPE = Shape(64, 2, 4, 32, 256, kv_heads=2)
STEPS, WINDOWS, LETTERS = 4, 16, 8
JOBS = [
    (strategy, micro_batches)
    for micro_batches in (1, 4)
    for strategy in (Strategy.FULL_SHARD, Strategy.HYBRID_SHARD)
]


def crossing(
    shape: Shape,
    strategy: Strategy,
    *,
    nodes: int,
    procs: int,
    micro_batches: int,
    scatter: int = 1,
) -> float:
    """Bytes that cross between nodes in one fp32 step, in all directions, when each collective is
    a ring.

    A ring of all N = nodes x procs ranks leaves each node once, and each of its links carries
    (N - 1) / N of the tensor in an all-gather or a reduce-scatter, so with m micro-batches,
    weights of B bytes in the blocks and R in the root (which is kept for the backward pass)::

        FULL_SHARD      nodes (N - 1) / N  (m (2 B + R) + scatter (B + R))
        HYBRID_SHARD    2 (nodes - 1)  (B + R)

    HYBRID_SHARD gathers and scatters inside a node; between nodes each of ``procs`` rings sums its
    part of the gradients once a step, an all-reduce: two passes of (nodes - 1) / nodes.

    Parameters
    ----------
    scatter
        Passes of a reduce-scatter: 1 with NCCL. gloo makes it of an all-reduce, of which each rank
        keeps its part: 2.

    Raises
    ------
    InputError
        For other strategies.

    References
    ----------
    Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009; Zhang et al., "MiCS",
    arXiv 2205.00119.
    """
    known = strategy in (Strategy.FULL_SHARD, Strategy.HYBRID_SHARD)
    require(known, "strategy", str(strategy), "must be FULL_SHARD or HYBRID_SHARD")
    if nodes == 1:
        return 0.0
    whole = 4 * shape.parameters
    if strategy is Strategy.HYBRID_SHARD:
        return 2.0 * (nodes - 1) * whole
    root = 4 * (2 * shape.vocabulary * shape.width + shape.width)
    ranks = nodes * procs
    gathered = micro_batches * (2 * (whole - root) + root)
    return nodes * (ranks - 1) / ranks * (gathered + scatter * whole)


def through(interface: str) -> int:
    """Bytes received and sent by an interface of this process's network namespace."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            values = counters.split()
            return int(values[0]) + int(values[8])
    raise ValueError(f"no interface is called {interface}")


def measure(
    ranks: Ranks, strategy: Strategy, micro_batches: int, interface: str | None
) -> dict[str, Any]:
    """Losses of a few steps on the same windows, whoever trains, and bytes on ``interface``."""
    text = torch.Generator().manual_seed(0)
    windows = torch.randint(LETTERS, (STEPS, WINDOWS, SHAPE.context + 1), generator=text)
    model = parallelize(SHAPE, Parallelism(strategy), ranks, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    counted: list[int] = []

    def batches(step: int, rank: int, world: int) -> list[Tensor]:
        return list(windows[step][rank::world].to(ranks.device).chunk(micro_batches))

    def count(done: int, _: StepResult) -> None:
        if interface and done in (1, STEPS):  # the first step also sets up connections
            dist.barrier()
            counted.append(through(interface))

    fitted = fit(model, optimizer, batches, next_token_loss, steps=STEPS, on_step=count)
    weight = next(model.parameters())
    assert isinstance(weight, DTensor)
    found: dict[str, Any] = {
        "strategy": str(strategy),
        "micro_batches": micro_batches,
        "mesh": list(weight.device_mesh.shape),
        "ranks": weight.device_mesh.mesh.tolist(),
        "losses": [result.loss for result in fitted.history],
        "norms": [result.grad_norm for result in fitted.history],
    }
    if interface:
        nodes = ranks.world // ranks.local_world
        found["crossed"] = (counted[1] - counted[0]) / (STEPS - 1)
        found["formula"] = crossing(
            SHAPE,
            strategy,
            nodes=nodes,
            procs=ranks.local_world,
            micro_batches=micro_batches,
            scatter=2,
        )
    return found


def main(output: str, interface: str | None = None) -> None:
    with process_group("cpu") as ranks:
        jobs = JOBS if ranks.world > 1 else [job for job in JOBS if job[0] is Strategy.FULL_SHARD]
        found = [measure(ranks, *job, interface) for job in jobs]
        if ranks.is_main:
            Path(output).write_text(json.dumps(found), encoding="utf-8")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
