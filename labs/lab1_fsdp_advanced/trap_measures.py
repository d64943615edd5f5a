"""What the traps of :mod:`labs.lab1_fsdp_advanced.traps` measure, on every rank of one small job.

Each measure builds its model once in the way that goes wrong and once in the right way, and where
it can, a third time in one process: the judge of the two. All data is synthetic.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from labs.lab1_fsdp_advanced.activation_checkpointing import checkpoint_blocks
from labs.lab1_fsdp_advanced.distributed import leave, process_group
from labs.lab1_fsdp_advanced.memory import local_bytes
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from labs.lab1_fsdp_advanced.throughput import hardware_flops_per_token, model_flops_per_token
from labs.lab1_fsdp_advanced.traffic import Traffic
from labs.lab1_fsdp_advanced.training import full, train_step

Numbers = dict[str, float]
TINY = Shape(width=32, layers=2, heads=2, context=16, vocabulary=64)
IGNORED = -100


def regression(examples: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """A small model, the same on every rank, and examples for it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(examples, 8)
    return model, x, x[:, :4] * 3


def decoder() -> Decoder:
    model = Decoder(TINY)
    model.init_weights(seed=0)
    return model


def windows(*sizes: int) -> Tensor:
    """Random tokens [*sizes, context + 1], the same on every rank."""
    seeded = torch.Generator().manual_seed(0)
    return torch.randint(TINY.vocabulary, (*sizes, TINY.context + 1), generator=seeded)


def sharded(
    model: nn.Module, compute: torch.dtype | None = None, add: torch.dtype | None = torch.float32
) -> nn.Module:
    strategy = Strategy.FULL_SHARD
    return shard(model, strategy, device="cpu", param_dtype=compute, reduce_dtype=add)


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def gradient(model: nn.Module) -> Tensor:
    """The whole gradient as one vector. A collective."""
    return torch.cat([full(p.grad).flatten() for p in model.parameters() if p.grad is not None])


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what was expected."""
    return float((found - expected).norm() / expected.norm())


def of_both_ranks(mine: Tensor) -> Tensor:
    """[2, ...]: this tensor of rank 0 and of rank 1."""
    tensors = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(tensors, mine)
    return torch.stack(tensors)


def optimizer(rank: int) -> Numbers:
    """Loss after 30 steps, optimizer built before and after sharding."""
    losses = {}
    for when in ("before", "after"):
        model, x, y = regression()
        sgd = torch.optim.SGD(model.parameters(), lr=0.2)
        sharded(model)
        if when == "after":
            sgd = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(30):
            batch = [(x[rank::2], y[rank::2])]
            losses[when] = train_step(model, sgd, batch, squared_error, max_norm=None).loss
    return losses


def seeds(rank: int) -> Numbers:
    """Rows of a sharded weight that equal those of a model built with the seed of rank 0."""
    torch.manual_seed(0)
    expected = nn.Linear(8, 4).weight.detach().clone()
    rows: Numbers = {}
    for name, seed in (("different", rank), ("same", 0)):
        torch.manual_seed(seed)
        model = nn.Linear(8, 4)
        sharded(model)
        rows[name] = int((full(model.weight) == expected).all(dim=1).sum())
    return rows


def batches(rank: int) -> Numbers:
    """Examples in the first batch of all ranks, how noisy its gradient is, and shared dropout."""
    model, x, y = regression(256)
    squared_error(model, (x, y)).backward()  # type: ignore[no-untyped-call]
    expected = gradient(model)
    numbers = TensorDataset(torch.arange(len(x)))
    found: Numbers = {}
    for name in ("shuffle", "sampler"):
        torch.manual_seed(0)
        if name == "shuffle":
            loader = DataLoader(numbers, batch_size=8, shuffle=True)
        else:
            loader = DataLoader(numbers, batch_size=8, sampler=DistributedSampler(numbers))
        noise: list[float] = []
        for (mine,) in loader:
            rows = of_both_ranks(mine).flatten()
            if not noise:
                found[f"examples, {name}"] = len(rows.unique())
            model.zero_grad()
            squared_error(model, (x[rows], y[rows])).backward()  # type: ignore[no-untyped-call]
            noise.append(difference(gradient(model), expected) ** 2)
        found[f"noise, {name}"] = sum(noise) / len(noise)
    for name, seed in (("one seed", 0), ("seed of its own", rank)):
        torch.manual_seed(seed)
        mine, other = of_both_ranks(F.dropout(torch.ones(10_000), 0.5))
        found[f"dropout, {name}"] = float((mine == other).float().mean())
    return found


def epochs(rank: int) -> Numbers:
    """Of 16 batches in the second epoch, those that were a batch of the first one too."""
    numbers = TensorDataset(torch.arange(256))
    repeated: Numbers = {}
    for name in ("plain", "set_epoch"):
        sampler: DistributedSampler[int] = DistributedSampler(numbers)
        loader = DataLoader(numbers, batch_size=8, sampler=sampler)
        seen = []
        for epoch in range(2):
            if name == "set_epoch":
                sampler.set_epoch(epoch)
            seen.append({tuple(batch.tolist()) for (batch,) in loader})
        repeated[name] = len(seen[0] & seen[1])
    return repeated


def padding(rank: int) -> Numbers:
    """A score over 164 examples on 64 ranks: rows counted, and the mean with and without copies.

    A sampler is told its rank, so one process can play all 64.
    """
    examples, world = 164, 64
    numbers = TensorDataset(torch.arange(examples))
    solved = torch.rand(examples, generator=torch.Generator().manual_seed(0)) < 0.4
    counted, kept = [], []
    for member in range(world):
        rows = torch.tensor(list(DistributedSampler(numbers, world, member, shuffle=False)))
        counted.append(solved[rows])
        # The sampler deals out 0, 1, 2, ... in turn and then begins again: places tell copies.
        places = member + world * torch.arange(len(rows))
        kept.append(solved[rows[places < examples]])
    return {
        "rows": len(torch.cat(counted)),
        "padded": float(torch.cat(counted).float().mean()),
        "masked": float(torch.cat(kept).float().mean()),
        "one process": float(solved.float().mean()),
    }


def means(rank: int) -> Numbers:
    """Difference of the gradient from one process's, when one rank's windows are mostly padding."""
    text = windows(8)
    lengths = torch.tensor([16, 15, 14, 16, 4, 2, 5, 3])
    targets = text[:, 1:].clone()
    targets[torch.arange(TINY.context) >= lengths[:, None]] = IGNORED

    def loss(model: nn.Module, rows: slice, reduction: str) -> Tensor:
        logits = model(text[rows, :-1]).flatten(0, 1)
        return F.cross_entropy(
            logits, targets[rows].flatten(), ignore_index=IGNORED, reduction=reduction
        )

    alone = decoder()
    loss(alone, slice(None), "mean").backward()  # type: ignore[no-untyped-call]
    mine = slice(4 * rank, 4 * rank + 4)
    tokens = lengths[mine].sum()
    dist.all_reduce(tokens)
    found: Numbers = {"rank 0": int(lengths[:4].sum()), "rank 1": int(lengths[4:].sum())}
    for reduction, factor in (("mean", 1.0), ("sum", 2 / float(tokens))):
        model = sharded(decoder())
        (loss(model, mine, reduction) * factor).backward()  # type: ignore[no-untyped-call]
        found[reduction] = difference(gradient(model), gradient(alone))
    return found


def norm(rank: int) -> Numbers:
    """Norm of this rank's shards, of the whole gradient, and of one process's gradient."""
    model, x, y = regression()
    sharded(model)
    squared_error(model, (x[rank::2], y[rank::2])).backward()  # type: ignore[no-untyped-call]
    alone, x, y = regression()
    squared_error(alone, (x, y)).backward()  # type: ignore[no-untyped-call]
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


def unsynchronised(rank: int) -> Numbers:
    """Bytes of gradients after one micro-batch: in ``p.grad``, and in every tensor alive."""
    found: Numbers = {}
    for name, sync in (("off", False), ("on", True)):
        gc.collect()
        model, x, y = regression()
        sharded(model)
        model.set_requires_gradient_sync(sync)  # type: ignore[operator]
        squared_error(model, (x[rank::2], y[rank::2])).backward()  # type: ignore[no-untyped-call]
        # FSDP keeps whole weights, and whole gradients with them, where parameters() does not
        # look; the garbage collector knows every object.
        alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        for what, tensors in (("p.grad", list(model.parameters())), ("held", alive)):
            gradients = [t.grad for t in tensors if t.is_leaf and t.grad is not None]
            found[f"{what}, sync {name}"] = sum(map(local_bytes, gradients))
        del model, alive, tensors, gradients
    return found


def reductions(rank: int) -> Numbers:
    """Reduce-scatters of a step of 8 micro-batches, with and without switching them off."""
    found: Numbers = {}
    gradients = {}
    for name in ("every", "last"):
        model, x, y = regression()
        sharded(model)
        with Traffic() as traffic:
            for number in range(8):
                if name == "last":
                    model.set_requires_gradient_sync(number == 7)  # type: ignore[operator]
                row = slice(2 * number + rank, 2 * number + rank + 1)
                (squared_error(model, (x[row], y[row])) / 8).backward()  # type: ignore[no-untyped-call]
        found[name] = traffic.calls["reduce_scatter"]
        gradients[name] = gradient(model)
    found["difference"] = difference(gradients["every"], gradients["last"])
    return found


def flushed(rank: int) -> Numbers:
    """Share of a head's gradient that is 0, of one of 64 micro-batches of 512 tokens."""
    vocabulary, tokens, micro_batches = 4096, 512, 64
    torch.manual_seed(0)
    text = torch.randint(vocabulary, (2, tokens, 2))[rank]
    found: Numbers = {}
    gradients = {}
    half = torch.float16
    for name, dtype in {"fp32": None, "bf16": torch.bfloat16, "fp16": half, "scaled": half}.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(vocabulary, 16), nn.Linear(16, vocabulary, bias=False))
        nn.init.normal_(model[1].weight, std=0.02)  # type: ignore[arg-type]
        sharded(model, dtype)
        sgd = torch.optim.SGD(model.parameters())
        scaler = GradScaler("cpu", enabled=name == "scaled")
        loss = F.cross_entropy(model(text[:, 0]), text[:, 1]) / micro_batches
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(sgd)
        gradients[name] = full(model[1].weight.grad)  # type: ignore[arg-type]
        found[f"zeros, {name}"] = float((gradients[name] == 0).float().mean())
        found[f"difference, {name}"] = difference(gradients[name], gradients["fp32"])
    return found


def weights(rank: int) -> Numbers:
    """Weights of the norms that 40 steps of AdamW at 3e-4 have moved away from 1, and the loss."""
    text = (windows(40, 8)[..., :1] + torch.arange(TINY.context + 1)) % TINY.vocabulary
    found: Numbers = {}
    for name in ("bf16", "fp32"):
        model = decoder()
        if name == "bf16":
            model.to(torch.bfloat16)
        sharded(model, torch.bfloat16)
        adam = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
        losses = [
            train_step(model, adam, [batch[rank::2]], next_token_loss, max_norm=1.0).loss
            for batch in text
        ]
        norms = torch.cat([full(p.detach()) for p in model.parameters() if p.ndim == 1])
        found[f"moved, {name}"] = int((norms != 1).sum())
        found |= {f"first loss, {name}": losses[0], f"last loss, {name}": losses[-1]}
    return found | {"of": len(norms)}


def sums(rank: int) -> Numbers:
    """Difference of a gradient from that of fp32: bf16 products, summed in bf16 and in fp32."""
    micro_batches = 512
    found: Numbers = {}
    for name, summed in (("bf16", None), ("fp32", torch.float32)):
        model, x, y = regression(2 * micro_batches * 8)
        alone = copy.deepcopy(model)
        squared_error(alone, (x, y)).backward()  # type: ignore[no-untyped-call]
        sharded(model, torch.bfloat16, summed)
        inputs, targets = (t.view(micro_batches, 2, 8, -1)[:, rank] for t in (x, y))
        for number, batch in enumerate(zip(inputs, targets, strict=True), start=1):
            model.set_requires_gradient_sync(number == micro_batches)  # type: ignore[operator]
            (squared_error(model, batch) / micro_batches).backward()  # type: ignore[no-untyped-call]
        found[name] = difference(gradient(model), gradient(alone))
        found[f"norm, {name}"] = float(gradient(model).norm() / gradient(alone).norm())
    return found


def recomputed(rank: int) -> Numbers:
    """Difference of a checkpointed gradient from one without checkpointing, dropout 0.1."""
    gradients = {}
    for name in ("none", "kept", "lost"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 16))
        if name != "none":
            keep = name == "kept"
            model.forward = partial(  # type: ignore[method-assign]
                checkpoint, model.forward, use_reentrant=False, preserve_rng_state=keep
            )
        sharded(model)
        torch.manual_seed(1 + rank)
        x = torch.randn(32, 16)
        squared_error(model, (x, x.roll(1, dims=1))).backward()  # type: ignore[no-untyped-call]
        gradients[name] = gradient(model)
    return {name: difference(gradients[name], gradients["none"]) for name in ("kept", "lost")}


def operations(rank: int) -> Numbers:
    """Floating-point operations a token: counted while they run, and by formula."""
    text = windows(2)
    found: Numbers = {
        "model": model_flops_per_token(TINY, TINY.context),
        "hardware": hardware_flops_per_token(TINY, TINY.context, "full"),
    }
    for mode in ("none", "full"):
        model = decoder()
        checkpoint_blocks(list(model.blocks), mode)  # type: ignore[arg-type]
        # The counter knows no formula for the fused attention of the CPU, and would count 0.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            next_token_loss(model, text).backward()  # type: ignore[no-untyped-call]
        found[f"counted, {mode}"] = counter.get_total_flops() / (2 * TINY.context)
    return found


def moments(rank: int) -> Numbers:
    """Highest loss in 10 steps after a resume, with and without the optimizer's state."""

    def train(model: nn.Module, adam: torch.optim.Optimizer, steps: int) -> list[float]:
        batch = [(x[rank::2], y[rank::2])]
        return [
            train_step(model, adam, batch, squared_error, max_norm=None).loss for _ in range(steps)
        ]

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = sharded(regression()[0])
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    _, x, y = regression()
    model, adam = build()
    found = {"before": train(model, adam, 300)[-1]}
    saved = copy.deepcopy(model.state_dict()), copy.deepcopy(adam.state_dict())
    found["uninterrupted"] = max(train(model, adam, 10))
    for name in ("lost", "kept"):
        model, adam = build()
        model.load_state_dict(saved[0])
        if name == "kept":
            adam.load_state_dict(saved[1])
        found[name] = max(train(model, adam, 10))
    return found


MEASURES = (
    *(optimizer, seeds, batches, epochs, padding, means, norm, unsynchronised, reductions),
    *(flushed, weights, sums, recomputed, operations, moments),
)


def main(output: str) -> None:
    """What every rank runs; rank 0 writes the answers."""
    with process_group("cpu") as ranks:
        answers = {measure.__name__: measure(ranks.rank) for measure in MEASURES}
        if ranks.is_main:
            Path(output).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
    leave()
