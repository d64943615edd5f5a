"""Where a step's time goes: communication, computation, and how much of one hides the other.

:func:`profile_steps` records a few steps with ``torch.profiler`` and writes the trace, which
``https://ui.perfetto.dev`` and ``chrome://tracing`` show. What counts as communication and what as
computation, on a GPU and on the CPU, is in :mod:`labs.lab1_fsdp_advanced.chrome_trace`.

``python -m labs.lab1_fsdp_advanced.profiling [FOLDER]`` profiles DDP and FSDP on two CPU ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from common.errors import RunError, require
from common.exercises import exercise
from common.launch import torchrun
from labs.lab1_fsdp_advanced.chrome_trace import Event, Interval, Lanes, lanes, read_trace, without
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = TypeVar("Batch")

STEP, FORWARD = "lab1::step", "lab1::forward"
# What torch and FSDP mark by themselves: the backward pass is autograd's own spans, and FSDP's
# work at their edges; optimizers mark their step.
PHASES = {
    "forward": (FORWARD,),
    "backward": ("autograd::engine::evaluate_function", "FSDP::pre_backward", "FSDP::root_post"),
    "optimizer": ("Optimizer.step#",),
}


@dataclass(frozen=True)
class Exposure:
    """Time in which any collective ran: in all, beside computation, and with nothing else to do.

    ``total = hidden + exposed``, in the unit of the intervals.
    """

    total: float
    hidden: float
    exposed: float


@exercise(
    "1.13",
    points=10,
    title="How much communication is hidden",
    hint="Merge each list into disjoint intervals first: sort by start, extend the last one while "
    "the next begins inside it. Two sorted lists of disjoint intervals are then walked together.",
)
def exposed(communication: Sequence[Interval], compute: Sequence[Interval]) -> Exposure:
    """Time of communication, how much of it lies under computation, and how much does not.

    With C the union of the communication intervals and K that of the compute intervals::

        total = |C|     hidden = |C ∩ K|     exposed = |C \\ K| = total - hidden

    Only exposed communication makes a step longer: a step whose communication is all hidden is as
    fast as one without. Unions come first, because events nest (an operator inside another), run on
    two streams at once, and repeat: a second that two events cover is one second.

    Parameters
    ----------
    communication, compute
        (start, end) in any order and one unit; they may overlap, nest, touch, repeat or be empty
        (start = end). Either list may have no intervals.

    Returns
    -------
    Exposure

    Raises
    ------
    InputError
        For an interval that ends before it starts.

    Examples
    --------
    >>> exposed([(0, 4), (3, 6)], [(2, 5), (2, 3), (8, 9)])
    Exposure(total=6, hidden=3, exposed=3)
    """
    merged: list[list[Interval]] = []
    for intervals in (communication, compute):
        disjoint: list[Interval] = []
        for start, end in sorted(intervals):
            require(start <= end, "interval", (start, end), "must not end before it starts")
            if disjoint and start <= disjoint[-1][1]:
                disjoint[-1] = (disjoint[-1][0], max(disjoint[-1][1], end))
            else:
                disjoint.append((start, end))
        merged.append(disjoint)
    ours, theirs = merged
    total = sum(end - start for start, end in ours)
    hidden: float = 0
    i = j = 0
    while i < len(ours) and j < len(theirs):
        begins, ends = max(ours[i][0], theirs[j][0]), min(ours[i][1], theirs[j][1])
        hidden += max(0, ends - begins)
        # The one that ends first can meet nothing more.
        if ours[i][1] <= theirs[j][1]:
            i += 1
        else:
            j += 1
    return Exposure(total, hidden, total - hidden)


@dataclass(frozen=True)
class Profile:
    """Mean seconds a step of one rank.

    Attributes
    ----------
    step_s
        Wall time.
    communication_s, compute_s
        In which at least one collective ran, or anything was computed.
    exposed_s
        In which a collective ran and nothing was computed.
    phases
        Host time of ``"forward"`` (where ``loss_fn`` is ``marked``), ``"backward"`` and
        ``"optimizer"``. On a GPU the host runs ahead, and this is the time of its launches.
    trace
        The Chrome trace, gzipped.
    """

    rank: int
    steps: int
    step_s: float
    communication_s: float
    compute_s: float
    exposed_s: float
    phases: dict[str, float]
    trace: str

    @property
    def communication_share(self) -> float:
        """Of the step's time, how much a collective was running."""
        return self.communication_s / self.step_s

    @property
    def exposed_share(self) -> float:
        """Of the step's time, what communication costs: it would be gained if all were hidden."""
        return self.exposed_s / self.step_s


def marked(loss_fn: Callable[[nn.Module, Batch], Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
    """``loss_fn``, with its time marked as the forward pass."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with record_function(FORWARD):
            return loss_fn(model, batch)

    return loss


def profile_steps(
    step_fn: Callable[[], object], *, steps: int, folder: Path, ranks: Ranks
) -> Profile:
    """Profile training steps of this rank; every rank calls it.

    Parameters
    ----------
    step_fn
        Does one whole step. It is called ``steps + 1`` times; the first, while the profiler starts,
        is not counted. Have taken a step or two before (compilation, the allocator).
    folder
        Receives ``trace-rank-N.json.gz``.

    Raises
    ------
    InputError
        For less than one step.
    """
    require(steps >= 1, "steps", steps, "must be >= 1")
    cuda = ranks.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"trace-rank-{ranks.rank}.json.gz"
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1)
    with torch_profile(activities=activities, schedule=schedule) as profiler:
        for _ in range(steps + 1):
            with record_function(STEP):
                step_fn()
                if cuda:  # the GPU's work of this step belongs to this step
                    torch.cuda.synchronize(ranks.device)
            profiler.step()
    profiler.export_chrome_trace(str(path))
    return summarise(read_trace(path), rank=ranks.rank, trace=str(path))


def summarise(events: Sequence[Event], *, rank: int, trace: str = "") -> Profile:
    """Means over the marked steps of a trace.

    Raises
    ------
    RunError
        For a trace without marked steps.
    """
    windows = step_windows(events)
    all_lanes = lanes(events)
    each = [
        (exposed(cut.communication, cut.compute), cut) for cut in map(all_lanes.within, windows)
    ]
    compute = sum(exposed(cut.compute, ()).total for _, cut in each)
    phases = {}
    for phase, names in PHASES.items():
        spans = [event.interval for event in events if event.name.startswith(names)]
        inside = [Lanes(spans, []).within(window).communication for window in windows]
        phases[phase] = sum(exposed(cut, ()).total for cut in inside) / len(windows)
    return Profile(
        rank,
        len(windows),
        sum(end - start for start, end in windows) / len(windows),
        sum(found.total for found, _ in each) / len(windows),
        compute / len(windows),
        sum(found.exposed for found, _ in each) / len(windows),
        {phase: seconds for phase, seconds in phases.items() if seconds},
        trace,
    )


def step_windows(events: Sequence[Event]) -> list[Interval]:
    """When each step of :func:`profile_steps` ran, on the host's clock."""
    found = [e.interval for e in events if e.name == STEP and e.category == "user_annotation"]
    if not found:
        raise RunError(f"the trace has no {STEP!r} spans; record it with profile_steps")
    return found


def timeline(events: Sequence[Event], *, step: int = 0, title: str = "") -> Figure:
    """One step of a rank, drawn: its phases, compute, and communication, exposed parts in red.

    Raises
    ------
    InputError
        When the trace has no such step.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    windows = step_windows(events)
    require(0 <= step < len(windows), "step", step, f"must be 0 to {len(windows) - 1}")
    window = windows[step]
    cut = lanes(events).within(window)
    exposed_parts = without(cut.communication, cut.compute)
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.add_subplot()

    def draw(row: float, intervals: Sequence[Interval], colour: str) -> None:
        spans = [(1000 * (start - window[0]), 1000 * (end - start)) for start, end in intervals]
        axes.broken_barh(spans, (row, 0.8), facecolors=colour)

    colours = {"forward": "#9ecae1", "backward": "#6baed6", "optimizer": "#3182bd"}
    for phase, names in PHASES.items():
        spans = [event.interval for event in events if event.name.startswith(names)]
        draw(2, Lanes(without(spans, ()), []).within(window).communication, colours[phase])
    draw(1, without(cut.compute, ()), "#7f7f7f")
    draw(0, without(cut.communication, ()), "#74c476")
    draw(0, exposed_parts, "#d62728")
    axes.set_yticks([0.4, 1.4, 2.4], ["communication", "compute", "phase"])
    axes.set_xlim(0, 1000 * (window[1] - window[0]))
    axes.set_xlabel("milliseconds since the step began")
    axes.set_title(title)
    named = colours | {"hidden communication": "#74c476", "exposed communication": "#d62728"}
    patches = [Patch(facecolor=colour, label=name) for name, colour in named.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, frameon=False)
    return figure


def describe(profiles: Mapping[str, Sequence[Profile]]) -> str:
    """A line for each job and rank, in milliseconds a step."""
    lines = ["                rank    step  compute  communication  exposed  hidden"]
    for name, ranks in profiles.items():
        for each in ranks:
            found = (each.step_s, each.compute_s, each.communication_s, each.exposed_s)
            step, compute, communication, cost = (1000 * seconds for seconds in found)
            hidden = 1 - cost / communication if communication else 0.0
            lines.append(
                f"{name:15} {each.rank:4} {step:7.1f} {compute:8.1f} {communication:14.1f} "
                f"{cost:8.1f} {hidden:7.0%}"
            )
    return "\n".join(lines)


def _job(name: str, ranks: Ranks) -> Callable[[], object]:
    """A training step of a small decoder, by DDP or by an FSDP strategy."""
    from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import train_step

    shape = Shape(width=256, layers=4, heads=4, context=128, vocabulary=512)
    tokens = torch.randint(shape.vocabulary, (4, shape.context + 1), device=ranks.device)
    model: nn.Module = Decoder(shape).to(ranks.device)
    if name == "DDP":
        model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1)
    else:
        shard(model, Strategy(name), device=ranks.device, blocks=list(model.blocks))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters())
    loss_fn = marked(next_token_loss)

    def by_ddp() -> None:
        loss_fn(model, tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def by_fsdp() -> None:
        train_step(model, optimizer, [tokens], loss_fn, max_norm=1.0)

    return by_ddp if name == "DDP" else by_fsdp


def _rank(folder: Path, device: str) -> None:
    """What each rank of the demonstration does."""
    import torch.distributed as dist

    with process_group(device) as ranks:
        found = {}
        for name in ("DDP", "SHARD_GRAD_OP", "FULL_SHARD"):
            step_fn = _job(name, ranks)
            step_fn()
            mine = profile_steps(step_fn, steps=5, folder=folder / name, ranks=ranks)
            found[name] = [asdict(mine)] * ranks.world
            dist.all_gather_object(found[name], asdict(mine))
        if ranks.is_main:
            (folder / "profiles.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


def main(folder: Path, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    args = ["--rank", str(folder), device]
    log = folder / "ranks.log"
    torchrun("labs.lab1_fsdp_advanced.profiling", args, procs=2, device=device, log=log)
    raw = json.loads((folder / "profiles.json").read_text("utf-8"))
    profiles = {name: [Profile(**each) for each in ranks] for name, ranks in raw.items()}
    print(describe(profiles))
    for name, ranks in profiles.items():
        figure = timeline(read_trace(Path(ranks[0].trace)), title=f"{name}, rank 0")
        figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"\ntraces (for ui.perfetto.dev) and figures: {folder}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        _rank(Path(sys.argv[2]), sys.argv[3])
    else:
        folder, device = [*sys.argv[1:], *("runs/profiling", "cpu")[len(sys.argv) - 1 :]][:2]
        main(Path(folder), device)
