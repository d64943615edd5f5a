"""What each rank of the lab does; torchrun starts it with a JSON file (:class:`Job`).

``python -m torch.distributed.run ... -m labs.lab1_fsdp_advanced.worker job.json``
"""

from __future__ import annotations

import gc
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import AdamW

from common.errors import InputError, RunError
from labs.lab1_fsdp_advanced.by_hand import compare
from labs.lab1_fsdp_advanced.data_loading import TokenBatches, TokenDataset
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.memory import held, measured_peak, parameter_bytes, resident_peak
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
from labs.lab1_fsdp_advanced.precision import make_scaler
from labs.lab1_fsdp_advanced.profiling import marked, profile_steps
from labs.lab1_fsdp_advanced.rank_log import rank_log
from labs.lab1_fsdp_advanced.stragglers import find_stragglers
from labs.lab1_fsdp_advanced.throughput import peak_of, synchronise
from labs.lab1_fsdp_advanced.training import (
    StepResult,
    cosine_schedule,
    fit,
    full,
    mean_over_ranks,
    train_step,
)
from labs.lab1_fsdp_advanced.watchdog import Watchdog

PROGRESS = "progress"
RESULT = "result"
PROBE = Shape(width=32, layers=2, heads=2, context=16, vocabulary=256, kv_heads=1)
PROBE_STEPS = 3
VALIDATION_BATCHES = 4
PROFILED_STEPS = 3
WATCH_S = 600.0
LARGE = 100_000_000
"""Parameters from which a CPU's memory is read from its pages, not recorded by the profiler."""


@dataclass(frozen=True)
class Job:
    """One job for all ranks.

    Attributes
    ----------
    ways
        Trained one after the other, from the same weights on the same batches.
    tokens
        Folder of the prepared text.
    save_at
        Step after which the first way saves a checkpoint, reads it and goes on; 0: none.
    asynchronous
        Train on while the checkpoint is written.
    resume
        Begin with the newest checkpoint that an earlier job left in ``checkpoints``.
    probe
        Compare gradients with one process, and the methods written by hand with torch's.
    profile
        Folder for traces of a few steps more; empty: none.
    validate
        Measure the held-out loss before and after; a compiled block is compiled twice for it.
    keep_going
        A way that fails has a ``reason`` in place of its results, and the next one begins.
    seconds
        No way begins later than that after the first; 0: no limit.
    """

    ways: tuple[Parallelism, ...]
    shape: Shape
    context: int
    tokens: str
    global_batch: int
    accumulation: int
    steps: int
    learning_rate: float
    max_norm: float
    device: str
    seed: int
    checkpoints: str
    logs: str
    output: str
    save_at: int = 0
    asynchronous: bool = False
    resume: bool = False
    probe: bool = False
    profile: str = ""
    validate: bool = True
    keep_going: bool = False
    seconds: float = 0.0

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        given = json.loads(path.read_text(encoding="utf-8"))
        kinds = {
            "shape": Shape(**given["shape"]),
            "ways": tuple(map(Parallelism.from_json, given["ways"])),
        }
        return cls(**(given | kinds))

    def batches(self, ranks: Ranks, *, part: str = "train") -> TokenBatches:
        """Micro-batches of the training text, or one batch of the held-out text."""
        return TokenBatches(
            TokenDataset(Path(self.tokens) / part, self.context),
            self.global_batch,
            self.accumulation if part == "train" else 1,
            self.seed,
            ranks.device,
        )


@dataclass
class Clock:
    """When each step ended."""

    device: torch.device
    ended: list[float] = field(default_factory=list)

    def tick(self) -> None:
        synchronise(self.device)
        self.ended.append(time.perf_counter())

    def seconds(self, *, without: int) -> tuple[float, int]:
        """Median of the steps and their number; the first is left out, and those at ``without``."""
        gaps = [after - before for before, after in pairwise(self.ended)]
        # Gap k lies between the ends of steps k + 1 and k + 2. The checkpoint and what it disturbs:
        disturbed = {without - 2, without - 1, without} if without else set()
        steady = [gap for at, gap in enumerate(gaps) if at not in disturbed] or gaps
        return statistics.median(steady), len(steady)


def work(job: Job) -> None:
    """Run the job on this rank; rank 0 writes ``job.output``."""
    with process_group(job.device, seed=job.seed) as ranks:
        logs = Path(job.logs)
        with (
            rank_log(logs, ranks.rank, ranks.world) as log,
            Watchdog(logs, ranks.rank, ranks.world, timeout_s=WATCH_S) as watchdog,
        ):
            log.info("%d ranks, %s, %s", ranks.world, ranks.device, job.shape)
            results: dict[str, Any] = {"world": ranks.world, "ways": {}}
            if job.probe:
                results |= probe(job, ranks)
                watchdog.beat()
            began = time.monotonic()
            for number, way in enumerate(job.ways):
                late = bool(number and job.seconds) and time.monotonic() - began > job.seconds
                if any_rank(late):
                    found = {"reason": f"not begun: the {job.seconds:g} s of the sweep were over"}
                else:
                    log.info("training with %s", way.name)
                    found = attempt(job, way, ranks, watchdog.beat)
                results["ways"][way.name] = found
                if ranks.is_main and job.keep_going:
                    # Without the losses: a line stays whole in the ranks' pipe up to 4 KiB.
                    short = {name: each for name, each in found.items() if name != "losses"}
                    print(RESULT, json.dumps({"way": way.name} | short), flush=True)
                gc.collect()  # the model and its hooks refer to each other
                if ranks.device.type == "cuda":
                    torch.cuda.empty_cache()
                if way.compile:
                    # Blocks of all ways share one function, and the compiler gives up on a
                    # function, without a word, after it has been compiled eight times.
                    torch.compiler.reset()
        if ranks.is_main:
            Path(job.output).write_text(json.dumps(results), encoding="utf-8")


def attempt(job: Job, way: Parallelism, ranks: Ranks, beat: Callable[[], None]) -> dict[str, Any]:
    """Train one way; with ``keep_going``, or say on all ranks why one of them could not.

    A rank that fails alone leaves the others in a collective, which their watchdogs end. Memory
    that runs out does so on all of them, as does what the compiler or a kernel refuses.
    """
    if not job.keep_going:
        return train(job, way, ranks, beat)
    try:
        found = train(job, way, ranks, beat)
    except (InputError, RunError, RuntimeError) as error:
        logging.getLogger(__name__).warning("%s failed", way.name, exc_info=True)
        lines = str(error).splitlines() or [""]
        # "backend='inductor' raised:" says nothing without the next line.
        what = " ".join(lines[: 1 + lines[0].endswith(":")])
        found = {"reason": f"rank {ranks.rank}: {type(error).__name__}: {what}"[:400]}
    beat()
    if not any_rank("reason" in found):
        return found
    every: list[Any] = [None] * ranks.world
    dist.all_gather_object(every, found.get("reason"))
    return {"reason": next(reason for reason in every if reason)}


def any_rank(flag: bool) -> bool:
    """Whether it is so on one of the ranks; they all learn it. On the CPU, by gloo."""
    said = torch.tensor(float(flag))
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said)


def probe(job: Job, ranks: Ranks) -> dict[str, Any]:
    """A small fp32 model: gradients of all ranks against one process's, and methods by hand."""
    batches = TokenBatches(
        TokenDataset(Path(job.tokens) / "train", PROBE.context),
        4 * ranks.world,
        2,
        job.seed,
        ranks.device,
    )

    def loss(model: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
        return next_token_loss(model, window % PROBE.vocabulary)

    def alone() -> Decoder:
        model = Decoder(PROBE).to(ranks.device)
        model.init_weights(job.seed)
        return model

    differences = {}
    for way in job.ways:
        spread = parallelize(PROBE, Parallelism(way.strategy), ranks, seed=job.seed)
        differences[str(way.strategy)] = gradient_difference(spread, alone(), batches, loss, ranks)
    return {
        "differences": differences,
        "by_hand": compare(alone, batches, loss, steps=PROBE_STEPS),
    }


def gradient_difference(
    model: Decoder,
    alone: Decoder,
    batches: TokenBatches,
    loss: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor],
    ranks: Ranks,
) -> float:
    """Largest difference between the gradients of all ranks and those of one process.

    The ranks share one global batch; ``alone`` computes all of it.
    """
    micro_batches = batches(0, ranks.rank, ranks.world)
    for number, batch in enumerate(micro_batches, start=1):
        model.set_requires_gradient_sync(number == len(micro_batches))  # type: ignore[operator]
        (loss(model, batch) / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
    for batch in (whole := batches(0, 0, 1)):
        (loss(alone, batch) / len(whole)).backward()  # type: ignore[no-untyped-call]
    gradients = zip(model.parameters(), alone.parameters(), strict=True)
    return max(float((full(mine.grad) - its.grad).abs().max()) for mine, its in gradients)  # type: ignore[arg-type, operator]


def train(job: Job, way: Parallelism, ranks: Ranks, beat: Callable[[], None]) -> dict[str, Any]:
    """Train one way, and report what was measured."""
    model = parallelize(job.shape, way, ranks, seed=job.seed)
    optimizer = AdamW(model.parameters(), lr=job.learning_rate, fused=True)
    scheduler = cosine_schedule(optimizer, job.steps)
    scaler = make_scaler(way.precision, job.device)
    validate = job.validate and not job.resume
    first_validation = validation_loss(job, model, ranks) if validate else None
    clock = Clock(ranks.device)
    began = time.perf_counter()

    def on_step(done: int, result: StepResult) -> None:
        clock.tick()
        beat()
        if ranks.is_main:
            print(f"{PROGRESS} {done} {job.steps} {result.loss:.4f} {way.name}", flush=True)

    history: list[StepResult] = []
    saves: list[dict[str, Any]] = []
    save_at = job.save_at if way == job.ways[0] and not job.resume else 0

    def run(steps: int, save_every: int) -> tuple[int, list[StepResult]]:
        fitted = fit(
            model,
            optimizer,
            job.batches(ranks),
            next_token_loss,
            steps=steps,
            max_norm=job.max_norm,
            scheduler=scheduler,
            scaler=scaler,
            reshard_between=way.reshard_between,
            seed=job.seed,
            directory=Path(job.checkpoints) if save_every or save_at or job.resume else None,
            save_every=save_every,
            asynchronous=job.asynchronous,
            on_step=on_step,
        )
        saves.extend(asdict(each) for each in fitted.saves)
        return fitted.first_step, fitted.history

    if save_at:
        history += run(save_at, save_at)[1]
    resumed_at, rest = run(job.steps, 0)
    history += rest
    seconds, timed = clock.seconds(without=save_at)
    peak = peak_of(ranks.device, str(way.precision))
    result = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resumed_at": resumed_at,
        "losses": [each.loss for each in history],
        "skipped": sum(each.skipped for each in history),
        "validation": [
            first_validation,
            validation_loss(job, model, ranks) if job.validate else None,
        ],
        "saves": saves,
        "first_step_seconds": clock.ended[0] - began,
        "step_seconds": seconds,
        "timed_steps": timed,
        "tokens_per_second": job.global_batch * job.context / seconds,
        "peak_flops": peak.flops,
        "peak_source": peak.source,
        "bytes": memory(job, way, model, optimizer, ranks),
    }
    if job.profile:
        result["profile"] = profile(job, way, model, optimizer, ranks)
    return result


def validation_loss(job: Job, model: Decoder, ranks: Ranks) -> float:
    """Mean loss of held-out windows, the same ones for every way and every number of ranks."""
    batches = job.batches(ranks, part="validation")
    model.eval()
    with torch.no_grad():
        losses = [
            next_token_loss(model, batch)
            for step in range(VALIDATION_BATCHES)
            for batch in batches(step, ranks.rank, ranks.world)
        ]
    model.train()
    return float(mean_over_ranks(torch.stack(losses).mean()))


def memory(
    job: Job, way: Parallelism, model: Decoder, optimizer: AdamW, ranks: Ranks
) -> dict[str, Any]:
    """Bytes of the rank that has most: between steps, after a forward pass, and at the peak."""
    batches = job.batches(ranks)(job.steps, ranks.rank, ranks.world)
    scaler = make_scaler(way.precision, job.device)

    def step() -> None:
        train_step(
            model,
            optimizer,
            batches,
            next_token_loss,
            max_norm=job.max_norm,
            scaler=scaler,
            reshard_between=way.reshard_between,
        )

    found: dict[str, int] = {"resident_peak": resident_peak()}
    if ranks.device.type == "cuda" or job.shape.parameters < LARGE:
        found["peak"] = measured_peak(step, model, optimizer, ranks.device)
    loss = next_token_loss(model, batches[0])
    found["after_forward"] = parameter_bytes(model)
    loss.backward()  # type: ignore[no-untyped-call]
    found |= asdict(held(model, optimizer))
    optimizer.zero_grad()
    every: list[Any] = [None] * ranks.world
    dist.all_gather_object(every, found)
    most = {name: max(rank[name] for rank in every) for name in found}
    return most | {"resident_peak_of_all": sum(rank["resident_peak"] for rank in every)}


def profile(
    job: Job, way: Parallelism, model: Decoder, optimizer: AdamW, ranks: Ranks
) -> dict[str, Any]:
    """Traces of a few steps more, and what they say of communication and of slow ranks."""
    batches = job.batches(ranks)(job.steps, ranks.rank, ranks.world)
    mine = profile_steps(
        lambda: train_step(
            model,
            optimizer,
            batches,
            marked(next_token_loss),
            max_norm=job.max_norm,
            reshard_between=way.reshard_between,
        ),
        steps=PROFILED_STEPS,
        folder=Path(job.profile),
        ranks=ranks,
    )
    every: list[Any] = [None] * ranks.world
    dist.all_gather_object(every, asdict(mine))
    slow = find_stragglers({each["rank"]: [each["compute_s"]] for each in every})
    return {
        "step_s": mine.step_s,
        "communication_share": mine.communication_share,
        "exposed_share": mine.exposed_share,
        "phases": mine.phases,
        "compute_s": [each["compute_s"] for each in every],
        "stragglers": [each.rank for each in slow],
    }


if __name__ == "__main__":
    work(Job.read(Path(sys.argv[1])))
    leave()
