"""Data parallelism and ZeRO-1 by hand beside torch's own: equal weights, and at what cost.

A table of it, for a small model on two ranks::

    torchrun --nproc-per-node 2 -m labs.lab1_fsdp_advanced.by_hand [cuda]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from common.errors import require
from labs.lab1_fsdp_advanced.data_parallel import BucketedDataParallel, average_gradients
from labs.lab1_fsdp_advanced.distributed import leave, process_group
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.traffic import Traffic
from labs.lab1_fsdp_advanced.training import Batch, Batches, LossFn
from labs.lab1_fsdp_advanced.zero import ZeroOneOptimizer, state_bytes

Found = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes
    ----------
    model
        What the loss function is given.
    step
        From the last backward pass to the next forward pass: exchange, update, clear.
    optimizer
        Holds this rank's moments.
    quiet
        Context of every micro-batch but the last.
    """

    model: nn.Module
    step: Callable[[], None]
    optimizer: Optimizer
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext


def one_process(model: nn.Module, lr: float) -> Method:
    """No exchange: the reference, on the whole batch."""
    optimizer = AdamW(model.parameters(), lr=lr)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Method(model, step, optimizer)


def naive(model: nn.Module, lr: float) -> Method:
    """One all-reduce for each parameter, after the backward pass."""
    optimizer = AdamW(model.parameters(), lr=lr)

    def step() -> None:
        average_gradients(model.parameters())
        optimizer.step()
        optimizer.zero_grad()

    return Method(model, step, optimizer)


def bucketed(model: nn.Module, lr: float, bucket_bytes: int) -> Method:
    """Buckets that are sent during the backward pass."""
    wrapped = BucketedDataParallel(model, bucket_bytes=bucket_bytes)
    optimizer = AdamW(model.parameters(), lr=lr)

    def step() -> None:
        wrapped.finish()
        optimizer.step()
        optimizer.zero_grad()

    return Method(wrapped, step, optimizer, wrapped.no_sync)


def ddp(model: nn.Module, lr: float, bucket_bytes: int) -> Method:
    """torch's DistributedDataParallel."""
    wrapped = DistributedDataParallel(model, bucket_cap_mb=bucket_bytes / 2**20)
    optimizer = AdamW(model.parameters(), lr=lr)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Method(wrapped, step, optimizer, wrapped.no_sync)


def zero_1(model: nn.Module, lr: float) -> Method:
    """ZeRO-1 by hand, over plain backward passes."""
    optimizer = ZeroOneOptimizer(model.parameters(), AdamW, lr=lr)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Method(model, step, optimizer.optimizer)


def zero_redundancy(model: nn.Module, lr: float, bucket_bytes: int) -> Method:
    """torch's ZeroRedundancyOptimizer. It averages no gradients, so DDP goes with it."""
    wrapped = DistributedDataParallel(model, bucket_cap_mb=bucket_bytes / 2**20)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), AdamW, lr=lr)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Method(wrapped, step, optimizer.optim, wrapped.no_sync)


def compare(
    build: Callable[[], nn.Module],
    batches: Batches[Batch],
    loss_fn: LossFn[Batch],
    *,
    steps: int,
    lr: float = 1e-3,
    bucket_bytes: int = 2**20,
) -> Found:
    """Train one model by every method with AdamW, and say what each one costs. A collective.

    Parameters
    ----------
    build
        A new model on this rank's device, with equal weights at each call and on every rank.
    batches
        ``batches(step, rank, world)`` -> micro-batches, as in ``training.fit``; the reference
        takes ``batches(step, 0, 1)``.
    loss_fn
        ``loss_fn(model, batch)`` -> mean loss.
    steps
        At least 3: DDP settles its buckets in the first two, and the last one is counted.

    Returns
    -------
    dict
        For ``one_process``, ``ddp``, ``naive``, ``bucketed``, ``zero_1`` and ``zero_redundancy``:
        ``weight_difference`` and ``ddp_difference``, the largest of any weight from
        ``one_process`` and from ``ddp`` over all ranks; ``state_bytes`` of the rank that has most;
        ``collectives`` and ``volume_bytes`` of the last step, counted by :class:`Traffic`;
        ``sent_bytes``, which :meth:`Traffic.sent` derives from the volume.

    Notes
    -----
    fp32 sums of several ranks round differently from those of one process, and Adam divides each
    gradient by its own size: where that is near zero, rounding shows. Against ``ddp`` the order of
    the sums is the same, and so are the weights on two ranks, to the last bit.
    """
    require(steps >= 3, "steps", steps, "must be >= 3", "the first two settle DDP's buckets")
    rank, world = dist.get_rank(), dist.get_world_size()
    reference = one_process(build(), lr)
    train(reference, batches, loss_fn, steps, rank=0, world=1)
    alone = flat_weights(reference.model)
    makers: dict[str, Callable[[nn.Module], Method]] = {
        "ddp": lambda model: ddp(model, lr, bucket_bytes),
        "naive": lambda model: naive(model, lr),
        "bucketed": lambda model: bucketed(model, lr, bucket_bytes),
        "zero_1": lambda model: zero_1(model, lr),
        "zero_redundancy": lambda model: zero_redundancy(model, lr, bucket_bytes),
    }
    found: Found = {}
    theirs = alone
    for name, make in makers.items():
        method = make(build())
        traffic = train(method, batches, loss_fn, steps, rank=rank, world=world)
        weights = flat_weights(method.model)
        if name == "ddp":
            theirs = weights
            found["one_process"] = cost(reference, alone, alone, theirs, Traffic())
        found[name] = cost(method, weights, alone, theirs, traffic)
    return found


def train(
    method: Method,
    batches: Batches[Batch],
    loss_fn: LossFn[Batch],
    steps: int,
    *,
    rank: int,
    world: int,
) -> Traffic:
    """Take ``steps`` steps; the traffic of the last."""
    for step in range(steps):
        with Traffic() as traffic:
            *first, last = batches(step, rank, world)
            count = len(first) + 1
            with method.quiet():
                for batch in first:
                    (loss_fn(method.model, batch) / count).backward()  # type: ignore[no-untyped-call]
            (loss_fn(method.model, last) / count).backward()  # type: ignore[no-untyped-call]
            method.step()
    return traffic


def flat_weights(model: nn.Module) -> Tensor:
    """A copy of all parameters, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def cost(
    method: Method, weights: Tensor, alone: Tensor, theirs: Tensor, traffic: Traffic
) -> dict[str, float]:
    """One row of :func:`compare`; differences and state are the largest over all ranks."""
    most = torch.stack(
        [
            (weights - alone).abs().max().double(),
            (weights - theirs).abs().max().double(),
            weights.new_tensor(state_bytes(method.optimizer), dtype=torch.float64),
        ]
    )
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return {
        "weight_difference": float(most[0]),
        "ddp_difference": float(most[1]),
        "state_bytes": float(most[2]),
        "collectives": float(traffic.collectives),
        "volume_bytes": float(traffic.volume),
        "sent_bytes": traffic.sent(dist.get_world_size()),
    }


def table(found: Found, parameters: int) -> str:
    """The answer of :func:`compare` for a model of ``parameters`` fp32 weights, a line a method."""
    lines = [
        f"{'':16}{'difference from':^28}{'state':>10}{'moved':>10}",
        f"{'':16}{'one process':>16}{'DDP':>12}{'B/param':>10}{'x P':>10}{'messages':>10}",
    ]
    for name, row in found.items():
        lines.append(
            f"{name:16}{row['weight_difference']:16.1e}{row['ddp_difference']:12.1e}"
            f"{row['state_bytes'] / parameters:10.2f}{row['volume_bytes'] / 4 / parameters:10.2f}"
            f"{row['collectives']:10.0f}"
        )
    return "\n".join(lines)


def main(device: str = "cpu", output: str | None = None) -> None:
    """Compare on a small model and random tokens; print the table, or write it as JSON."""
    shape = Shape(width=64, layers=2, heads=4, context=32)
    with process_group(device) as ranks:

        def build() -> nn.Module:
            torch.manual_seed(1)
            return Decoder(shape).to(ranks.device)

        def batches(step: int, rank: int, world: int) -> list[Tensor]:
            drawn = torch.Generator().manual_seed(step)
            windows = torch.randint(256, (16, 33), generator=drawn).to(ranks.device)
            return [half[rank::world] for half in windows.split(8)]

        found = compare(build, batches, next_token_loss, steps=20, bucket_bytes=2**16)
        if ranks.is_main and output is None:
            print(table(found, shape.parameters), flush=True)
        elif ranks.is_main and output is not None:
            Path(output).write_text(json.dumps(found), encoding="utf-8")
    leave()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ranks of the comparison; torchrun starts them.")
    parser.add_argument("device", nargs="?", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("output", nargs="?", help="JSON file; without it a table is printed")
    main(**vars(parser.parse_args()))
