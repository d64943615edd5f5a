"""What each rank of the lab does; torchrun starts it with a JSON file (:class:`Spec`).

``python -m torch.distributed.run ... -m labs.lab1_fsdp_advanced.worker spec.json``
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import AdamW

from labs.lab1_fsdp_advanced.corpus import ByteWindows
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.memory import held, parameter_bytes, predicted
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from labs.lab1_fsdp_advanced.training import StepResult, cosine_schedule, fit, full, mean_over_ranks

PROGRESS = "progress"
PROBE = Shape(width=32, layers=2, heads=2, context=16)
VALIDATION_BATCHES = 4


@dataclass(frozen=True)
class Spec:
    """One job for all ranks. ``resume`` goes on from the checkpoint of an earlier job."""

    strategies: tuple[str, ...]
    shape: Shape
    global_batch: int
    accumulation: int
    steps: int
    learning_rate: float
    max_norm: float
    precision: str
    device: str
    seed: int
    train: str
    validation: str
    checkpoints: str
    output: str
    resume: bool = False

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Spec:
        given = json.loads(path.read_text(encoding="utf-8"))
        return cls(**(given | {"shape": Shape(**given["shape"])}))


def build(shape: Shape, strategy: Strategy, ranks: Ranks, seed: int, precision: str) -> nn.Module:
    """The same untrained model on every rank, sharded."""
    torch.manual_seed(seed)
    model = Decoder(shape)
    return shard(
        model,
        strategy,
        device=ranks.device,
        blocks=list(model.blocks),
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
    )


def gradient_difference(spec: Spec, strategy: Strategy, ranks: Ranks) -> float:
    """Largest difference between the gradients of all ranks and those of one process alone.

    A small fp32 model, one global batch: the ranks share it, the single process computes all of it.
    """
    batches = ByteWindows(
        Path(spec.train), PROBE.context, 4 * ranks.world, 2, spec.seed, ranks.device
    )
    model = build(PROBE, strategy, ranks, spec.seed, "fp32")
    micro_batches = batches(0, ranks.rank, ranks.world)
    for number, batch in enumerate(micro_batches, start=1):
        model.set_requires_gradient_sync(number == len(micro_batches))  # type: ignore[operator]
        (next_token_loss(model, batch) / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(spec.seed)
    alone = Decoder(PROBE).to(ranks.device)
    for batch in (whole := batches(0, 0, 1)):
        (next_token_loss(alone, batch) / len(whole)).backward()  # type: ignore[no-untyped-call]
    gradients = zip(model.parameters(), alone.parameters(), strict=True)
    return max(float((full(mine.grad) - its.grad).abs().max()) for mine, its in gradients)  # type: ignore[arg-type, operator]


def validation_loss(spec: Spec, model: nn.Module, ranks: Ranks) -> float:
    """Mean loss of held-out windows, the same ones for every strategy."""
    batches = replace(_windows(spec, ranks), path=Path(spec.validation), micro_batches=1)
    model.eval()
    with torch.no_grad():
        losses = [
            next_token_loss(model, batch)
            for step in range(VALIDATION_BATCHES)
            for batch in batches(step, ranks.rank, ranks.world)
        ]
    return float(mean_over_ranks(torch.stack(losses).mean()))


def memory(spec: Spec, model: nn.Module, optimizer: AdamW, ranks: Ranks) -> dict[str, Any]:
    """Bytes on each rank: between steps, and of parameters between forward and backward."""
    model.train()
    loss = next_token_loss(model, _windows(spec, ranks)(0, ranks.rank, ranks.world)[0])
    after_forward = parameter_bytes(model)
    loss.backward()  # type: ignore[no-untyped-call]
    counted = held(model, optimizer)
    optimizer.zero_grad()
    every: list[Any] = [None] * ranks.world
    dist.all_gather_object(every, asdict(counted) | {"after_forward": after_forward})
    return {name: max(rank[name] for rank in every) for name in every[0]}


def train(spec: Spec, strategy: Strategy, ranks: Ranks) -> dict[str, Any]:
    """Train with one strategy, half of it from a checkpoint, and report what was measured."""
    model = build(spec.shape, strategy, ranks, spec.seed, spec.precision)
    optimizer = AdamW(model.parameters(), lr=spec.learning_rate)
    scheduler = cosine_schedule(optimizer, spec.steps)
    ended: list[float] = []

    def on_step(done: int, result: StepResult) -> None:
        ended.append(time.perf_counter())
        if ranks.is_main:
            print(f"{PROGRESS} {strategy} {done} {spec.steps} {result.loss:.4f}", flush=True)

    def run(steps: int, save_every: int) -> tuple[int, list[StepResult]]:
        fitted = fit(
            model,
            optimizer,
            _windows(spec, ranks),
            next_token_loss,
            steps=steps,
            max_norm=spec.max_norm,
            scheduler=scheduler,
            seed=spec.seed,
            directory=Path(spec.checkpoints) / strategy,
            save_every=save_every,
            on_step=on_step,
        )
        return fitted.first_step, fitted.history

    half = spec.steps // 2
    history = [] if spec.resume else run(half, half)[1]
    first = 0 if history else half
    resumed_at, rest = run(spec.steps, 0)
    history += rest
    # Left out: the first step, and those around the checkpoint in the middle.
    gaps = [after - before for before, after in pairwise(ended)]
    steady = gaps[1 : half - 2] + gaps[half:] if first == 0 else gaps[1:]
    seconds = statistics.median(steady or gaps)
    tokens = spec.global_batch * spec.shape.context
    expected = predicted(spec.shape.parameters, strategy, ranks.world, ranks.local_world)
    return {
        "strategy": strategy,
        "first_step": first,
        "resumed_at": resumed_at,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "losses": [result.loss for result in history],
        "grad_norms": [result.grad_norm for result in history],
        "validation_loss": validation_loss(spec, model, ranks),
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "timed_steps": len(steady or gaps),
        "bytes": memory(spec, model, optimizer, ranks),
        "predicted_bytes": asdict(expected),
    }


def _windows(spec: Spec, ranks: Ranks) -> ByteWindows:
    return ByteWindows(
        Path(spec.train),
        spec.shape.context,
        spec.global_batch,
        spec.accumulation,
        spec.seed,
        ranks.device,
    )


def work(spec: Spec) -> None:
    """Run the job on this rank; rank 0 writes ``spec.output``."""
    with process_group(spec.device, seed=spec.seed) as ranks:
        results: dict[str, Any] = {"world": ranks.world, "strategies": {}, "differences": {}}
        for name in spec.strategies:
            strategy = Strategy(name)
            if not spec.resume:
                results["differences"][name] = gradient_difference(spec, strategy, ranks)
            results["strategies"][name] = train(spec, strategy, ranks)
            gc.collect()  # the model and its hooks refer to each other
        if ranks.is_main:
            Path(spec.output).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    work(Spec.read(Path(sys.argv[1])))
    leave()
