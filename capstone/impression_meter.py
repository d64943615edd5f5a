"""What a training on simulated impressions measures of itself, on every rank.

The ranks' figures differ: one has longer histories, another a busier disk. So each reports its own,
and rank 0 adds them up or takes the worst.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from capstone.impression_batches import Batch
from capstone.target_ranker import flops_per_token
from labs.lab1_fsdp_advanced.async_checkpoint import Timing
from labs.lab1_fsdp_advanced.memory import Held
from labs.lab1_fsdp_advanced.model import Shape
from labs.lab1_fsdp_advanced.profiling import Profile
from labs.lab1_fsdp_advanced.throughput import Peak, synchronise, utilisation


@dataclass(frozen=True)
class RankMeasures:
    """Of one rank.

    Attributes
    ----------
    rows, tokens, flops
        Means a step: kept rows; tokens that the blocks compute, filling included; operations.
    real_share
        Of the tokens, those that are no filling.
    waited_s
        Mean seconds a step for the data; the first step, for which nothing was begun, left out.
    saves
        Checkpoints written. In all, ``stalled_s`` seconds went into copying and publishing them,
        and ``written_s`` until they were on the disk, beside training.
    peak_bytes
        Most memory of tensors, on a GPU; None on a CPU, where nobody counts it.
    held_bytes, predicted_bytes
        Weights and moments between two steps: counted, and by lab 1's formula.
    """

    rows: float
    tokens: float
    flops: float
    real_share: float
    waited_s: float
    saves: int
    stalled_s: float
    written_s: float
    peak_bytes: int | None
    held_bytes: int
    predicted_bytes: int


@dataclass
class Meter:
    """Times of steps, and rows and tokens of this rank in them."""

    device: torch.device
    shape: Shape
    ended: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    real: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)

    def count(self, batches: Sequence[Batch]) -> None:
        """Count a step's micro-batches, while they are on the CPU: a GPU would be waited for."""
        shapes = [batch.shape for batch in batches]
        self.rows.append(sum(float(batch.weight.sum()) for batch in batches))
        self.tokens.append(sum(lists * length for lists, length in shapes))
        self.real.append(sum(batch.real_tokens for batch in batches))
        self.flops.append(
            sum(n * length * flops_per_token(self.shape, length) for n, length in shapes)
        )

    def tick(self) -> None:
        synchronise(self.device)
        self.ended.append(time.perf_counter())

    def step_seconds(self) -> float:
        """Median time between the ends of steps; the first step, which warms up, has none."""
        gaps = [after - before for before, after in zip(self.ended, self.ended[1:], strict=False)]
        return statistics.median(gaps) if gaps else float("nan")

    def measures(
        self, *, waited: Sequence[float], saves: Sequence[Timing], held: Held, formula: Held
    ) -> RankMeasures:
        """All of it, at the end of the training."""
        on_gpu = self.device.type == "cuda"
        return RankMeasures(
            rows=_mean(self.rows),
            tokens=_mean(self.tokens),
            flops=_mean(self.flops),
            real_share=sum(self.real) / max(1, sum(self.tokens)),
            waited_s=_mean(waited[1:]),
            saves=len(saves),
            stalled_s=sum(save.stalled_s for save in saves),
            written_s=sum(save.written_s for save in saves),
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if on_gpu else None,
            held_bytes=held.parameters + held.optimizer,
            predicted_bytes=formula.parameters + formula.optimizer,
        )


@dataclass(frozen=True)
class Trained:
    """What a training run did and how fast.

    Attributes
    ----------
    first_step
        Where this process began: 0, or the step of the checkpoint it went on from.
    losses
        Of each step from the first, those before the checkpoint too: nats a kept row, summed over
        the heads.
    impressions_per_second, rows_per_second
        Read over all ranks, before and after downsampling; from the median step.
    tokens_per_second
        That the blocks compute, of all ranks, filling included.
    mfu
        Model FLOP utilisation (lab 1's definition) of all devices; filling counts as tokens.
    ranks
        What each measured of itself.
    communication_share, exposed_share
        Of rank 0's step, with a collective under way, and with nothing else; None: not profiled.
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
    compiled: bool
    ranks: tuple[RankMeasures, ...]
    communication_share: float | None = None
    exposed_share: float | None = None

    @classmethod
    def of(
        cls,
        meter: Meter,
        ranks: Sequence[RankMeasures],
        *,
        parameters: int,
        first_step: int,
        losses: Sequence[float],
        impressions_a_step: int,
        peak: Peak,
        compiled: bool,
        profile: Profile | None,
    ) -> Trained:
        """From what the ranks measured, and the clock of the first."""
        seconds = meter.step_seconds()
        operations = sum(rank.flops for rank in ranks) / seconds
        return cls(
            parameters=parameters,
            world=len(ranks),
            first_step=first_step,
            losses=tuple(losses),
            step_seconds=seconds,
            impressions_per_second=impressions_a_step / seconds,
            rows_per_second=sum(rank.rows for rank in ranks) / seconds,
            tokens_per_second=sum(rank.tokens for rank in ranks) / seconds,
            mfu=utilisation(operations, 1, peak.flops * len(ranks)),
            peak_source=peak.source,
            compiled=compiled,
            ranks=tuple(ranks),
            communication_share=None if profile is None else profile.communication_share,
            exposed_share=None if profile is None else profile.exposed_share,
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Trained:
        given = json.loads(path.read_text(encoding="utf-8"))
        ranks = tuple(RankMeasures(**each) for each in given["ranks"])
        return cls(**(given | {"losses": tuple(given["losses"]), "ranks": ranks}))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
