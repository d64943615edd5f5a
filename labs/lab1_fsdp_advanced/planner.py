"""Which ways to train a model fit in the memory there is, and which of them to take.

``python -m labs.lab1_fsdp_advanced.planner --model 8B --gpus 8 --gib 80``

Nothing is allocated: the peaks are those of ``peak_memory``, which the lab holds against measured
ones. Memory decides what is possible; of what is possible, communication decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.errors import EXIT_FAILED, EXIT_OK, InputError, exit_status, require
from common.exercises import exercise
from labs.lab1_fsdp_advanced.candidates import Candidate, Setup, candidate, candidates
from labs.lab1_fsdp_advanced.config import PrecisionName, SizeName

if TYPE_CHECKING:
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.worker import Job

GIB = 2**30
USABLE = 0.92
"""Share of a GPU's memory for tensors; the rest is CUDA's context, NCCL's buffers and the gaps
between an allocator's blocks."""
PROCESS_GIB = 0.5
"""Of a rank on a CPU beside its tensors: a Python process that has imported torch has 0.4."""
MOST_RANKS = 4096
PARTS = {
    "parameters": "weights",
    "gradients": "gradients",
    "optimizer": "moments",
    "unsharded": "gathered",
    "activations": "activations",
}
"""Fields of ``Held`` and what the table calls them."""


@exercise(
    "1.11",
    points=10,
    title="Choose a strategy under a memory budget",
    hint="Two steps: leave out what does not fit, then take the least of the rest. Python compares "
    "tuples from left to right, so one key can hold all four criteria in their order.",
)
def choose(ways: Sequence[Candidate], budget_bytes: float) -> Candidate | None:
    """The candidate to train with: of those that fit, the one that costs the least time.

    A candidate fits when the peak of a rank, ``peak.total``, is at most ``budget_bytes``. Of those
    that fit, take the one with, in this order,

    1. the fewest bytes ``communicated``;
    2. the smallest share ``recomputed``;
    3. no ``offload`` before ``offload``;
    4. the smallest peak, which leaves the most room for a larger batch.

    Memory that is left over makes no step faster: a candidate is not better for needing less,
    except between two that are equal otherwise.

    Parameters
    ----------
    ways
        In any order. Two that are equal in everything above: the first of them.
    budget_bytes
        Of ONE rank: 80 GiB on each of 8 GPUs is a budget of 80 GiB, not of 640.

    Returns
    -------
    Candidate or None
        None when nothing fits, or without candidates. It is one of ``ways``.

    Examples
    --------
    With peaks of 90, 60 and 20 GiB, and 8, 6 and 9 GB communicated in a step:

    >>> choose([no_shard, zero_2, full_shard], 80 * 2**30) is zero_2
    True
    >>> choose([no_shard, zero_2, full_shard], 40 * 2**30) is full_shard
    True
    """
    return min(
        (each for each in ways if each.peak.total <= budget_bytes),
        key=lambda each: (each.communicated, each.recomputed, each.offload, each.peak.total),
        default=None,
    )


@dataclass(frozen=True)
class Memory:
    """What tensors may take.

    Attributes
    ----------
    available
        Bytes: of one GPU, or of all ranks of a CPU together.
    shared
        Whether the ranks share it.
    """

    available: float
    shared: bool

    def budget(self, ranks: int) -> float:
        """Bytes for the tensors of one rank."""
        if self.shared:
            return self.available / ranks - PROCESS_GIB * GIB
        return self.available * USABLE

    def says(self, peak: int, ranks: int) -> str:
        """What is needed and what is there, in GiB."""
        needed, there = peak / GIB, self.available / GIB
        if self.shared:
            together = ranks * (needed + PROCESS_GIB)
            return (
                f"needs {together:.1f} GiB ({ranks} x {needed:.1f} and {PROCESS_GIB} for each "
                f"process), {there:.1f} GiB are available"
            )
        return (
            f"needs {needed:.1f} GiB a rank, {self.budget(ranks) / GIB:.1f} GiB are available "
            f"({USABLE:.0%} of {there:.1f})"
        )


def here(device: str) -> Memory:
    """Memory of this machine: of its smallest GPU, or what is free of the host's."""
    import psutil

    from common.hardware import detect

    gpus = detect().gpus
    smallest = min((gpu.memory_gib for gpu in gpus), default=0.0) if device == "cuda" else 0.0
    # A GPU that has no memory of its own says 0: its ranks share the host's.
    if smallest:
        return Memory(smallest * GIB, shared=False)
    return Memory(float(psutil.virtual_memory().available), shared=True)


def advice(setup: Setup, memory: Memory) -> str:
    """What would do in place of something that does not fit: up to three ways out."""
    fitting_here = choose(candidates(setup), memory.budget(setup.ranks))
    if fitting_here is not None:
        return f"try {fitting_here.name} ({fitting_here.peak.total / GIB:.1f} GiB a rank)"
    found = []
    if setup.device == "cuda":
        offloaded = choose(candidates(setup, offload=True), memory.budget(setup.ranks))
        if offloaded is not None:
            found.append(f"{offloaded.name} ({offloaded.peak.total / GIB:.1f} GiB a rank)")
        ranks = _first(setup, memory, lambda s: s.ranks < MOST_RANKS, _twice_the_ranks)
        if ranks is not None:
            found.append(f"{ranks.ranks} ranks like these")
    smaller = _first(setup, memory, lambda s: s.micro_batch > 1, _half_the_batch)
    if smaller is not None:
        found.append(f"micro-batches of {smaller.micro_batch} in place of {setup.micro_batch}")
    if not found:
        name = largest(setup, memory)
        found = [f"the model {name}, the largest that fits" if name else "another machine"]
    return "try " + ", or ".join(found)


def _first(
    setup: Setup,
    memory: Memory,
    more: Callable[[Setup], bool],
    change: Callable[[Setup], Setup],
) -> Setup | None:
    """The first of ``change``'s setups that has a candidate that fits."""
    while more(setup):
        setup = change(setup)
        if choose(candidates(setup), memory.budget(setup.ranks)) is not None:
            return setup
    return None


def _twice_the_ranks(setup: Setup) -> Setup:
    return replace(setup, ranks=2 * setup.ranks, local_ranks=setup.local)


def _half_the_batch(setup: Setup) -> Setup:
    return replace(setup, micro_batch=setup.micro_batch // 2)


def largest(setup: Setup, memory: Memory) -> str | None:
    """Name of the largest of ``model.SIZES`` that fits with the rest of ``setup`` as it is."""
    from labs.lab1_fsdp_advanced.model import SIZES

    for name, shape in sorted(SIZES.items(), key=lambda item: -item[1].parameters):
        ways = candidates(replace(setup, shape=shape))
        if choose(ways, memory.budget(setup.ranks)) is not None:
            return name
    return None


def fitting(
    job: Job, asked: Sequence[Parallelism], *, world: int
) -> tuple[list[Parallelism], list[str]]:
    """Of the ways asked for, those that fit in this machine's memory, and a line for each other.

    Raises
    ------
    InputError
        When none fits, before anything is allocated: with all those lines.
    """
    memory = here(job.device)
    fit, refused = [], []
    for way in asked:
        needs = []
        for ranks in _worlds(job, way, world):
            setup = Setup(
                job.shape,
                ranks,
                job.global_batch // (ranks * job.accumulation),
                way.precision,
                context=job.context,
                micro_batches=job.accumulation,
                device=job.device,
                compiled=way.compile,
            )
            needs.append((setup, candidate(setup, way.strategy, way.checkpointing, way.offload)))
        over = [(s, c) for s, c in needs if c.peak.total > memory.budget(s.ranks)]
        if over:
            setup, its = over[0]
            refused.append(
                f"{way.name}: {memory.says(its.peak.total, setup.ranks)}; " + advice(setup, memory)
            )
        elif problem := _host_is_full(*needs[0]):
            refused.append(f"{way.name}: {problem}")
        else:
            fit.append(way)
    if not fit:
        raise InputError("no way to train fits in memory:\n  " + "\n  ".join(refused))
    return fit, refused


def _worlds(job: Job, way: Parallelism, world: int) -> tuple[int, ...]:
    """The ranks it may run on: on a CPU, HYBRID_SHARD gets four where two are asked for."""
    grid = way.strategy == "HYBRID_SHARD" and job.device == "cpu" and world == 2
    return (world, 4) if grid and job.global_batch % (4 * job.accumulation) == 0 else (world,)


def _host_is_full(setup: Setup, way: Candidate) -> str:
    """What to say when the host has no room for what is offloaded from its GPUs; else nothing."""
    from labs.lab1_fsdp_advanced.memory import predicted

    if not way.offload or setup.device != "cuda" or way.strategy == "NO_SHARD":
        return ""
    held = predicted(setup.shape.parameters, way.strategy, setup.ranks, setup.local)
    host = here("cpu")
    if held.total <= host.budget(setup.local):
        return ""
    return f"offload {host.says(held.total, setup.local)}; try it without offload"


@dataclass(frozen=True)
class Options:
    """Show what each way to train needs on a rank, and which to take."""

    model: SizeName = "1.3B"
    """Size of the model; auto is not one here."""
    gpus: int = 8
    """All ranks."""
    node: int = 8
    """GPUs of a node, when there are more."""
    gib: float = 80.0
    """Memory of one GPU; 92 % of it is for tensors."""
    precision: PrecisionName = "bf16"
    """Type of the matrix products; the weights are fp32 in all of them."""
    micro_batch: int = 8
    """Windows that a rank computes at once."""
    micro_batches: int = 1
    """Micro-batches before the ranks exchange gradients."""
    context: int = 0
    """Tokens of a window; 0: the model's own."""
    offload: bool = False
    """Also consider shards and optimizer in the memory of the host."""
    compile: bool = False
    """Blocks are compiled: they keep less without checkpointing."""

    def __post_init__(self) -> None:
        for name in ("gpus", "node", "micro_batch", "micro_batches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.model != "auto", "model", self.model, "has no size", "try 1.3B")
        require(0 < self.gib < 1e6, "gib", self.gib, "must be > 0 and below 1000000", "try 80")
        require(self.context >= 0, "context", self.context, "must be >= 0", "0 takes the model's")
        require(
            self.gpus <= self.node or self.gpus % self.node == 0,
            "gpus",
            self.gpus,
            f"must be a multiple of the GPUs of a node = {self.node}",
        )


def show(options: Options) -> bool:
    """Print the table and the choice; whether there is one."""
    from rich.console import Console
    from rich.table import Table

    from labs.lab1_fsdp_advanced.model import SIZES
    from labs.lab1_fsdp_advanced.precision import Precision

    setup = Setup(
        SIZES[options.model],
        options.gpus,
        options.micro_batch,
        Precision(options.precision),
        context=options.context or None,
        micro_batches=options.micro_batches,
        local_ranks=min(options.node, options.gpus),
        compiled=options.compile,
    )
    memory = Memory(options.gib * GIB, shared=False)
    budget = memory.budget(setup.ranks)
    ways = candidates(setup, offload=options.offload)
    chosen = choose(ways, budget)
    table = Table(
        title=f"{options.model}, {setup.shape.parameters:,} parameters, {options.precision}, "
        f"{options.micro_batches} x {options.micro_batch} windows of "
        f"{setup.context or setup.shape.context} a rank, {options.gpus} GPUs"
        + ", compiled"
        * options.compile,
        title_justify="left",
    )
    table.add_column("way", no_wrap=True)
    for heading in (*PARTS.values(), "peak GiB", "sent GB", "again", "fits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way in ways:
        table.add_row(
            way.name.replace("checkpointing ", ""),
            *(f"{getattr(way.peak, part) / GIB:.1f}" for part in PARTS),
            f"{way.peak.total / GIB:.1f}",
            f"{way.communicated / 1e9:.1f}",
            f"{way.recomputed:.0%}",
            "yes" if way.peak.total <= budget else "no",
            style="bold green" if way is chosen else "",
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    console.print(table)
    print(
        f"Columns in GiB of one rank at the peak of a step; sent: tensors gathered and reduced in "
        f"a step; again: operations repeated. Budget: {budget / GIB:.1f} GiB "
        f"({USABLE:.0%} of {options.gib:g})."
    )
    if options.compile and options.precision == "fp8":
        print("full: from torch 2.12 on; before, blocks also keep what their fp8 products give.")
    print(f"take: {chosen.name}" if chosen else f"nothing fits; {advice(setup, memory)}")
    return chosen is not None


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status 0 with a choice, 1 when nothing fits, 2 for bad input."""
    import tyro

    def command() -> int:
        options = tyro.cli(
            Options,
            prog="python -m labs.lab1_fsdp_advanced.planner",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        return EXIT_OK if show(options) else EXIT_FAILED

    sys.exit(exit_status(command))


if __name__ == "__main__":
    main()
