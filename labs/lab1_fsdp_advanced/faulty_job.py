"""A small data-parallel job with a fault of your choice: the patient of ``debugging``.

``torchrun --nproc-per-node 2 -m labs.lab1_fsdp_advanced.faulty_job CASE FOLDER [DEVICE [SECONDS]]``
trains nothing; it calls collectives as a training loop does, and at step :data:`FAULT_AT` something
goes wrong. The watchdog of each rank writes what it knows into FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from queue import Queue

import torch
import torch.distributed as dist

from labs.lab1_fsdp_advanced.debugging import Case
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.rank_log import rank_log
from labs.lab1_fsdp_advanced.stragglers import StepClock, gather
from labs.lab1_fsdp_advanced.watchdog import Watchdog

STEPS, FAULT_AT = 8, 4


def next_batch(batches: Queue[torch.Tensor]) -> torch.Tensor:
    """Waits for the loader, for as long as it takes."""
    return batches.get()


def validate(score: torch.Tensor) -> torch.Tensor:
    """Averages a metric over the ranks: whoever calls it needs all of them to call it."""
    dist.all_reduce(score)
    return score / dist.get_world_size()


def keep_best(weights: torch.Tensor) -> None:
    """Sends the best weights to all ranks."""
    dist.broadcast(weights, src=0)


def train(case: Case, ranks: Ranks, watchdog: Watchdog) -> StepClock:
    """Steps of a data-parallel loop: batch, gradient, its mean over the ranks, the loss."""
    batches: Queue[torch.Tensor] = Queue()
    delivered = FAULT_AT if case is Case.STARVED and ranks.rank == 1 else STEPS
    for _ in range(delivered):
        batches.put(torch.ones(64, device=ranks.device))
    weights = torch.zeros(64, device=ranks.device)
    clock = StepClock(ranks.device)
    for step in range(STEPS):
        gradient = next_batch(batches) / 64
        time.sleep(0.15 if case is Case.SLOW and ranks.rank == 1 else 0.05)
        if step == FAULT_AT and case is Case.BRANCH and ranks.is_main:
            keep_best(weights)
        if step == FAULT_AT and case is Case.SHIFTED and ranks.is_main:
            validate(torch.ones(64, device=ranks.device))
        if step == FAULT_AT and case in (Case.SIZES, Case.CHECKED) and ranks.rank == 1:
            gradient = torch.ones(65, device=ranks.device) / 65
        with clock.collectives():
            dist.all_reduce(gradient)
        weights -= gradient[:64]
        # Reading a value makes the host wait for the device, and a hang on the device visible here.
        float(weights.sum())
        clock.step()
        watchdog.beat()
    return clock


def main(case: str, folder: str, device: str = "cpu", seconds: str = "3") -> None:
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    output = Path(folder)
    if case == Case.CHECKED:
        dist.set_debug_level(dist.DebugLevel.DETAIL)
    with (
        process_group(device) as ranks,
        rank_log(output, ranks.rank, ranks.world) as log,
        Watchdog(output, ranks.rank, ranks.world, timeout_s=float(seconds)) as watchdog,
    ):
        log.info("case %s on %s", case, ranks.device)
        clock = train(Case(case), ranks, watchdog)
        times = gather(clock.times)
        if ranks.is_main:
            found = {rank: asdict(each) for rank, each in times.items()}
            (output / "times.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
