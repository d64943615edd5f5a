"""Find the rank that holds the others up, by the time each spends on its own work.

Every rank leaves a collective when the last one has come. So all steps take equally long on all
ranks, and a step's time names nobody. What differs is how the time is spent: the slow rank computes
while the others wait for it. It is the one with the *most* compute and the *least* waiting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median, median_low
from typing import Any

import torch
import torch.distributed as dist

from common.errors import require


@dataclass
class StepTimes:
    """Seconds of each step of one rank: its own work, and inside collectives."""

    compute: list[float] = field(default_factory=list)
    collectives: list[float] = field(default_factory=list)

    @property
    def steps(self) -> list[float]:
        return [own + shared for own, shared in zip(self.compute, self.collectives, strict=True)]


class StepClock:
    """Splits the time of a rank's steps.

    On a GPU it waits for the device at each boundary, which takes away all overlap: a tool to find
    a slow rank with, not to leave on. For a model under FSDP, whose collectives are called from
    inside its modules, give ``find_stragglers`` the compute time of a profile instead
    (``profiling.profile_steps``).

    Examples
    --------
    >>> clock = StepClock(ranks.device)
    >>> for batch in batches:
    ...     gradient = compute(batch)
    ...     with clock.collectives():
    ...         dist.all_reduce(gradient)
    ...     clock.step()
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self.times = StepTimes()
        self._shared = 0.0
        self._began = self._now()

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """Counts what happens inside as waiting for others."""
        entered = self._now()
        yield
        self._shared += self._now() - entered

    def step(self) -> None:
        """Ends a step and begins the next."""
        now = self._now()
        self.times.compute.append(now - self._began - self._shared)
        self.times.collectives.append(self._shared)
        self._began, self._shared = now, 0.0

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def gather(times: StepTimes) -> dict[int, StepTimes]:
    """The times of all ranks, on every rank. A collective."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, asdict(times))
    return {rank: StepTimes(**each) for rank, each in enumerate(found)}


@dataclass(frozen=True)
class Straggler:
    """A slow rank: its median compute time a step, and how many times the typical rank's it is."""

    rank: int
    seconds: float
    ratio: float


def find_stragglers(
    compute: Mapping[int, Sequence[float]], *, ratio: float = 1.2
) -> list[Straggler]:
    """Ranks whose own work takes ``ratio`` times that of the typical rank, slowest first.

    The median over steps keeps a single slow step (a checkpoint, garbage collection) from accusing
    anybody; the median over ranks keeps one very slow rank from hiding another, which a mean and
    standard deviation do not. Of an even number of ranks it is the lower middle one, so that of two
    ranks the slower is measured against the faster.

    Parameters
    ----------
    compute
        Rank -> seconds of own work in each step; not the whole step, which is equal everywhere.
    ratio
        Above 1. Below about 1.1 it finds noise.

    Raises
    ------
    InputError
        For a ratio of 1 or less, or a rank without steps.
    """
    require(ratio > 1, "ratio", ratio, "must be > 1", "try 1.2")
    for rank, each in compute.items():
        require(bool(each), f"compute[{rank}]", list(each), "must have at least one step")
    if not compute:
        return []
    typical_step = {rank: median(each) for rank, each in compute.items()}
    typical = median_low(typical_step.values())
    slow = [
        Straggler(rank, seconds, seconds / typical)
        for rank, seconds in typical_step.items()
        if seconds > ratio * typical
    ]
    return sorted(slow, key=lambda each: -each.seconds)


def describe(times: Mapping[int, StepTimes], *, ratio: float = 1.2) -> str:
    """A line a rank (medians in milliseconds), and the verdict."""
    lines = ["rank   step ms   own work ms   in collectives ms"]
    for rank, each in sorted(times.items()):
        parts = (median(each.steps), median(each.compute), median(each.collectives))
        step, own, shared = (1000 * seconds for seconds in parts)
        lines.append(f"{rank:4} {step:9.1f} {own:13.1f} {shared:19.1f}")
    found = find_stragglers({rank: each.compute for rank, each in times.items()}, ratio=ratio)
    verdict = [
        f"rank {each.rank} holds the others up: {each.ratio:.1f} times the typical rank's work"
        for each in found
    ]
    return "\n".join(lines + (verdict or [f"no rank takes {ratio} times the typical rank's work"]))
