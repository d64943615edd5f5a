"""Train the ranker of impressions; run by torchrun on every rank, of any number of ranks.

``python -m torch.distributed.run ... -m capstone.impression_training JOB`` where JOB is a JSON file
(:class:`ImpressionJob`). Lab 1 shards, steps, clips and checkpoints; this module says what a batch
and a loss are. 20 thousand parameters on a laptop and a billion on eight GPUs take the same path.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capstone.impression_batches import Batch, ReadingPlan
from capstone.impressions import ImpressionConfig
from capstone.target_ranker import (
    SizeName,
    TargetRanker,
    Vocabulary,
    flops_per_token,
    meta_model,
    parameters,
    shape_of,
)
from common.launch import torchrun
from labs.lab1_fsdp_advanced import checkpoint
from labs.lab1_fsdp_advanced.activation_checkpointing import Mode, checkpoint_blocks
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.precision import Precision, require_support
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from labs.lab1_fsdp_advanced.throughput import peak_of, synchronise, utilisation
from labs.lab1_fsdp_advanced.training import StepResult, cosine_schedule, fit

TOWER_RATE = 10.0
PROGRESS_LINE = re.compile(r"progress impressions (\d+) (\d+) (-?\d+\.\d+)")


@dataclass(frozen=True)
class ImpressionJob:
    """What to train, on what, and where it goes.

    Attributes
    ----------
    plan
        Which simulated impressions each step reads.
    checkpoints, output, result
        A folder; the weights (safetensors); a JSON file with what was measured.
    save_every
        Steps between checkpoints; 0 saves none.
    stop_at
        Last step of this run, for a planned interruption; 0: all steps of the plan.
    checkpointing
        Activations that are computed again (lab 1).
    """

    size: SizeName
    plan: ReadingPlan
    learning_rate: float
    device: str
    seed: int
    output: str
    checkpoints: str
    result: str
    strategy: str = "FULL_SHARD"
    precision: str = "fp32"
    checkpointing: Mode = "none"
    max_norm: float = 1.0
    weight_decay: float = 0.01
    save_every: int = 0
    stop_at: int = 0

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> ImpressionJob:
        given = json.loads(path.read_text(encoding="utf-8"))
        plan = given["plan"]
        plan["config"] = ImpressionConfig(**plan["config"])
        return cls(**(given | {"plan": ReadingPlan(**plan)}))


@dataclass(frozen=True)
class Trained:
    """What a training run did and how fast.

    Attributes
    ----------
    first_step
        Where it began: 0, or the step of the checkpoint it went on from.
    losses
        Of each step since: nats a kept row, summed over the heads.
    impressions_per_second, rows_per_second
        Read over all ranks, before and after downsampling; from the median step.
    mfu
        Model FLOP utilisation (lab 1's definition) of all devices.
    """

    parameters: int
    world: int
    first_step: int
    losses: tuple[float, ...]
    step_seconds: float
    impressions_per_second: float
    rows_per_second: float
    tokens_per_second: float
    mfu: float
    peak_source: str


@dataclass
class Meter:
    """Times of steps, and rows and tokens of this rank in them."""

    device: torch.device
    ended: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    longest: int = 1

    def count(self, batches: list[Batch]) -> list[Batch]:
        self.rows.append(sum(float(batch.weight.sum()) for batch in batches))
        lengths = [batch.requests.history.shape[1] + batch.weight.shape[1] for batch in batches]
        lists = [len(batch.weight) for batch in batches]
        self.tokens.append(sum(n * length for n, length in zip(lists, lengths, strict=True)))
        self.longest = max(self.longest, *lengths)
        return batches

    def tick(self) -> None:
        synchronise(self.device)
        self.ended.append(time.perf_counter())

    def step_seconds(self) -> float:
        """Median time between the ends of steps; the first step, which warms up, has none."""
        gaps = [after - before for before, after in zip(self.ended, self.ended[1:], strict=False)]
        return statistics.median(gaps) if gaps else float("nan")


def impression_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy of every head, nats a kept row, summed over the heads."""
    logits = model(batch.requests)
    each = F.binary_cross_entropy_with_logits(logits.float(), batch.labels, reduction="none")
    return (each.sum(dim=-1) * batch.weight).sum() / batch.rows


def sharded_model(job: ImpressionJob, ranks: Ranks) -> nn.Module:
    """The model over all ranks: made without memory, sharded, then each rank fills its shards.

    The order is that of lab 1's ``parallelize``. No rank ever holds the whole model.
    """
    precision = Precision(job.precision)
    require_support(precision, ranks.device.type)
    model = meta_model(job.size, job.plan.vocabulary)
    blocks = list(model.blocks)
    checkpoint_blocks(blocks, job.checkpointing)
    shard(
        model,
        Strategy(job.strategy),
        device=ranks.device,
        blocks=blocks,
        param_dtype=precision.param_dtype,
    )
    model.init_weights(job.seed, job.plan.usual_rates())
    return model


def parameter_groups(job: ImpressionJob, model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: the position tower moves :data:`TOWER_RATE` times as fast, without decay.

    Adam moves a weight by about the learning rate, whatever its gradient. A position differs from
    another by a whole unit of logit; through the layers a step changes a logit by far more.
    """
    tower = [p for name, p in model.named_parameters() if name.startswith("positions.")]
    others = [p for name, p in model.named_parameters() if not name.startswith("positions.")]
    rate = job.learning_rate
    return [
        {"params": others, "lr": rate, "weight_decay": job.weight_decay},
        {"params": tower, "lr": TOWER_RATE * rate, "weight_decay": 0.0},
    ]


def train(job: ImpressionJob) -> None:
    """Join the other ranks and train."""
    with process_group(job.device, seed=job.seed) as ranks:
        train_on(ranks, job)


def train_on(ranks: Ranks, job: ImpressionJob) -> None:
    """Train on this rank; rank 0 writes ``job.output`` and ``job.result``. A collective."""
    model = sharded_model(job, ranks)
    optimizer = torch.optim.AdamW(parameter_groups(job, model), fused=True)
    meter = Meter(ranks.device)
    total = job.plan.steps

    def batches(step: int, rank: int, world: int) -> list[Batch]:
        return meter.count(job.plan.batches(step, rank, world, ranks.device))

    def on_step(done: int, result: StepResult) -> None:
        meter.tick()
        if ranks.is_main:
            print(f"progress impressions {done} {total} {result.loss:.6f}", flush=True)

    fitted = fit(
        model,
        optimizer,
        batches,
        impression_loss,
        steps=job.stop_at or total,
        max_norm=job.max_norm,
        scheduler=cosine_schedule(optimizer, total),
        seed=job.seed,
        directory=Path(job.checkpoints),
        save_every=job.save_every,
        on_step=on_step,
    )
    checkpoint.export_weights(model, Path(job.output))
    if ranks.is_main:
        found = _measured(job, ranks, model, meter, fitted.first_step, fitted.history)
        Path(job.result).write_text(json.dumps(asdict(found)), encoding="utf-8")


def train_impressions(
    job: ImpressionJob,
    *,
    procs: int,
    folder: Path,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Run ``job`` on ``procs`` ranks of this host and wait; what it measured.

    Parameters
    ----------
    folder
        Gets ``job.json`` and the ranks' log.
    on_progress
        Called with (steps done, all steps, loss) after each step.

    Raises
    ------
    RunError
        When a rank fails. Run again, it goes on from the newest checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def on_line(line: str) -> None:
        if on_progress is not None and (match := PROGRESS_LINE.fullmatch(line)):
            on_progress(int(match[1]), int(match[2]), float(match[3]))

    torchrun(
        "capstone.impression_training", [str(job.write(folder / "job.json"))],
        procs=procs, device=job.device, log=folder / "ranks.log", on_line=on_line,
    )  # fmt: skip
    given = json.loads(Path(job.result).read_text(encoding="utf-8"))
    return Trained(**(given | {"losses": tuple(given["losses"])}))


def load_target_ranker(path: Path, size: SizeName, vocabulary: Vocabulary) -> TargetRanker:
    """A trained model on the CPU, in evaluation mode."""
    from safetensors.torch import load_file

    model = TargetRanker(shape_of(size), vocabulary)
    model.load_state_dict(load_file(path))
    return model.eval()


def _measured(
    job: ImpressionJob,
    ranks: Ranks,
    model: nn.Module,
    meter: Meter,
    first_step: int,
    history: list[StepResult],
) -> Trained:
    seconds = meter.step_seconds()
    tokens = ranks.world * statistics.fmean(meter.tokens or [0]) / seconds
    peak = peak_of(ranks.device, job.precision)
    return Trained(
        parameters=parameters(model),
        world=ranks.world,
        first_step=first_step,
        losses=tuple(result.loss for result in history),
        step_seconds=seconds,
        impressions_per_second=job.plan.impressions_per_step / seconds,
        rows_per_second=ranks.world * statistics.fmean(meter.rows or [0]) / seconds,
        tokens_per_second=tokens,
        mfu=utilisation(
            tokens, flops_per_token(shape_of(job.size), meter.longest), peak.flops * ranks.world
        ),
        peak_source=peak.source,
    )


if __name__ == "__main__":
    train(ImpressionJob.read(Path(sys.argv[1])))
    leave()
