"""torchrun under supervision: output as it comes, the rank that failed first, nothing left."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from common.errors import InputError, RunError
from common.launch import cause, scratch_folder, torchrun

TINY = """
import os, signal, sys, time
import torch
import torch.distributed as dist

mode = sys.argv[1]
dist.init_process_group("gloo")
rank = dist.get_rank()
print(f"rank {rank} threads {os.environ['OMP_NUM_THREADS']}", flush=True)
print(f"gpus '{os.environ.get('CUDA_VISIBLE_DEVICES')}'", flush=True)
if mode == "fail" and rank == 1:
    raise ValueError("no rows left for this rank")
if mode == "once" and not os.path.exists(sys.argv[2]):
    open(sys.argv[2], "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "hang":
    time.sleep(300)
total = torch.tensor([float(rank + 1)])
dist.all_reduce(total)
for _ in range(int(sys.argv[2]) if mode == "sum" else 1):
    print(f"sum {total.item():g}", flush=True)
dist.destroy_process_group()
"""
SUMMARY = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
tiny FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-23_22:21:33
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 21083)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 21083
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_22:21:33
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {exit}
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================"""
LOST = "[rank0]: RuntimeError: [gloo/tcp/pair.cc:537] Read error: Connection reset by peer. GLHF!"
KILLED = "-9 (pid: 21084)  (SIGKILL)"
FAILED = "1 (pid: 21084) "


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"tiny_{os.getpid()}_{time.monotonic_ns()}"  # also finds its processes
    (tmp_path / f"{name}.py").write_text(TINY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return name


def ranks_of(module: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if module in (process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.slow
def test_two_ranks_reduce_and_their_lines_stream_out_whole(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    running: list[bool] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line.startswith("sum"):
            running.append(bool(ranks_of(tiny)))

    log = tmp_path / "log"
    # Even from an environment that asks for unbuffered output, which tears lines apart.
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    torchrun(tiny, ["sum", "200"], procs=2, device="cpu", log=log, on_line=on_line)
    assert [line for line in lines if line.startswith("sum")] == ["sum 3"] * 400
    assert running[0], "the first result was seen only after the ranks had ended"
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {f"rank {rank} threads {share}" for rank in (0, 1)} <= set(lines)
    assert "gpus ''" in lines, "ranks on CPU see no GPU"
    assert log.read_text().splitlines() == lines
    assert ranks_of(tiny) == []


@pytest.mark.slow
def test_torchrun_leaves_nothing_in_the_temporary_folder(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --log-dir each run leaves a torchelastic_ folder behind."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # read by torchrun; this process has read its own
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    torchrun(tiny, ["sum", "1"], procs=1, device="cpu", log=tmp_path / "log")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_ranks_are_started_again_after_a_failure_if_asked(tiny: str, tmp_path: Path) -> None:
    log, marker = tmp_path / "log", tmp_path / "failed"
    torchrun(tiny, ["once", str(marker)], procs=1, device="cpu", log=log, max_restarts=1)
    assert marker.exists()
    assert "sum 1" in log.read_text()


@pytest.mark.slow
def test_a_failing_rank_is_named_with_its_error_and_the_log(tiny: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(RunError) as failure:
        torchrun(tiny, ["fail"], procs=2, device="cpu", log=log)
    assert str(failure.value) == (
        f"{tiny} failed on 2 ranks: rank 1: ValueError: no rows left for this rank (log: {log})"
    )
    assert ranks_of(tiny) == []


@pytest.mark.slow
def test_ctrl_c_while_the_ranks_work_leaves_none(tiny: str, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("rank"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        torchrun(tiny, ["hang"], procs=2, device="cpu", log=tmp_path / "log", on_line=interrupt)
    assert ranks_of(tiny) == []


@pytest.mark.slow
def test_a_module_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"rank \d: No module named no_such_module"):
        torchrun("no_such_module", procs=2, device="cpu", log=tmp_path / "log")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            ["[rank1]: ValueError: boom", LOST, SUMMARY.format(exit=FAILED)],
            "rank 1: ValueError: boom",
            id="an exception and the peer that lost it",
        ),
        pytest.param(
            [LOST, "[rank1]: common.errors.DataError: no rows", SUMMARY.format(exit=FAILED)],
            "rank 1: common.errors.DataError: no rows",
            id="the peer speaks first",
        ),
        pytest.param(
            [LOST, SUMMARY.format(exit=KILLED)],
            "rank 1: killed by SIGKILL (often out of memory)",
            id="killed",
        ),
        pytest.param(
            [LOST, SUMMARY.format(exit="-11 (pid: 7)  (SIGSEGV)")],
            "rank 1: killed by SIGSEGV",
            id="crashed",
        ),
        pytest.param(
            [LOST, SUMMARY.format(exit="3 (pid: 21084) ")], "rank 1: exit status 3", id="sys.exit"
        ),
        pytest.param(
            [
                "Traceback (most recent call last):",
                "ValueError: early",
                SUMMARY.format(exit=FAILED),
            ],
            "rank 1: ValueError: early",
            id="before joining the group",
        ),
        pytest.param(
            [LOST.replace("rank0", "rank1"), SUMMARY.format(exit=FAILED)],
            f"rank 1: {LOST[9:]}",
            id="the peer was on another host",
        ),
        pytest.param([LOST], f"rank 0: {LOST[9:]}", id="only a lost connection"),
        pytest.param(["one", "two", "three", "four"], "two | three | four", id="last lines"),
        pytest.param([], "no output", id="nothing"),
    ],
)
def test_the_cause_is_the_rank_that_failed_first(lines: list[str], expected: str) -> None:
    """Peers of a dead rank raise too, and often print before torchrun reports what happened."""
    assert cause([line for text in lines for line in text.splitlines()]) == expected


@pytest.mark.parametrize(
    ("error", "left"), [(RunError, True), (InputError, False), (KeyboardInterrupt, False)]
)
def test_only_a_failed_run_leaves_its_folder_for_its_log_is_named(
    error: type[BaseException], left: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C leaves nothing half-written; a log that an error message names must be there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(error), scratch_folder("case-") as folder:
        (folder / "log").touch()
        raise error
    assert [each.name for each in tmp_path.glob("case-*/*")] == ["log"] * left
