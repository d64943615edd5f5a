"""Silent failures of sharded training: no error, a wrong model or a wrong number.

Run them with ``python -m labs.lab1_fsdp_advanced.traps [name]``. They share one job of two ranks
on the CPU (:mod:`labs.lab1_fsdp_advanced.trap_measures`), started by the first of them.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from common.launch import torchrun
from common.traps import Trap, show

Numbers = dict[str, float]


@cache
def on_two_ranks() -> dict[str, Numbers]:
    """What each of ``trap_measures.MEASURES`` returns on rank 0 of two."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answers.json"
        torchrun(
            "labs.lab1_fsdp_advanced.trap_measures",
            [str(output)],
            procs=2,
            device="cpu",
            log=Path(folder) / "ranks.log",
        )
        answers: dict[str, Numbers] = json.loads(output.read_text(encoding="utf-8"))
    return answers


def the_optimizer_of_the_old_weights() -> Trap:
    """An optimizer built before sharding updates tensors that the model no longer uses."""
    losses = on_two_ranks()["optimizer"]
    return Trap(
        "An optimizer built before the model is sharded",
        wrong=("loss after 30 steps, optimizer built before shard()", losses["before"]),
        right=("loss after 30 steps, optimizer built after shard()", losses["after"]),
        why="shard() replaces every parameter by a DTensor. The optimizer still holds the old "
        "ones, whose gradients are None, so its steps do nothing and say nothing.",
    )


def a_weight_of_two_models() -> Trap:
    """Ranks that seed differently each contribute rows of another model."""
    rows = on_two_ranks()["seeds"]
    return Trap(
        "A seed of its own on every rank",
        wrong=("rows of 4 equal to rank 0's model, seed = rank", int(rows["different"])),
        right=("rows of 4 equal to rank 0's model, one seed for all", int(rows["same"])),
        why="fully_shard takes from each rank the rows it will keep and never compares them. The "
        "weight is stitched together from two initialisations; nothing is raised.",
    )


def one_batch_on_every_rank() -> Trap:
    """The seed that makes the models equal makes the ranks draw equal batches too."""
    measured = on_two_ranks()
    found, repeated = measured["batches"], measured["epochs"]
    ratio = found["noise, shuffle"] / found["noise, sampler"]
    return Trap(
        "One seed for the data as well",
        wrong=("examples in a batch of 2 x 8, shuffle=True", int(found["examples, shuffle"])),
        right=("examples in a batch of 2 x 8, DistributedSampler", int(found["examples, sampler"])),
        why="DataLoader shuffles with the global seed, which is one for all ranks so that their "
        "models are equal. Both ranks draw the same batch: the second one adds no information, and "
        f"the gradient has {ratio:.1f} times the variance. The loss looks the same. Dropout too: "
        f"with one seed {found['dropout, one seed']:.0%} of two ranks' masks agree, with seeds "
        f"of their own {found['dropout, seed of its own']:.0%} (dropout 0.5). And "
        "DistributedSampler shuffles by (seed, epoch): until you call set_epoch, the second epoch "
        f"repeats {repeated['plain']:.0f} of 16 batches of the first; afterwards "
        f"{repeated['set_epoch']:.0f}.",
    )


def rows_counted_twice() -> Trap:
    """DistributedSampler repeats examples until every rank has equally many."""
    found = on_two_ranks()["padding"]
    rows = int(found["rows"])
    return Trap(
        "An evaluation over padded ranks",
        wrong=(f"share solved, {rows} rows that the ranks counted", found["padded"]),
        right=("share solved, copies left out: 164 examples", found["masked"]),
        why="64 ranks need equally many rows, or some wait in a collective for ever; so "
        f"DistributedSampler repeats the first {rows - 164}. Let every rank compute its copies, "
        "but leave them out of the sum and of the count. The smaller the set and the more the "
        "ranks, the worse.",
    )


def a_mean_of_means() -> Trap:
    """FSDP averages over ranks, each rank over its own tokens, of which there are not as many."""
    found = on_two_ranks()["means"]
    return Trap(
        "The mean over ranks of means over tokens",
        wrong=("gradient's difference from one process, each rank's mean", found["mean"]),
        right=("the same, each rank's sum x ranks / all tokens", found["sum"]),
        why=f"Rank 0 has {found['rank 0']:.0f} tokens and rank 1, whose windows are padded, "
        f"{found['rank 1']:.0f}; the mean of the two means gives each rank one half. Micro-batches "
        "of one rank are no different. Divide the sum by the number of tokens of all ranks; times "
        "the ranks, because FSDP divides by them (set_gradient_divide_factor(1.0) stops that; gloo "
        "refuses it).",
    )


def the_norm_of_a_shard() -> Trap:
    """A rank's own shards have a smaller norm than the gradient."""
    norms = on_two_ranks()["norm"]
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
    measured = on_two_ranks()
    found = {name: int(size) for name, size in measured["unsynchronised"].items()}
    calls = measured["reductions"]
    return Trap(
        "Accumulating without communication under FULL_SHARD",
        wrong=("bytes of gradients in p.grad, synchronisation off", found["p.grad, sync off"]),
        right=("bytes of gradients the rank holds", found["held, sync off"]),
        why=f"With synchronisation on it holds {found['held, sync on']:,}: its half. Switched off, "
        "there is no reduce-scatter, so every rank keeps the gradients of the whole model, in "
        "tensors that model.parameters() does not show. A plan for memory has to count them. "
        f"Left on, 8 micro-batches take {calls['every']:.0f} reduce-scatters a group instead of "
        f"{calls['last']:.0f}, for the same gradient: only a count or a profile shows that one.",
    )


def gradients_that_become_zero() -> Trap:
    """fp16 has nothing between 0 and 6e-8, and gradients live there."""
    found = on_two_ranks()["flushed"]
    return Trap(
        "fp16 without a gradient scaler",
        wrong=("share of the head's gradient that is 0, no scaler", found["zeros, fp16"]),
        right=("share of the head's gradient that is 0, GradScaler", found["zeros, scaled"]),
        why="A logit's gradient is about probability / tokens / micro-batches, here 1 / (4096 x "
        "512 x 64) = 7e-9, and fp16 rounds below 3e-8 to 0: words that are not in the batch are no "
        f"longer pushed down. In fp32 {found['zeros, fp32']:.0%} are 0. The scaler multiplies the "
        "loss by 65,536 and divides the gradients again, in fp32. bf16 has the range of fp32 and "
        "needs none.",
    )


def updates_that_round_away() -> Trap:
    """A bf16 weight of 1 has no neighbour nearer than 0.004, and an update is 0.0003."""
    measured = on_two_ranks()
    found, summed = measured["weights"], measured["sums"]
    return Trap(
        "Weights kept in bf16",
        wrong=(f"of {found['of']:.0f} weights of norms moved, bf16", int(found["moved, bf16"])),
        right=("the same, fp32 weights and bf16 compute", int(found["moved, fp32"])),
        why="bf16 has 8 bits of mantissa: 1 + 0.0003 is 1 again, in every one of 40 steps of AdamW "
        "at 3e-4. The matrices, with smaller weights, do move, so the loss falls as if nothing was "
        f"wrong: from {found['first loss, bf16']:.2f} to {found['last loss, bf16']:.2f}, and with "
        f"fp32 weights to {found['last loss, fp32']:.2f}. Leave the model in fp32 "
        "and let param_dtype cast what is gathered. A long sum of gradients stops growing in the "
        "same way: with reduce_dtype=None, which means param_dtype, 512 micro-batches give "
        f"{summed['norm, bf16']:.1%} of the gradient's norm, with torch.float32 "
        f"{summed['norm, fp32']:.1%}.",
    )


def another_dropout_in_the_backward_pass() -> Trap:
    """Recomputation must draw the random numbers of the forward pass again."""
    found = on_two_ranks()["recomputed"]
    return Trap(
        "Checkpointing with preserve_rng_state=False",
        wrong=("gradient's difference, dropout 0.1, not preserved", found["lost"]),
        right=("the same, preserve_rng_state=True (the default)", found["kept"]),
        why="The backward pass computes the block again. With other random numbers other units are "
        "dropped, and the gradient belongs to a forward pass that never was. The flag is sold as "
        "a saving; it is one only for blocks without random numbers.",
    )


def recomputation_in_the_mfu() -> Trap:
    """A counter of operations counts what checkpointing computes again."""
    found = on_two_ranks()["operations"]
    ratio = found["counted, full"] / found["model"]
    return Trap(
        "MFU from counted operations",
        wrong=("operations a token, counted with checkpointing", int(found["counted, full"])),
        right=("operations a token that the model needs", int(found["model"])),
        why="Tokens a second x operations a token / peak is the MFU if the operations are the "
        f"model's. Those counted are the hardware's: HFU, {ratio:.2f} times as large (4/3 for many "
        "layers), which rises when you recompute more and train slower. Without checkpointing the "
        f"counter agrees with the formula: {found['counted, none']:,.0f}.",
    )


def a_resume_without_moments() -> Trap:
    """Adam's first steps have full length, however small the gradient has become."""
    found = on_two_ranks()["moments"]
    return Trap(
        "A checkpoint of the weights only",
        wrong=("highest loss of 10 steps after the resume, new Adam", found["lost"]),
        right=("highest loss of 10 steps, Adam's state loaded", found["kept"]),
        why=f"Before the interruption the loss was {found['before']:.6g}. A new Adam knows neither "
        "direction nor scale: its first step moves every weight by the whole learning rate. It "
        "recovers, so a glance at the curve takes the spike for noise.",
    )


TRAPS = (
    the_optimizer_of_the_old_weights,
    a_weight_of_two_models,
    one_batch_on_every_rank,
    rows_counted_twice,
    a_mean_of_means,
    the_norm_of_a_shard,
    gradients_out_of_sight,
    gradients_that_become_zero,
    updates_that_round_away,
    another_dropout_in_the_backward_pass,
    recomputation_in_the_mfu,
    a_resume_without_moments,
)

if __name__ == "__main__":
    show(TRAPS)
