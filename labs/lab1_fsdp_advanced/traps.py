"""Silent failures of sharded training: no error, a wrong model or a wrong number.

Run them with ``python -m labs.lab1_fsdp_advanced.traps [name]``. They share one job of two ranks
on the CPU, started by the first of them.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.launch import torchrun
from common.traps import Trap, show

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = dict[str, float]


def _regression() -> tuple[nn.Module, Tensor, Tensor]:
    """A small model, the same on every rank, and 16 examples (synthetic)."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(16, 8)
    return model, x, x[:, :4] * 3


def measure_optimizer(rank: int) -> Numbers:
    """Loss after 30 steps, optimizer built before and after sharding."""
    import torch

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import train_step

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    losses = {}
    for when in ("before", "after"):
        model, x, y = _regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        if when == "after":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(30):
            result = train_step(
                model, optimizer, [(x[rank::2], y[rank::2])], loss_fn, max_norm=None
            )
        losses[when] = result.loss
    return losses


def measure_seeds(rank: int) -> Numbers:
    """Rows of a sharded weight that equal those of a model built with the seed of rank 0."""
    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    torch.manual_seed(0)
    expected = nn.Linear(8, 4).weight.detach().clone()
    rows: Numbers = {}
    for name, seed in (("different", rank), ("same", 0)):
        torch.manual_seed(seed)
        model = nn.Linear(8, 4)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        rows[name] = int((full(model.weight) == expected).all(dim=1).sum())
    return rows


def measure_norm(rank: int) -> Numbers:
    """Norm of this rank's shards, of the whole gradient, and of one process's gradient."""
    from torch import nn

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    model, x, y = _regression()
    shard(model, Strategy.FULL_SHARD, device="cpu")
    nn.functional.mse_loss(model(x[rank::2]), y[rank::2]).backward()
    alone, x, y = _regression()
    nn.functional.mse_loss(alone(x), y).backward()
    shards = [
        p.grad.to_local()  # type: ignore[attr-defined]
        for p in model.parameters()
        if p.grad is not None
    ]
    return {
        "shards": float(nn.utils.get_total_norm(shards)),
        "whole": float(full(nn.utils.clip_grad_norm_(model.parameters(), math.inf))),
        "one process": float(nn.utils.clip_grad_norm_(alone.parameters(), math.inf)),
    }


def measure_sync(rank: int) -> Numbers:
    """Bytes of gradients after one micro-batch: in ``p.grad``, and in every tensor alive."""
    from torch import Tensor, nn

    from labs.lab1_fsdp_advanced.memory import local_bytes
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    found: Numbers = {}
    for name, sync in (("off", False), ("on", True)):
        gc.collect()
        model, x, y = _regression()
        shard(model, Strategy.FULL_SHARD, device="cpu")
        model.set_requires_gradient_sync(sync)  # type: ignore[operator]
        nn.functional.mse_loss(model(x[rank::2]), y[rank::2]).backward()
        # FSDP keeps whole weights, and whole gradients with them, where parameters() does not
        # look; the garbage collector knows every object.
        alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        for what, tensors in (("p.grad", list(model.parameters())), ("held", alive)):
            gradients = [t.grad for t in tensors if t.is_leaf and t.grad is not None]
            found[f"{what}, sync {name}"] = sum(map(local_bytes, gradients))
        del model, alive, tensors, gradients
    return found


MEASURES = (measure_optimizer, measure_seeds, measure_norm, measure_sync)


@cache
def _on_two_ranks() -> dict[str, Numbers]:
    """What each of MEASURES returns on rank 0 of two."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answers.json"
        torchrun(
            "labs.lab1_fsdp_advanced.traps",
            ["--rank", str(output)],
            procs=2,
            device="cpu",
            log=Path(folder) / "ranks.log",
        )
        answers: dict[str, Numbers] = json.loads(output.read_text(encoding="utf-8"))
    return answers


def _rank(output: str) -> None:
    """What every rank runs."""
    from labs.lab1_fsdp_advanced.distributed import leave, process_group

    with process_group("cpu") as ranks:
        answers = {measure.__name__: measure(ranks.rank) for measure in MEASURES}
        if ranks.is_main:
            Path(output).write_text(json.dumps(answers), encoding="utf-8")
    leave()


def the_optimizer_of_the_old_weights() -> Trap:
    """An optimizer built before sharding updates tensors that the model no longer uses."""
    losses = _on_two_ranks()["measure_optimizer"]
    return Trap(
        "An optimizer built before the model is sharded",
        wrong=("loss after 30 steps, optimizer built before shard()", losses["before"]),
        right=("loss after 30 steps, optimizer built after shard()", losses["after"]),
        why="shard() replaces every parameter by a DTensor. The optimizer still holds the old "
        "ones, whose gradients are None, so its steps do nothing and say nothing.",
    )


def a_weight_of_two_models() -> Trap:
    """Ranks that seed differently each contribute rows of another model."""
    rows = _on_two_ranks()["measure_seeds"]
    return Trap(
        "A seed of its own on every rank",
        wrong=("rows of 4 equal to rank 0's model, seed = rank", int(rows["different"])),
        right=("rows of 4 equal to rank 0's model, one seed for all", int(rows["same"])),
        why="fully_shard takes from each rank the rows it will keep and never compares them. The "
        "weight is stitched together from two initialisations; nothing is raised.",
    )


def the_norm_of_a_shard() -> Trap:
    """A rank's own shards have a smaller norm than the gradient."""
    norms = _on_two_ranks()["measure_norm"]
    return Trap(
        "Clipping by the norm of one rank's shards",
        wrong=("gradient norm of rank 0's shards", norms["shards"]),
        right=("norm of clip_grad_norm_, after full_tensor()", norms["whole"]),
        why=f"One process has {norms['one process']:.6g}. A rank has only its part of the "
        "gradient: the norm is too small by about the square root of the number of ranks, and "
        "differs from rank to rank, so they clip differently. Older versions of torch return such "
        "a partial norm; full_tensor() is right in all of them.",
    )


def gradients_out_of_sight() -> Trap:
    """Without synchronisation each rank holds whole gradients, and p.grad does not show them."""
    found = {name: int(size) for name, size in _on_two_ranks()["measure_sync"].items()}
    return Trap(
        "Accumulating without communication under FULL_SHARD",
        wrong=("bytes of gradients in p.grad, synchronisation off", found["p.grad, sync off"]),
        right=("bytes of gradients the rank holds", found["held, sync off"]),
        why=f"With synchronisation on it holds {found['held, sync on']:,}: its half. Switched off, "
        "there is no reduce-scatter, so every rank keeps the gradients of the whole model, in "
        "tensors that model.parameters() does not show. A plan for memory has to count them.",
    )


TRAPS = (
    the_optimizer_of_the_old_weights,
    a_weight_of_two_models,
    the_norm_of_a_shard,
    gradients_out_of_sight,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        _rank(*sys.argv[2:])
    else:
        show(TRAPS)
