"""Predicted bytes against ZeRO's formulas, and against the tensors that ranks really hold."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labs.lab1_fsdp_advanced.memory import (
    Held,
    Moment,
    held,
    measured_peak,
    padded_parameters,
    predicted,
    ranks_that_share,
    resident_peak,
)
from labs.lab1_fsdp_advanced.sharding import Strategy

MILLION = 1_000_000
FREEING = [Strategy.FULL_SHARD, Strategy.HYBRID_SHARD]
KEEPING = [Strategy.NO_SHARD, Strategy.ZERO_1, Strategy.SHARD_GRAD_OP]


def assert_held(measured, **expected):
    """Every part that is named has as many bytes as expected."""
    for part, bytes_ in expected.items():
        found = getattr(measured, part)
        assert found == bytes_, f"{part}: {found:,} bytes, expected {bytes_:,}; all: {measured}"


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize(
    ("strategy", "sharing"),
    [
        ("NO_SHARD", 1),
        ("ZERO_1", 8),
        ("SHARD_GRAD_OP", 8),
        ("FULL_SHARD", 8),
        ("HYBRID_SHARD", 4),
    ],
)
def test_sixteen_bytes_a_parameter_are_divided_by_the_ranks_that_share(strategy, sharing):
    """4 for the weight, 4 for its gradient, 8 for Adam's moments: each is divided by N.

    On one node of 8 ranks HYBRID_SHARD makes two replicas of 4. A part that is left undivided is
    the difference between a model that fits on 8 GPUs and one that does not.
    """
    measured = predicted(MILLION, Strategy(strategy), 8, 8)
    assert_held(
        measured,
        parameters=4 * MILLION // sharing,
        gradients=4 * MILLION // sharing,
        optimizer=8 * MILLION // sharing,
        unsharded=0,
        activations=0,
        total=16 * MILLION // sharing,
    )


@pytest.mark.exercise("1.5")
def test_hybrid_shard_divides_by_the_ranks_of_a_node():
    """Eight nodes of 8 hold eight replicas: 64 ranks need as much memory each as 8 do."""
    assert_held(predicted(MILLION, Strategy.HYBRID_SHARD, 64, 8), total=2 * MILLION)
    assert_held(predicted(MILLION, Strategy.FULL_SHARD, 64, 8), total=MILLION // 4)


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_weights_and_moments_are_fp32_whatever_computes(strategy, compute_bytes):
    """bf16 halves what is gathered and nothing else: the optimizer steps on fp32 weights.

    A weight of 8 bits of mantissa would not change at all when a step is 1/500 of it.
    """
    moment = Moment(working=100, reduced=1000)
    sharing = ranks_that_share(strategy, 4, 4)
    for at in (None, moment):
        measured = predicted(MILLION, strategy, 4, 4, compute_bytes=compute_bytes, moment=at)
        assert_held(measured, parameters=4 * MILLION // sharing, optimizer=8 * MILLION // sharing)


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize(("states", "optimizer"), [(0, 0), (1, 1_000_000), (2, 2_000_000)])
def test_the_optimizer_keeps_a_moment_or_two_or_none(states, optimizer):
    """Plain SGD, SGD with momentum, Adam: 4 bytes a parameter for each moment, divided by N."""
    measured = predicted(MILLION, Strategy.FULL_SHARD, 4, 4, states=states)
    assert_held(measured, optimizer=optimizer, parameters=MILLION, gradients=MILLION)


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("strategy", FREEING)
def test_full_shard_gathers_only_what_computes(strategy, compute_bytes):
    """The saving of ZeRO-3 over ZeRO-2: one block is whole, and the one that is gathered next."""
    moment = Moment(working=30_000, gathering=20_000, reduced=700_000)
    measured = predicted(MILLION, strategy, 4, 4, compute_bytes=compute_bytes, moment=moment)
    assert_held(measured, unsharded=compute_bytes * 50_000)


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("strategy", KEEPING)
def test_the_others_keep_all_weights_that_still_have_to_compute(strategy, compute_bytes):
    """ZeRO-1 and 2 hold the whole model until a block's gradient is exchanged; so does NO_SHARD.

    Their shards do not shrink meanwhile: with bf16 a rank holds 4 P / N and 2 P bytes of weights.
    """
    moment = Moment(working=30_000, gathering=20_000, reduced=700_000)
    measured = predicted(MILLION, strategy, 4, 4, compute_bytes=compute_bytes, moment=moment)
    assert_held(measured, unsharded=compute_bytes * (300_000 + 20_000))


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize("strategy", list(Strategy))
def test_gradients_are_sharded_once_exchanged_and_whole_until_then(strategy):
    """New ones wait in the type that computes, and are summed in an fp32 buffer."""
    moment = Moment(reduced=600_000, pending=10_000, exchanging=20_000, working=0)
    measured = predicted(MILLION, strategy, 4, 4, compute_bytes=2, moment=moment)
    whole = 0 if strategy in FREEING else 2 * 400_000
    assert_held(
        measured,
        gradients=4 * 600_000 // ranks_that_share(strategy, 4, 4) + 2 * 10_000,
        unsharded=whole + 4 * 20_000,
    )


@pytest.mark.exercise("1.5")
@pytest.mark.parametrize("strategy", list(Strategy))
def test_accumulating_without_exchange_keeps_a_whole_gradient(strategy):
    """While synchronisation is off there is nothing to shard: 4 bytes a parameter on each rank.

    FULL_SHARD runs out of memory on the second micro-batch, where one larger batch would have fit.
    """
    begins = Moment(accumulated=True)
    half = Moment(accumulated=True, reduced=500_000, pending=10_000)
    sharing = ranks_that_share(strategy, 4, 4)
    measured = predicted(MILLION, strategy, 4, 4, compute_bytes=2, moment=begins)
    assert_held(measured, gradients=4 * MILLION)
    measured = predicted(MILLION, strategy, 4, 4, compute_bytes=2, moment=half)
    assert_held(measured, gradients=4 * 500_000 + 4 * 500_000 // sharing + 2 * 10_000)


@pytest.mark.exercise("1.5")
def test_bytes_are_divided_last_and_rounded_down():
    """Ten parameters on 3 ranks are 13 bytes of weights each, not 4 x 3."""
    assert_held(predicted(10, Strategy.FULL_SHARD, 3, 3), parameters=13, gradients=13, optimizer=26)


@pytest.mark.exercise("1.5")
@given(
    parameters=st.integers(1, 10**10),
    strategy=st.sampled_from(list(Strategy)),
    world=st.sampled_from([1, 2, 4, 8, 64]),
    compute_bytes=st.sampled_from([2, 4]),
    activations=st.integers(0, 10**10),
    accumulated=st.booleans(),
)
def test_more_ranks_never_hold_more_and_activations_are_never_divided(
    parameters, strategy, world, compute_bytes, activations, accumulated
):
    """Sharding divides what belongs to the model; activations belong to the batch."""
    moment = Moment(activations=activations, accumulated=accumulated, working=parameters // 7)

    def on(ranks):
        return predicted(
            parameters, strategy, ranks, ranks, compute_bytes=compute_bytes, moment=moment
        )

    assert_held(on(world), activations=activations)
    fewer, more = on(world), on(2 * world)
    assert more.total <= fewer.total, f"{2 * world} ranks: {more}; {world} ranks: {fewer}"


def test_the_ranks_of_a_replica():
    shared = {strategy: ranks_that_share(strategy, 16, 8) for strategy in Strategy}
    assert shared == {
        "NO_SHARD": 1,
        "ZERO_1": 16,
        "SHARD_GRAD_OP": 16,
        "FULL_SHARD": 16,
        "HYBRID_SHARD": 8,
    }


def test_padding_counts_the_largest_part_of_each_weight():
    ten = [torch.empty(10, 3)]
    assert padded_parameters(ten, 1) == 30
    assert padded_parameters(ten, 4) == 4 * 3 * 3, "3, 3, 3 and 1 rows"
    assert padded_parameters([torch.empty(())], 4) == 4, "a scalar is one row"


@given(rows=st.integers(1, 50), columns=st.integers(1, 9), sharing=st.integers(1, 20))
def test_padding_is_what_torch_cuts(rows, columns, sharing):
    weight = torch.empty(rows, columns)
    largest = max(part.numel() for part in weight.chunk(sharing))
    assert padded_parameters([weight], sharing) == sharing * largest


def count(ranks):
    from dataclasses import asdict

    import torch
    import torch.distributed as dist

    from labs.lab1_fsdp_advanced.memory import (
        held,
        padded_parameters,
        parameter_bytes,
        predicted,
        ranks_that_share,
    )
    from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    # Sizes that two ranks divide in part, and four hardly.
    shape = Shape(width=36, layers=4, heads=2, context=8, vocabulary=62, kv_heads=1, hidden=50)
    answers = {}
    for strategy in Strategy:
        model = Decoder(shape)
        sharing = ranks_that_share(strategy, ranks.world, ranks.world)
        padded = padded_parameters(model.parameters(), sharing)
        shard(model, strategy, device="cpu", blocks=list(model.blocks))
        optimizer = torch.optim.AdamW(model.parameters())
        next_token_loss(model, torch.randint(62, (2, 9))).backward()
        optimizer.step()
        every = [None] * ranks.world
        dist.all_gather_object(every, asdict(held(model, optimizer)))
        loss = next_token_loss(model, torch.randint(62, (2, 9)))
        answers[str(strategy)] = {
            "counted": {part: max(each[part] for each in every) for part in every[0]},
            "sum": sum(each["parameters"] for each in every),
            "predicted": asdict(predicted(padded, strategy, ranks.world, ranks.world)),
            "after_forward": parameter_bytes(model),
            "whole": 4 * shape.parameters,
            "replicas": ranks.world // sharing,
        }
        loss.backward()
    return answers


@pytest.fixture(scope="module", params=[1, 2, 4])
def counted(request, on_ranks):
    return request.param, on_ranks(count, procs=request.param)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_what_the_largest_rank_holds_is_what_the_formula_says(counted, strategy):
    world, answers = counted
    answer = answers[strategy]
    assert answer["counted"] == answer["predicted"], f"{strategy} on {world} ranks"
    assert answer["sum"] == answer["replicas"] * answer["whole"], "every weight once a replica"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_weights_stay_whole_after_a_forward_pass_unless_fully_sharded(counted, strategy):
    world, answers = counted
    after, whole = answers[strategy]["after_forward"], answers[strategy]["whole"]
    if strategy in FREEING and answers[strategy]["replicas"] < world:
        assert after < 0.85 * whole
    else:
        assert after == whole


def test_counting_sees_weights_gradients_and_moments_of_a_plain_model():
    model = nn.Linear(10, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    assert held(model, optimizer) == Held(220, 0, 0)
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    assert held(model, optimizer) == Held(220, 220, 440), "Adam's step counters are no moments"
    optimizer.zero_grad()
    assert held(model, optimizer).total == 660


def test_the_measured_peak_is_what_was_there_and_what_came():
    model = nn.Linear(10, 5)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        first = torch.ones(1000)  # 4000 bytes
        del first
        torch.ones(1500).add(1)  # two of 6000

    assert measured_peak(step, model, optimizer, "cpu") == pytest.approx(220 + 12_000, abs=200)


def test_resident_memory_grows_with_what_is_touched():
    code = (
        "import torch\n"
        "from labs.lab1_fsdp_advanced.memory import resident_peak\n"
        "before = resident_peak()\n"
        "torch.ones(2**26)\n"
        "print(resident_peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(2**28, rel=0.1)
    assert resident_peak() > 2**26
