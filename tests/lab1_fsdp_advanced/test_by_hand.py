"""The methods by hand beside torch's own, on two ranks, and the counter of their collectives."""

import json

import pytest

from common.launch import torchrun
from labs.lab1_fsdp_advanced.by_hand import table

METHODS = ["one_process", "ddp", "naive", "bucketed", "zero_1", "zero_redundancy"]
PARAMETERS = 2 * 64 * 32 + 32 + (4 * 32**2 + 3 * 32 * 64 + 2 * 32)
WHOLE = 4 * PARAMETERS


def measure(ranks):
    import torch
    import torch.distributed as dist

    from common.errors import InputError
    from labs.lab1_fsdp_advanced.by_hand import compare
    from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
    from labs.lab1_fsdp_advanced.traffic import Traffic

    shape = Shape(width=32, layers=1, heads=2, context=16, vocabulary=64, hidden=64)

    def build():
        torch.manual_seed(1)
        return Decoder(shape)

    def batches(step, rank, world):
        windows = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(step))
        return [half[rank::world] for half in windows.split(4)]

    answers = {"compare": compare(build, batches, next_token_loss, steps=5, bucket_bytes=2**14)}
    answers["order"] = list(answers["compare"])
    answers["tensors"] = len(list(build().parameters()))
    answers["numel"] = sum(p.numel() for p in build().parameters())
    try:
        compare(build, batches, next_token_loss, steps=2)
        answers["refused"] = "nothing was raised"
    except InputError as error:
        answers["refused"] = str(error)
    one, two = torch.zeros(6), torch.zeros(12)
    with Traffic() as traffic:
        dist.all_reduce(one)
        dist.broadcast(one, 0)
        dist.all_gather(list(two.chunk(2)), one)
        dist.reduce_scatter(one, list(two.chunk(2)))
        dist.all_reduce(one, async_op=True).wait()
    answers["traffic"] = [dict(traffic.calls), traffic.collectives, traffic.volume]
    answers["sent"] = [traffic.sent(1), traffic.sent(2), traffic.sent(4)]
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


def test_every_method_is_there_and_the_model_has_the_size_the_numbers_are_for(answers):
    assert answers["order"] == METHODS
    assert answers["numel"] == PARAMETERS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_the_model_of_one_process(answers, method):
    row = answers["compare"][method]
    assert row["weight_difference"] < 1e-5
    if method != "one_process":
        assert row["ddp_difference"] < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_only_zero_shares_the_moments(answers, method):
    state = answers["compare"][method]["state_bytes"]
    if method == "zero_1":
        assert state == pytest.approx(WHOLE, abs=8)
    elif method == "zero_redundancy":
        assert WHOLE <= state < 1.1 * WHOLE, "whole parameters do not divide evenly"
    else:
        assert state == 2 * WHOLE


def test_data_parallelism_and_zero_1_move_two_elements_a_parameter(answers):
    """torch's ZeroRedundancyOptimizer moves three: DDP's all-reduce, then every weight again."""
    found = answers["compare"]
    tensors = answers["tensors"]
    assert found["one_process"]["volume_bytes"] == 0
    for method in ("ddp", "naive", "zero_1"):
        assert found[method]["volume_bytes"] == pytest.approx(2 * WHOLE, abs=16)
        assert found[method]["sent_bytes"] == pytest.approx(WHOLE, abs=8)
    flags = 2 * 4 * tensors
    assert found["bucketed"]["volume_bytes"] == 2 * WHOLE + flags
    assert found["zero_redundancy"]["volume_bytes"] == 3 * WHOLE


def test_buckets_make_fewer_messages_and_zero_1_makes_two(answers):
    found = {name: row["collectives"] for name, row in answers["compare"].items()}
    assert found["naive"] == answers["tensors"]
    assert found["bucketed"] < found["naive"]
    assert found["zero_1"] == 2
    assert found["zero_redundancy"] == found["ddp"] + answers["tensors"]


def test_a_run_too_short_to_count_is_refused(answers):
    assert "steps = 2 must be >= 3" in answers["refused"]


def test_traffic_counts_each_collective_once_and_an_all_reduce_twice_by_volume(answers):
    calls, collectives, volume = answers["traffic"]
    assert calls == {"all_reduce": 2, "broadcast": 1, "all_gather": 1, "reduce_scatter": 1}
    assert collectives == 5
    assert volume == 2 * (2 * 24) + 24 + 48 + 48
    assert answers["sent"] == [0, volume / 2, volume * 3 / 4]


def test_the_table_has_a_line_for_each_method(answers):
    lines = table(answers["compare"], PARAMETERS).splitlines()[2:]
    assert [line.split()[0] for line in lines] == METHODS
    assert lines[METHODS.index("zero_1")].split()[3:] == ["4.00", "2.00", "2"]


def on_two_ranks(device, folder):
    """What ``torchrun -m labs.lab1_fsdp_advanced.by_hand`` finds."""
    output = folder / "found.json"
    torchrun(
        "labs.lab1_fsdp_advanced.by_hand",
        [device, str(output)],
        procs=2,
        device=device,
        log=folder / "ranks.log",
    )
    found = json.loads(output.read_text())
    assert list(found) == METHODS
    for row in found.values():
        assert row["weight_difference"] < 1e-5
        assert row["ddp_difference"] < 1e-5
    return found


@pytest.mark.slow
def test_the_comparison_runs_as_a_program(tmp_path):
    on_two_ranks("cpu", tmp_path)


@pytest.mark.slow
@pytest.mark.multigpu
def test_nccl_computes_and_counts_the_same(tmp_path):
    found = on_two_ranks("cuda", tmp_path)
    assert found["zero_1"]["collectives"] == 2
    assert found["zero_1"]["volume_bytes"] == found["ddp"]["volume_bytes"]
