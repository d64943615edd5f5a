"""Joining and leaving, alone and with others."""

import pytest

from common.errors import InputError
from labs.lab1_fsdp_advanced.distributed import init, process_group


def whoami(ranks):
    import torch
    import torch.distributed as dist

    drawn = float(torch.rand(()))
    every = [None] * ranks.world
    dist.all_gather_object(every, [ranks.rank, ranks.world, ranks.local_world, drawn])
    return {"every": every, "is_main": ranks.is_main, "device": str(ranks.device)}


def test_two_ranks_know_their_place_and_draw_the_same_numbers(on_ranks):
    answers = on_ranks(whoami)
    first, second = answers["every"]
    assert (first[:3], second[:3]) == ([0, 2, 2], [1, 2, 2])
    assert first[3] == second[3], "ranks with other seeds would build other models"
    assert answers["is_main"]
    assert answers["device"] == "cpu"


def test_a_process_without_torchrun_is_a_world_of_one(monkeypatch):
    import torch
    import torch.distributed as dist

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu", seed=4) as ranks:
        assert (ranks.rank, ranks.world) == (0, 1)
        assert dist.is_initialized()
        drawn = torch.rand(())
        with pytest.raises(InputError, match="already joined"):
            init("cpu")
    assert not dist.is_initialized()
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.rand(()))


def test_an_unknown_device_and_a_missing_gpu_are_named(monkeypatch):
    import torch

    with pytest.raises(InputError, match="device = 'tpu' must be 'cpu' or 'cuda'"):
        init("tpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(torch.cuda.device_count() + 1))
    with pytest.raises(InputError, match="lower --procs or take --device cpu"):
        init("cuda")
