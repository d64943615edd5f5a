"""The ranker's distillation in one process, replicated on ranks, and sharded over them.

``python -m labs.lab5_distillation.distributed_example --procs 2`` starts torchrun for each way of
spreading the run, and once more for a run that stops half-way; one process goes on with that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from labs.lab5_distillation.sequence_ranker import SequenceRanker, Walks, ranker_distillation

EPOCHS = 3
STOP_AFTER = 8  # steps, of 15
Way = Literal["replicate", "shard"]


@dataclass(frozen=True)
class Comparison:
    """Losses of each step by the way they were computed.

    Attributes
    ----------
    losses
        ``"1 alone"``, ``"2 replicate"``, ``"2 shard"`` and ``"2 shard, then 1"``, say.
    largest_difference
        Between any of them and the first.
    checkpoint
        The file that two runs of different numbers of ranks have written.
    """

    losses: dict[str, list[float]]
    largest_difference: float
    checkpoint: str


def pair(device: torch.device) -> nn.Module:
    """The objective of a small student and a teacher twice as wide (random weights)."""
    torch.manual_seed(0)
    teacher, student = SequenceRanker(20, 32, 2), SequenceRanker(20, 16, 2)
    return ranker_distillation(student.to(device), teacher.to(device))


def worker(way: Way, device: str, output: Path, checkpoint: Path, stop_after: int) -> None:
    """What each rank does; rank 0 writes the losses."""
    from labs.lab5_distillation.distributed import leave, process_group, replicate, shard

    with process_group(device) as ranks:
        objective = pair(ranks.device)
        spread = replicate(objective) if way == "replicate" else shard(objective)
        losses = run(spread, ranks.device, checkpoint, stop_after)
        if ranks.rank == 0:
            output.write_text(json.dumps(losses), encoding="utf-8")
    leave()


def run(
    objective: nn.Module, device: torch.device, checkpoint: Path, stop_after: int = 0
) -> list[float]:
    """Losses of three epochs, or of those until it stops; the same code on any number of ranks."""
    from labs.lab5_distillation.distiller import fit
    from labs.lab5_distillation.distributed import Sharded, rank, world

    optimizer = torch.optim.AdamW(objective.parameters(), 0.01)
    loader = Sharded(OnDevice(device), rank(), world())
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step == stop_after:
            raise Stopped

    with suppress(Stopped):
        fit(
            objective,
            loader,
            optimizer,
            epochs=EPOCHS,
            checkpoint=checkpoint,
            every=1,
            on_step=on_step,
        )
    return losses


class Stopped(Exception):
    """Stands for a machine that was taken away."""


class OnDevice(Walks):
    """`Walks` whose tables lie on a device, so that batches do."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(users=66, size=16)
        self.walk, self.liked = self.walk.to(device), self.liked.to(device)


def launch(
    *, procs: int, device: str, folder: Path, ways: Sequence[Way] = ("replicate", "shard")
) -> Comparison:
    """Run the given ways under torchrun, and one that moves to another number of ranks; compare.

    Raises
    ------
    RunError
        A rank failed.
    """
    from common.launch import torchrun

    def ranks(name: str, way: Way, stop_after: int = 0) -> list[float]:
        output = folder / f"{name}.json"
        torchrun(
            "labs.lab5_distillation.distributed_example",
            ["--worker", way, device, str(output), str(folder / f"{name}.pt"), str(stop_after)],
            procs=procs,
            device=device,
            log=folder / "ranks.log",
        )
        found: list[float] = json.loads(output.read_text(encoding="utf-8"))
        return found

    place = torch.device(device)
    first = run(pair(place), place, folder / "alone.pt")
    found = {"1 alone": first, **{f"{procs} {way}": ranks(way, way) for way in ways}}
    begun = ranks("moved", "shard", stop_after=STOP_AFTER)
    moved = run(pair(place), place, folder / "moved.pt")
    # The step at which the run was stopped had not been saved: it is taken again.
    found[f"{procs} shard, then 1"] = begun[:-1] + moved
    largest = max(abs(a - b) for each in found.values() for a, b in zip(first, each, strict=True))
    return Comparison(found, largest, str(folder / "moved.pt"))


def main() -> None:
    """Show the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        way, device, output, checkpoint, stop = given.worker
        worker(way, device, Path(output), Path(checkpoint), int(stop))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = launch(procs=given.procs, device=given.device, folder=Path(folder))
    for name, losses in found.losses.items():
        print(f"{name:<20}", *(f"{loss:.6f}" for loss in losses[:: len(losses) // 5]))
    print(f"largest difference of {len(losses)} steps: {found.largest_difference:.1e}")


if __name__ == "__main__":
    main()
