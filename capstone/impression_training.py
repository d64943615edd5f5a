"""Train the ranker of impressions; run by torchrun on every rank, of any number of ranks.

``python -m torch.distributed.run ... -m capstone.impression_training JOB`` where JOB is a JSON file
(:class:`ImpressionJob`). Lab 1 shards, steps, clips and checkpoints; this module says what a batch
and a loss are. 20 thousand parameters on a laptop and a billion on eight GPUs take the same path.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from capstone.impression_batches import Batch, ReadingPlan
from capstone.impression_meter import Meter, RankMeasures, Trained
from capstone.impression_prefetch import Prefetch
from capstone.impressions import ImpressionConfig
from capstone.target_ranker import (
    SizeName,
    TargetRanker,
    Vocabulary,
    meta_model,
    parameters,
    shape_of,
)
from common.launch import torchrun
from labs.lab1_fsdp_advanced import checkpoint
from labs.lab1_fsdp_advanced.activation_checkpointing import Mode, checkpoint_blocks
from labs.lab1_fsdp_advanced.agreement import together
from labs.lab1_fsdp_advanced.async_checkpoint import Saver
from labs.lab1_fsdp_advanced.checkpoint_files import Manifest, latest
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.memory import held, padded_parameters, predicted, ranks_that_share
from labs.lab1_fsdp_advanced.precision import Precision, require_support
from labs.lab1_fsdp_advanced.profiling import Profile, profile_steps
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from labs.lab1_fsdp_advanced.throughput import peak_of
from labs.lab1_fsdp_advanced.training import StepResult, cosine_schedule, fit, train_step

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
        A folder; the weights (safetensors; empty: not written); a JSON file with what was measured.
    save_every
        Steps between checkpoints, the newest two of which are kept; 0 saves none.
    tail
        The last checkpoint is that of ``tail`` steps before the end; 0: of the last interval.
    asynchronous
        Train on while a checkpoint is written (lab 1).
    stop_at
        Last step of this run, for a planned interruption; 0: all steps of the plan.
    checkpointing
        Activations that are computed again (lab 1).
    compile
        Compile the blocks: :func:`compile_blocks`.
    profile
        Measure, in a step after the last, how long the ranks talk to each other.
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
    tail: int = 0
    asynchronous: bool = True
    stop_at: int = 0
    compile: bool = False
    profile: bool = False

    def saves_after(self, done: int) -> bool:
        """Whether the ranks save a checkpoint when ``done`` steps are done.

        None after the last: then the weights themselves are written.
        """
        last = self.plan.steps - self.tail
        if not self.save_every or done >= self.plan.steps or done > last:
            return False
        return done % self.save_every == 0 or done in (last, self.stop_at)

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> ImpressionJob:
        given = json.loads(path.read_text(encoding="utf-8"))
        plan = given["plan"]
        plan["config"] = ImpressionConfig(**plan["config"])
        return cls(**(given | {"plan": ReadingPlan(**plan)}))


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
    if job.compile:
        compile_blocks(blocks)
    shard(
        model,
        Strategy(job.strategy),
        device=ranks.device,
        blocks=blocks,
        param_dtype=precision.param_dtype,
    )
    model.init_weights(job.seed, job.plan.usual_rates())
    return model


def compile_blocks(blocks: Sequence[nn.Module], backend: str = "inductor") -> None:
    """Compile what each block computes, in place: two or three times for all blocks and shapes.

    The first time for the shape of the first batch, then for any number of lists and tokens. Not
    with ``dynamic=True``: FSDP's gathered weights would be of any shape as well, the number of
    heads unknown, and attention left out of the compiled graph.
    """
    for block in blocks:
        block.forward = torch.compile(  # type: ignore[method-assign]
            block.forward, backend=backend
        )


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
    total = job.plan.steps
    scheduler = cosine_schedule(optimizer, total)
    meter = Meter(ranks.device, shape_of(job.size))
    losses = losses_before(Path(job.checkpoints))
    last = job.stop_at or total
    with (
        Prefetch(job.plan, rank=ranks.rank, world=ranks.world, last=last) as ahead,
        _saver(job) as saver,
    ):

        def batches(step: int, rank: int, world: int) -> list[Batch]:
            made = ahead.batches(step)
            meter.count(made)
            return [batch.on(ranks.device) for batch in made]

        def on_step(done: int, result: StepResult) -> None:
            losses.append(result.loss)
            meter.tick()
            if saver is not None and job.saves_after(done):
                kept = {"scheduler": scheduler.state_dict(), "losses": list(losses)}
                saver.save(model, optimizer, done, kept)
            elif saver is not None and job.asynchronous:
                saver.poll()
            if ranks.is_main:
                print(f"progress impressions {done} {total} {result.loss:.6f}", flush=True)

        fitted = fit(
            model,
            optimizer,
            batches,
            impression_loss,
            steps=last,
            max_norm=job.max_norm,
            scheduler=scheduler,
            seed=job.seed,
            directory=Path(job.checkpoints),
            on_step=on_step,
        )
    mine = measures(job, ranks, model, optimizer, meter, ahead, saver)
    every = together(lambda: mine)
    if job.output:
        checkpoint.export_weights(model, Path(job.output))
    profile = _profiled(job, ranks, model, optimizer) if job.profile else None
    if ranks.is_main:
        found = Trained.of(
            meter, every,
            parameters=parameters(model), first_step=fitted.first_step, losses=losses,
            impressions_a_step=job.plan.impressions_per_step,
            peak=peak_of(ranks.device, job.precision), compiled=job.compile, profile=profile,
        )  # fmt: skip
        found.write(Path(job.result))


def losses_before(checkpoints: Path) -> list[float]:
    """The losses up to the newest checkpoint; none without one."""
    newest = latest(checkpoints)
    return [] if newest is None else list(Manifest.read(newest).extra["losses"])


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
    return Trained.read(Path(job.result))


def load_target_ranker(path: Path, size: SizeName, vocabulary: Vocabulary) -> TargetRanker:
    """A trained model on the CPU, in evaluation mode."""
    from safetensors.torch import load_file

    model = meta_model(size, vocabulary)  # to draw a billion weights only to replace them is slow
    model.load_state_dict(load_file(path), assign=True)
    return model.eval()


def _saver(job: ImpressionJob) -> AbstractContextManager[Saver | None]:
    if not job.save_every:
        return nullcontext()
    return Saver(Path(job.checkpoints), asynchronous=job.asynchronous)


def measures(
    job: ImpressionJob,
    ranks: Ranks,
    model: nn.Module,
    optimizer: Optimizer,
    meter: Meter,
    ahead: Prefetch,
    saver: Saver | None,
) -> RankMeasures:
    """What this rank measured of its training."""
    strategy = Strategy(job.strategy)
    sharing = ranks_that_share(strategy, ranks.world, ranks.local_world)
    whole = padded_parameters(model.parameters(), sharing)
    return meter.measures(
        waited=ahead.waited,
        saves=[] if saver is None else saver.timings,
        held=held(model, optimizer),
        formula=predicted(whole, strategy, ranks.world, ranks.local_world),
    )


def _profiled(job: ImpressionJob, ranks: Ranks, model: nn.Module, optimizer: Optimizer) -> Profile:
    """One step more, which changes the weights: so after they are written."""
    made = job.plan.batches(job.plan.steps - 1, ranks.rank, ranks.world)
    batches = [batch.on(ranks.device) for batch in made]

    def step() -> None:
        train_step(model, optimizer, batches, impression_loss, max_norm=job.max_norm)

    return profile_steps(step, steps=1, folder=Path(job.result).parent / "trace", ranks=ranks)


if __name__ == "__main__":
    train(ImpressionJob.read(Path(sys.argv[1])))
    leave()
