"""Lose a rank in mid-run, start again by itself, and go on from the newest checkpoint.

torchrun watches its ranks. When one dies it stops the others, which wait in a collective that can
no longer end, and starts all of them again, up to ``--max-restarts`` times, as fresh processes. The
job goes on where it was only because ``fit`` looks for a checkpoint first: the restart is
torchrun's part, the resume is ours.

A scheduler that takes the nodes away announces it: its job file makes the file ``stop`` (see
``jobs/``), and the ranks save and end after the step they are at.

``python -m labs.lab1_fsdp_advanced.elastic`` kills a rank, shows what the restart cost, and goes on
from the same checkpoint with one rank.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import EXIT_OK, InputError, exit_status, require
from common.launch import scratch_folder, torchrun

MODULE = "labs.lab1_fsdp_advanced.elastic"
STOP = "stop"


class Stopped(Exception):
    """The run was asked to end, and has saved."""


@dataclass(frozen=True)
class Plan:
    """How far to train, how often to save, and which rank to kill after which step, once."""

    steps: int = 8
    save_every: int = 3
    kill_rank: int | None = None
    kill_after: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Step:
    """A step as a rank wrote it down: its number, its loss, and when it was done."""

    number: int
    loss: float
    at: float


@dataclass(frozen=True)
class Recovery:
    """What an interruption cost.

    Attributes
    ----------
    resumed_from
        Step of the checkpoint that the second attempt began with; 0 when there was none.
    steps_again
        Steps that had been done and were done a second time.
    seconds
        From the kill to the end of the first step after the restart.
    """

    resumed_from: int
    steps_again: int
    seconds: float


def run(plan: Plan, folder: Path, *, procs: int, max_restarts: int = 0) -> list[Step]:
    """Train as planned on ``procs`` ranks; every step that rank 0 did, repeated ones included.

    Parameters
    ----------
    folder
        Keeps checkpoints, the log, and the file that says the rank has been killed already. Given
        again, the run goes on from its newest checkpoint, on any number of ranks. A file ``stop``
        in it makes the ranks save and end after a step.
    max_restarts
        How often torchrun starts the ranks again.

    Raises
    ------
    InputError
        For a plan that kills a rank or a step that does not exist.
    RunError
        When a rank dies and no restart is left.
    """
    require(plan.save_every > 0, "save_every", plan.save_every, "must be > 0", "try 3")
    if plan.kill_rank is not None:
        known = 0 <= plan.kill_rank < procs
        require(known, "kill_rank", plan.kill_rank, f"must be one of the {procs} ranks", "try 0")
        inside = 0 < plan.kill_after < plan.steps
        require(inside, "kill_after", plan.kill_after, f"must be between 0 and {plan.steps}")
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "steps.jsonl"
    record.unlink(missing_ok=True)
    args = ["--rank", str(folder), json.dumps(asdict(plan))]
    log = folder / "ranks.log"
    torchrun(MODULE, args, procs=procs, device=plan.device, log=log, max_restarts=max_restarts)
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return [Step(**json.loads(line)) for line in lines]


def recovery(done: list[Step], killed_at: float) -> Recovery:
    """What the interruption of a run cost, from the steps of its two attempts.

    Raises
    ------
    InputError
        When no step was done after the kill.
    """
    after = [step for step in done if step.at > killed_at]
    if not after:
        raise InputError("no step was done after the kill; was the run started again?")
    before = {step.number for step in done if step.at <= killed_at}
    first = after[0]
    again = sum(step.number in before for step in after)
    return Recovery(first.number - 1, again, first.at - killed_at)


def losses(done: list[Step]) -> dict[int, float]:
    """Loss by step; of a step that was done twice, the second."""
    return {step.number: step.loss for step in done}


def killed_at(folder: Path) -> float:
    """When the rank was killed, in seconds of ``time.time()``."""
    return float((folder / "killed").read_text(encoding="utf-8"))


def rank_main(folder: Path, plan: Plan) -> None:
    """What every rank runs: nothing in it knows of restarts, but for the kill."""
    import torch
    import torch.distributed as dist

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.distributed import leave, process_group
    from labs.lab1_fsdp_advanced.model import Shape, next_token_loss
    from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
    from labs.lab1_fsdp_advanced.training import StepResult, fit

    shape = Shape(64, 2, 4, 32, 256, kv_heads=2)
    text = torch.Generator().manual_seed(0)
    windows = torch.randint(8, (plan.steps, 8, shape.context + 1), generator=text)  # 8 letters
    marker, directory = folder / "killed", folder / "checkpoints"
    with process_group(plan.device) as ranks:
        model = parallelize(shape, Parallelism(), ranks, seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

        def batches(step: int, rank: int, world: int) -> list[torch.Tensor]:
            return [windows[step][rank::world].to(ranks.device)]

        def on_step(done: int, result: StepResult) -> None:
            if ranks.is_main:
                step = Step(done, result.loss, time.time())
                with (folder / "steps.jsonl").open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(step)) + "\n")
            if ranks.rank == plan.kill_rank and done == plan.kill_after and not marker.exists():
                time.sleep(0.2)  # so that rank 0, if it is another, has written its step
                marker.write_text(repr(time.time()), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            # One rank looks and all obey: the file may appear between the looks of two ranks.
            stop = torch.tensor([float((folder / STOP).exists())], device=ranks.device)
            dist.broadcast(stop, src=0)
            if stop.item():
                if done % plan.save_every and done != plan.steps:
                    checkpoint.save(directory, model, optimizer, step=done)
                raise Stopped

        with suppress(Stopped):
            fit(
                model,
                optimizer,
                batches,
                next_token_loss,
                steps=plan.steps,
                directory=directory,
                save_every=plan.save_every,
                on_step=on_step,
            )
    leave()


def show(folder: Path) -> None:
    """Train undisturbed, train with a kill, and go on with fewer ranks; print all three."""
    plan = Plan(steps=8, save_every=3)
    whole = losses(run(plan, folder / "undisturbed", procs=2))
    faulty = Plan(steps=8, save_every=3, kill_rank=1, kill_after=5)
    done = run(faulty, folder / "killed", procs=2, max_restarts=1)
    # The newest checkpoint is of the last step: the one before it gives one rank something to do.
    newest = folder / "killed" / "checkpoints" / "step-00000008"
    shutil.rmtree(newest)
    fewer = losses(run(plan, folder / "killed", procs=1))
    cost = recovery(done, killed_at(folder / "killed"))
    print("step   undisturbed   killed after step 5           then with 1 rank")
    for number, loss in whole.items():
        tries = "  ".join(f"{step.loss:.6f}" for step in done if step.number == number)
        rest = f"{fewer[number]:.6f}" if number in fewer else ""
        print(f"{number:4}   {loss:11.6f}   {tries:27}   {rest}".rstrip())
    print(
        f"\nrank 1 was killed after step 5; both ranks went on from the checkpoint of step "
        f"{cost.resumed_from}: {cost.steps_again} steps were done twice, and the first step after "
        f"the restart ended {cost.seconds:.1f} s after the kill"
    )


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--rank"]:
        rank_main(Path(arguments[1]), Plan(**json.loads(arguments[2])))
        return EXIT_OK

    def command() -> int:
        with scratch_folder("elastic-") as folder:
            show(folder)
        return EXIT_OK

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
