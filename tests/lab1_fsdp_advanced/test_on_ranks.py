"""Ranks of the tests are forks of one Python: what fails on one of them fails the test."""

import os
import time

import psutil
import pytest

from tests.lab1_fsdp_advanced.conftest import start


def place(ranks, *given):
    import os

    import torch
    import torch.distributed as dist

    number = torch.ones(1)
    if dist.is_initialized():
        dist.all_reduce(number)
    threads = torch.get_num_threads()
    return {"given": given, "sum": number.item(), "threads": threads, "pid": os.getpid()}


def raise_on_rank_1(ranks):
    import torch
    import torch.distributed as dist

    if ranks.rank == 1:
        raise ValueError("rank 1 has no data")
    dist.all_reduce(torch.ones(1))
    return {}


def hang(ranks):
    import os
    import sys
    import time

    with open(sys.argv[1] + f".{os.getpid()}", "w"):
        pass
    time.sleep(300)


@pytest.mark.parametrize("forks", [True, False])
def test_ranks_meet_whether_forked_or_started_afresh(forks, server, tmp_path):
    """A learner's folder is graded on ranks that start as anyone would start them."""
    chosen = server if forks else None
    answers = start(place, tmp_path, server=chosen, procs=2, arguments=("a", "b c"))
    assert answers["given"] == ["a", "b c"]
    assert (answers["sum"], answers["threads"]) == (2, 1)
    assert answers["pid"] != os.getpid()


@pytest.mark.parametrize("forks", [True, False])
def test_what_a_rank_raises_fails_the_test_that_reads(forks, server, tmp_path):
    answers = start(raise_on_rank_1, tmp_path, server=server if forks else None, procs=2)
    with pytest.raises(pytest.fail.Exception, match="ValueError: rank 1 has no data"):
        answers["anything"]
    assert "Traceback" in next(tmp_path.glob("*.log")).read_text()


def test_ranks_that_hang_end_with_the_time_limit(server, tmp_path):
    begin = time.monotonic()
    answers = start(hang, tmp_path, server=server, procs=2, timeout=10)
    assert time.monotonic() - begin < 60
    with pytest.raises(pytest.fail.Exception, match="no answer within 10 s"):
        answers["anything"]
    pids = [int(path.suffix[1:]) for path in tmp_path.glob("*.json.*")]
    assert len(pids) == 2, "both ranks came up"
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
