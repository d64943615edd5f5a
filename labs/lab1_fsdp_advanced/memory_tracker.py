"""Predict a step's memory by running it on tensors without contents, for any number of ranks.

A formula knows what its author knew. Here the real model, FSDP2 and autograd run one step on *fake*
tensors, which have shapes and no memory, over a *fake* process group, which answers for all other
ranks without sending anything; ``FSDPMemTracker`` watches every tensor come and go. One process
and no GPU predict a rank of any world.

Fake tensors: Ansel et al. (2024), "PyTorch 2", section 3.2, doi 10.1145/3620665.3640366.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import RunError
from common.launch import ROOT
from common.process import supervised
from labs.lab1_fsdp_advanced import sharding
from labs.lab1_fsdp_advanced.activation_checkpointing import Mode, checkpoint_blocks
from labs.lab1_fsdp_advanced.memory import Held
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.precision import Precision
from labs.lab1_fsdp_advanced.sharding import Strategy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODULE = "labs.lab1_fsdp_advanced.memory_tracker"
ANSWER = "prediction "
PARTS = {
    "Sharded Param": "parameters",
    "Sharded Grad": "gradients",
    "Unsharded Grad": "gradients",
    "OptState": "optimizer",
    "Unsharded Param": "unsharded",
    "All Gather": "unsharded",
    "Reduce Scatter": "unsharded",
}
"""What the tracker calls it, and the field of :class:`Held`. All else is an activation, also the
gradients that autograd has just made: the tracker knows them as temporary until a block is done."""


@dataclass(frozen=True)
class Case:
    """A rank and its step; the fields are those of ``peak_memory.peak``."""

    shape: Shape
    strategy: Strategy
    world: int
    micro_batch: int
    precision: Precision
    checkpointing: Mode = "none"
    local_world: int | None = None
    context: int | None = None
    micro_batches: int = 1
    device: str = "cuda"

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Case:
        kinds = {
            "shape": Shape(**given["shape"]),
            "strategy": Strategy(given["strategy"]),
            "precision": Precision(given["precision"]),
        }
        return cls(**(given | kinds))


@dataclass(frozen=True)
class Prediction:
    """Bytes of a rank at the peak of forward and backward pass, and the tracker's own parts."""

    held: Held
    parts: dict[str, int]


def predict(
    shape: Shape,
    strategy: Strategy,
    *,
    world: int,
    micro_batch: int,
    precision: Precision,
    checkpointing: Mode = "none",
    local_world: int | None = None,
    context: int | None = None,
    micro_batches: int = 1,
    device: str = "cuda",
) -> Prediction:
    """What rank 0 of ``world`` holds at the peak of a step; see ``peak_memory.peak`` for arguments.

    Takes 5 seconds to start and then 1 to 10, by the number of layers, never by their size. For
    several cases :func:`predict_all` starts once.

    ``device="cuda"`` counts what a GPU's kernels keep, on any machine; the shards are fp32 under
    all precisions, fp8 counts as bf16.

    Notes
    -----
    The optimizer's own step is not part of it: under fake tensors its sharded operations are also
    seen in their unsharded shapes. With ``fused=True`` that step needs no memory.

    Examples
    --------
    >>> bf16 = Precision.BF16
    >>> predict(SIZES["1.3B"], Strategy.FULL_SHARD, world=64, micro_batch=4, precision=bf16)
    """
    case = Case(
        shape,
        strategy,
        world,
        micro_batch,
        precision,
        checkpointing,
        local_world,
        context,
        micro_batches,
        device,
    )
    return predict_all([case])[0]


def predict_all(cases: Sequence[Case]) -> list[Prediction]:
    """A prediction for each case, one after the other in a process of its own.

    The fake group has to be the default group of its process, where the caller may have, or may
    want, a real one.

    Raises
    ------
    RunError
        When that process fails: with its last lines.
    """
    given = json.dumps([asdict(case) for case in cases])
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    env.pop("RANK", None)  # of torchrun, when a rank asks
    found = []
    lines = []
    with supervised([sys.executable, "-m", MODULE, given], env=env, name="memory tracker") as child:
        for line in child.output:
            lines.append(line.rstrip())
            if line.startswith(ANSWER):
                answer = json.loads(line.removeprefix(ANSWER))
                found.append(Prediction(Held(**answer["held"]), answer["parts"]))
        status = child.wait()
    if status != 0 or len(found) != len(cases):
        raise RunError(f"the memory tracker ended with status {status}: " + " | ".join(lines[-3:]))
    return found


def track(case: Case) -> Prediction:
    """One prediction. It makes the default process group, and leaves none."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.world)
    os.environ["LOCAL_WORLD_SIZE"] = str(case.local_world or case.world)
    try:
        # The mesh computes with real numbers of ranks, so it has to exist before the fake mode.
        mesh = sharding.make_mesh(case.strategy, "cpu")
        norm = _FusedNorm.of_module if case.device == "cuda" else nn.RMSNorm.forward
        with (
            patch.object(sharding, "make_mesh", lambda *_: mesh),
            patch.object(nn.RMSNorm, "forward", norm),
        ):
            parts = _step(case)
    finally:
        dist.destroy_process_group()
    return Prediction(held_from(parts), parts)


def held_from(parts: Mapping[str, int]) -> Held:
    """The tracker's parts as the fields of :class:`Held`."""
    fields = {"parameters": 0, "gradients": 0, "optimizer": 0, "unsharded": 0, "activations": 0}
    for name, size in parts.items():
        fields[PARTS.get(name, "activations")] += size
    return Held(**fields)


def _step(case: Case) -> dict[str, int]:
    """Forward and backward passes of one step, after a first step that made the moments."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    with FakeTensorMode():
        with torch.device("meta"):
            model = Decoder(case.shape)
        blocks = list(model.blocks)
        checkpoint_blocks(blocks, case.checkpointing)
        sharding.shard(
            model,
            case.strategy,
            device="cpu",
            blocks=blocks,
            param_dtype=case.precision.param_dtype,
        )
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        window = torch.zeros(
            case.micro_batch, (case.context or case.shape.context) + 1, dtype=torch.long
        )
        tracker = FSDPMemTracker(model, optimizer)
        tracker.track_inputs((window,))
        with tracker:
            # The second micro-batch meets the whole gradients of the first, as any later one does.
            rest = range(min(case.micro_batches, 2) - 1, -1, -1)
            for left in rest:
                model.set_requires_gradient_sync(left == 0)  # type: ignore[operator]
                if case.strategy is Strategy.ZERO_1:
                    model.set_reshard_after_backward(left == 0)  # type: ignore[operator]
                next_token_loss(model, window).backward()  # type: ignore[no-untyped-call]
                tracker.reset_mod_stats()
        snapshot = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    named = {getattr(name, "value", name): size for name, size in snapshot.items()}
    return {name: size for name, size in named.items() if size and name != "Total"}


class _FusedNorm(torch.autograd.Function):
    """Stands in for a GPU's RMSNorm: keeps its input and one scale a row; has no contents."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)

    @staticmethod
    def of_module(module: nn.RMSNorm, x: Tensor) -> Tensor:
        normed: Tensor = _FusedNorm.apply(x, module.weight)
        return normed


@dataclass(frozen=True)
class Compared:
    """One strategy for :func:`figure`: by formula, by the tracker, and measured (bytes)."""

    name: str
    formula: Held
    tracked: Held | None = None
    measured: int | None = None


def figure(rows: Sequence[Compared], *, title: str = "") -> Figure:
    """Stacked bars of the predicted peak beside the measured one, a group for each strategy."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(1.5 + 1.7 * len(rows), 4.5), layout="constrained")
    axes = drawn.subplots()
    width = 0.26
    for at, hatch in enumerate(("", "//")):
        every = [row.formula if at == 0 else row.tracked for row in rows]
        places = [place for place, held in enumerate(every) if held is not None]
        below = [0.0] * len(places)
        for colour, part in enumerate(asdict(rows[0].formula)):
            heights = [asdict(held)[part] / 2**30 for held in every if held is not None]
            axes.bar(
                [place + (at - 1) * width for place in places],
                heights,
                width,
                bottom=below,
                color=f"C{colour}",
                hatch=hatch,
                edgecolor="white",
                label=part if at == 0 else None,
            )
            below = [low + height for low, height in zip(below, heights)]
    measured = [(place, row.measured) for place, row in enumerate(rows) if row.measured]
    axes.bar(
        [place + width for place, _ in measured],
        [size / 2**30 for _, size in measured],
        width,
        color="0.35",
        label="measured",
    )
    axes.set_xticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.set_ylabel("GiB a rank at the peak of a step")
    axes.set_title(title or "left: formula, hatched: tracker, grey: measured", fontsize=9)
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend above the bars
    axes.legend(fontsize=8, ncols=3, loc="upper center")
    return drawn


if __name__ == "__main__":
    for each in json.loads(sys.argv[1]):
        print(ANSWER + json.dumps(asdict(track(Case.from_json(each)))), flush=True)
