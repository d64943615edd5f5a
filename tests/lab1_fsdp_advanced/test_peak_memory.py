"""The formula of the peak against what the allocator recorded, and what must hold for any shape."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab1_fsdp_advanced.activation_checkpointing import Mode, checkpoint_blocks
from labs.lab1_fsdp_advanced.memory import Held, predicted
from labs.lab1_fsdp_advanced.model import (
    SIZES,
    Block,
    Decoder,
    Shape,
    Turns,
    next_token_loss,
)
from labs.lab1_fsdp_advanced.peak_memory import activation_bytes, compute_bytes_of, moments, peak
from labs.lab1_fsdp_advanced.precision import Precision, use_float8
from labs.lab1_fsdp_advanced.sharding import Strategy

MODES = get_args(Mode)
SPREAD = ("FULL_SHARD", "SHARD_GRAD_OP", "ZERO_1")


def measure(ranks, strategies, micro_batches):
    import torch
    import torch.distributed as dist

    from labs.lab1_fsdp_advanced.memory import measured_peak
    from labs.lab1_fsdp_advanced.model import Shape, next_token_loss
    from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
    from labs.lab1_fsdp_advanced.peak_memory import peak
    from labs.lab1_fsdp_advanced.precision import Precision
    from labs.lab1_fsdp_advanced.sharding import Strategy
    from labs.lab1_fsdp_advanced.training import train_step

    shape = Shape(width=192, layers=3, heads=4, context=64, vocabulary=512, kv_heads=2)
    window = torch.randint(512, (4, 65))
    answers = {}
    for name in strategies.split():
        for precision in (Precision.FP32, Precision.BF16):
            for mode in ("none", "selective", "full"):
                how = Parallelism(Strategy(name), precision, mode)
                model = parallelize(shape, how, ranks, seed=0)
                optimizer = torch.optim.AdamW(model.parameters(), fused=True)

                def step(model=model, optimizer=optimizer, how=how):
                    train_step(
                        model,
                        optimizer,
                        [window] * int(micro_batches),
                        next_token_loss,
                        max_norm=1.0,
                        reshard_between=how.reshard_between,
                    )

                step()  # Adam's moments are there afterwards
                every = [None] * ranks.world
                dist.all_gather_object(every, measured_peak(step, model, optimizer, "cpu"))
                formula = peak(
                    shape,
                    how.strategy,
                    world=ranks.world,
                    micro_batch=4,
                    micro_batches=int(micro_batches),
                    precision=precision,
                    checkpointing=mode,
                    device="cpu",
                )
                answers[f"{name} {precision} {mode}"] = [max(every), formula.held.total]
    return answers


@pytest.fixture(scope="module")
def alone(on_ranks):
    return on_ranks(measure, "NO_SHARD", 1, procs=1)


@pytest.fixture(scope="module")
def spread(on_ranks):
    return on_ranks(measure, " ".join(SPREAD), 2, procs=2, timeout=150)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_of_one_rank_is_what_its_allocator_recorded(alone, precision, mode):
    measured, formula = alone[f"NO_SHARD {precision} {mode}"]
    assert formula == pytest.approx(measured, rel=0.10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", SPREAD)
def test_the_peak_of_two_ranks_that_accumulate(spread, strategy, precision, mode):
    measured, formula = spread[f"{strategy} {precision} {mode}"]
    assert formula == pytest.approx(measured, rel=0.10)


def kept_by_autograd(shape, tokens, mode):
    """Bytes of the tensors that the graph of a forward pass holds, each storage once."""
    model = Decoder(shape)
    checkpoint_blocks(list(model.blocks), mode)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    window = torch.randint(shape.vocabulary, (tokens // shape.context, shape.context + 1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = next_token_loss(model, window)
    found = sum(size for size, _ in storages.values())
    loss.backward()
    return found


def test_activations_of_a_block_are_what_autograd_saves():
    """By the difference of two depths, so that what lies outside the blocks does not count."""
    deep = Shape(width=64, layers=5, heads=4, context=32, vocabulary=100, kv_heads=2)
    shallow = replace(deep, layers=2)
    saved = kept_by_autograd(deep, 128, "none") - kept_by_autograd(shallow, 128, "none")
    kept = activation_bytes(deep, 128, compute_bytes=4, checkpointing="none", fused_norm=False).kept
    assert kept == pytest.approx(saved / 3, rel=0.10)


def kept_by_a_compiled_block(shape, mode, precision):
    """Bytes of what a compiled block saves, each storage once, without weights and angles.

    The backend of ``torch.compile`` without its code generator: what is kept is decided before.
    """
    torch._dynamo.reset()
    block = Block(shape).to(precision.param_dtype)
    if precision is Precision.FP8:
        use_float8([block])
    checkpoint_blocks([block], mode)
    forward = torch.compile(block.forward, fullgraph=True, backend="aot_eager_decomp_partition")
    turns = Turns(shape.context, shape.head_width, torch.device("cpu"))
    given = {each.untyped_storage().data_ptr() for each in block.parameters()}
    given |= {each.untyped_storage().data_ptr() for each in (turns.cos, turns.sin)}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        # uint8: the state of the random numbers, 5 kB on a CPU whatever the block's size.
        if storage.data_ptr() not in given and tensor.dtype != torch.uint8:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    x = torch.randn(2, shape.context, shape.width, dtype=precision.param_dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(x.requires_grad_() * 1, turns)
    return sum(size for size, _ in storages.values())


# Before, a compiled block keeps what is inside a custom autograd function: lessons/computing.md.
RECOMPUTES_FUNCTIONS = pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch recomputes custom functions from 2.12 on"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "mode"),
    [
        *((Precision.BF16, mode) for mode in MODES),
        (Precision.FP8, "none"),
        pytest.param(Precision.FP8, "full", marks=RECOMPUTES_FUNCTIONS),
    ],
)
def test_a_compiled_block_keeps_what_its_partition_saves(precision, mode):
    """To the scalars that fp8 scales with: the partitioner and the formula agree on each tensor."""
    shape = Shape(width=128, layers=1, heads=4, context=64, vocabulary=2, kv_heads=2, hidden=336)
    saved = kept_by_a_compiled_block(shape, mode, precision)
    formula = activation_bytes(
        shape,
        2 * shape.context,
        compute_bytes=2,
        checkpointing=mode,
        compiled=True,
        float8=precision is Precision.FP8,
    )
    assert formula.kept == pytest.approx(saved, abs=16)


@pytest.mark.parametrize(
    ("strategy", "ranks", "local", "gib"),
    [
        ("NO_SHARD", 4, 4, 79.5),
        ("ZERO_1", 4, 4, 68.7),
        ("SHARD_GRAD_OP", 4, 4, 68.7),
        ("FULL_SHARD", 4, 4, 66.5),
        ("HYBRID_SHARD", 4, 2, 70.2),
        ("FULL_SHARD", 2, 2, 70.2),
        ("FULL_SHARD", 1, 1, 77.3),
        ("NO_SHARD", 1, 1, 79.5),
    ],
)
def test_the_peak_of_compiled_blocks_is_what_h200s_measured(strategy, ranks, local, gib):
    """1.3B in bf16, 16 windows of 2,048 a GPU: docs/benchmarks.md."""
    found = peak(
        SIZES["1.3B"],
        Strategy(strategy),
        world=ranks,
        local_world=local,
        micro_batch=16,
        precision=Precision.BF16,
        compiled=True,
    )
    assert found.held.total / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize("size", ["125M", "1.3B", "8B"])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_peak_is_the_largest_of_all_moments_and_names_its_own(strategy, size):
    shape = SIZES[size]
    found = peak(shape, strategy, world=8, micro_batch=2, precision=Precision.BF16)
    activations = activation_bytes(shape, 2 * shape.context, compute_bytes=2, checkpointing="none")
    sharing = {"NO_SHARD": 1, "HYBRID_SHARD": 4}.get(strategy, 8)
    every = {
        name: predicted(shape.parameters, strategy, 8, 8, compute_bytes=2, moment=moment)
        for name, moment in moments(shape, activations, strategy, sharing=sharing).items()
    } | {"step": predicted(shape.parameters, strategy, 8, 8)}
    assert found.held == every[found.moment]
    assert found.held.total == max(held.total for held in every.values())


shapes = st.builds(
    lambda heads, head, layers, context, vocabulary: Shape(
        width=2 * head * heads, layers=layers, heads=heads, context=context, vocabulary=vocabulary
    ),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 64),
    st.integers(1, 40),
    st.sampled_from([1, 64, 2048]),
    st.integers(1, 50_000),
)
setups = st.fixed_dictionaries(
    {
        "micro_batch": st.integers(1, 16),
        "precision": st.sampled_from(list(Precision)),
        "micro_batches": st.integers(1, 3),
        "device": st.sampled_from(["cpu", "cuda"]),
        "compiled": st.booleans(),
    }
)


@settings(deadline=None)
@given(
    shape=shapes,
    setup=setups,
    strategy=st.sampled_from(list(Strategy)),
    mode=st.sampled_from(MODES),
    world=st.sampled_from([2, 4, 8, 32]),
)
def test_more_ranks_never_need_more(shape, setup, strategy, mode, world):
    few, many = (
        peak(shape, strategy, world=ranks, checkpointing=mode, **setup).held.total
        for ranks in (world, 2 * world)
    )
    assert many <= few


@settings(deadline=None)
@given(shape=shapes, setup=setups, strategy=st.sampled_from(list(Strategy)))
def test_checkpointing_more_never_needs_more(shape, setup, strategy):
    totals = [
        peak(shape, strategy, world=4, checkpointing=mode, **setup).held.total for mode in MODES
    ]
    assert totals == sorted(totals, reverse=True), dict(zip(MODES, totals, strict=True))


@settings(deadline=None)
@given(
    shape=shapes,
    setup=setups,
    strategy=st.sampled_from(list(Strategy)),
    mode=st.sampled_from(MODES),
)
def test_compiled_blocks_never_need_more(shape, setup, strategy, mode):
    eager, compiled = (
        peak(shape, strategy, world=4, checkpointing=mode, **setup | {"compiled": way}).held.total
        for way in (False, True)
    )
    assert compiled <= eager


@settings(deadline=None)
@given(shape=shapes, setup=setups, strategy=st.sampled_from(list(Strategy)))
def test_offload_and_smaller_batches_never_need_more(shape, setup, strategy):
    whole = peak(shape, strategy, world=4, **setup).held
    offloaded = peak(shape, strategy, world=4, offload=True, **setup).held
    assert offloaded.total <= whole.total
    if strategy is not Strategy.NO_SHARD:
        assert (offloaded.parameters, offloaded.optimizer) == (0, 0)
    larger = setup | {"micro_batch": setup["micro_batch"] + 1}
    assert peak(shape, strategy, world=4, **larger).held.total >= whole.total


def test_the_strategies_are_ordered_by_what_they_hold():
    totals = [
        peak(
            SIZES["1.3B"],
            strategy,
            world=8,
            micro_batch=1,
            precision=Precision.BF16,
            checkpointing="full",
            micro_batches=micro_batches,
        ).held.total
        for micro_batches in (1, 2)
        for strategy in (Strategy.NO_SHARD, Strategy.ZERO_1, Strategy.FULL_SHARD)
    ]
    assert totals[0] > totals[1] > totals[2]
    assert totals[3] > totals[4] > totals[5]
    assert all(two > one for one, two in zip(totals[:3], totals[3:], strict=True))


def test_two_micro_batches_hold_as_much_as_nine():
    two, nine = (
        peak(
            SIZES["1B"],
            Strategy.FULL_SHARD,
            world=2,
            micro_batch=1,
            precision=Precision.BF16,
            micro_batches=number,
        )
        for number in (2, 9)
    )
    assert two == nine


def test_types_that_compute():
    assert {str(kind): compute_bytes_of(kind) for kind in Precision} == {
        "fp32": 4,
        "bf16": 2,
        "fp16": 2,
        "fp8": 2,
    }


def test_a_step_of_nothing_but_state():
    """One token and one rank: what is held between steps, and little more."""
    shape = Shape(width=8, layers=1, heads=1, context=1, vocabulary=2, hidden=1)
    found = peak(shape, Strategy.NO_SHARD, world=1, micro_batch=1, precision=Precision.FP32)
    assert isinstance(found.held, Held)
    assert found.held.total >= 16 * shape.parameters
