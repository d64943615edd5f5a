"""What a run starts, it stops: on every way out, and however hard the command resists."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.process import Child, supervised

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "SUPERVISED_TEST_TOKEN"

# A command that does what servers do: it ignores SIGTERM, and so do workers that left its session.
STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 30; done' &
( setsid sh -c 'trap "" TERM; sleep 300; :' & )
while :; do sleep 30; done
"""
STUBBORN_PROCESSES = 6  # three shells and their sleeps

PARENT = """
import sys, time
from pathlib import Path
from common.process import supervised
with supervised(["sh", "-c", sys.argv[1]], log=Path(sys.argv[2]), grace_s=0.3):
    print("in the block", flush=True)
    time.sleep(120)
"""


class Family:
    """Every process that inherited one token: no way of detaching escapes it."""

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex
        self.env = os.environ | {TOKEN: self.token, "PYTHONPATH": str(ROOT)}

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(TOKEN) == self.token
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def wait_for(self, count: int, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.alive()) < count:
            assert time.monotonic() < deadline, f"{len(self.alive())} of {count} processes came up"
            time.sleep(0.02)

    def wait_until_gone(self, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while left := self.alive():
            assert time.monotonic() < deadline, f"still running: {[p.cmdline() for p in left]}"
            time.sleep(0.02)


@pytest.fixture
def family() -> Iterator[Family]:
    tree = Family()
    yield tree
    for process in tree.alive():
        process.kill()


def stubborn(family: Family, log: Path):
    command = ["sh", "-c", STUBBORN]
    return supervised(command, env=family.env, log=log, grace_s=0.3)


def test_the_end_of_the_block_stops_processes_that_detached_and_ignore_sigterm(
    family: Family, tmp_path: Path
) -> None:
    with stubborn(family, tmp_path / "log") as child:
        family.wait_for(STUBBORN_PROCESSES + 1)  # and the guard
        assert child.poll() is None
    assert family.alive() == [], "the block ended and left processes"


def test_an_exception_in_the_block_stops_the_tree_and_passes_on(
    family: Family, tmp_path: Path
) -> None:
    def fail() -> None:
        with stubborn(family, tmp_path / "log"):
            family.wait_for(STUBBORN_PROCESSES + 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert family.alive() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_parent_stops_the_tree(
    family: Family, tmp_path: Path, how: signal.Signals
) -> None:
    """SIGTERM and SIGKILL end the parent without running a line of its clean-up."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, STUBBORN, str(tmp_path / "log")],
        env=family.env,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    family.wait_for(STUBBORN_PROCESSES + 2)  # the parent and the guard
    parent.send_signal(how)
    parent.wait(20)
    family.wait_until_gone()


def test_an_impatient_second_ctrl_c_leaves_nothing_either(family: Family, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, STUBBORN, str(tmp_path / "log")],
        env=family.env,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    family.wait_for(STUBBORN_PROCESSES + 2)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    parent.wait(20)
    family.wait_until_gone()


def test_daemons_left_by_a_command_that_ended_are_stopped_and_its_status_is_kept(
    family: Family, tmp_path: Path
) -> None:
    script = "( setsid sh -c 'trap \"\" TERM; sleep 300; :' & ) ; sleep 0.2; exit 7"
    with supervised(
        ["sh", "-c", script], env=family.env, log=tmp_path / "log", grace_s=0.2
    ) as child:
        assert child.wait(20) == 7
        assert family.alive() == [], "the command ended and its daemon stayed"


def test_a_command_that_stops_politely_is_given_the_time(family: Family, tmp_path: Path) -> None:
    script = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    log = tmp_path / "log"
    with supervised(["sh", "-c", script], env=family.env, log=log, grace_s=10):
        deadline = time.monotonic() + 20
        while "up" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert log.read_text().split()[-1] == "saved"


def test_a_killed_guard_takes_its_command_along(family: Family, tmp_path: Path) -> None:
    """The guard cannot clean up after SIGKILL; the kernel ends its direct child."""
    command = ["sleep", "300"]
    with supervised(command, env=family.env, log=tmp_path / "log") as child:
        family.wait_for(2)
        while not any(p.cmdline() == command for p in family.alive()):
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(20) == -signal.SIGKILL
        family.wait_until_gone()


def test_a_stopped_guard_does_not_look_like_success(family: Family, tmp_path: Path) -> None:
    with stubborn(family, tmp_path / "log") as child:
        family.wait_for(STUBBORN_PROCESSES + 1)
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGTERM
        assert family.alive() == []


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 128 + 9), ("kill -TERM $$", 128 + 15)],
)
def test_the_exit_status_is_passed_on(tmp_path: Path, script: str, status: int) -> None:
    with supervised(["sh", "-c", script], log=tmp_path / "log") as child:
        assert child.wait(20) == status
        assert child.poll() == status


def test_a_command_that_is_not_there_is_127_with_its_name() -> None:
    with supervised(["no-such-program-here", "--x"]) as child:
        output = child.output.read()
        assert child.wait(20) == 127
    assert output.strip() == (
        "cannot start no-such-program-here: [Errno 2] No such file or directory"
    )


def test_a_file_that_may_not_be_executed_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with supervised([script]) as child:
        assert "Permission denied" in child.output.read()
        assert child.wait(20) == 127


def test_the_tail_of_the_log_is_there_for_an_error_message(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervised(["seq", "50"], log=log, name="counter") as child:
        assert child.name == "counter"
        child.wait(20)
        assert child.tail(3) == "48\n49\n50"
        assert child.tail(1) == "50"
        assert len(child.tail().splitlines()) == 20
        with pytest.raises(ValueError, match="there is no stream to read"):
            _ = child.output


def test_the_log_is_appended_to_and_holds_both_streams(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("one", "two"):
        with supervised(["sh", "-c", f"echo {word}; echo {word}-error >&2"], log=log) as child:
            child.wait(20)
    assert log.read_text().split() == ["one", "one-error", "two", "two-error"]


def test_output_that_is_no_utf8_does_not_break_the_reader() -> None:
    with supervised(["printf", r"caf\351\nend\n"]) as child:
        assert child.output.read().splitlines() == ["caf\N{REPLACEMENT CHARACTER}", "end"]
        assert child.tail() == ""


def test_environment_and_working_folder_reach_the_command(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "GREETING": "hello"}
    with supervised(["sh", "-c", 'echo "$GREETING $HOME"; pwd'], env=env, cwd=tmp_path) as child:
        assert child.output.read().splitlines() == ["hello ", str(tmp_path.resolve())]


def test_the_command_has_the_default_signals_so_that_pipes_end_quietly() -> None:
    """Python ignores SIGPIPE; a command that inherits that complains of a broken pipe."""
    with supervised(["sh", "-c", "grep SigIgn /proc/self/status; yes | head -n 1"]) as child:
        ignored, line = child.output.read().splitlines()
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert line == "y"


def test_descriptors_are_closed_again(tmp_path: Path) -> None:
    def run(command: list[str], **options: Path) -> None:
        with supervised(command, **options) as child:
            child.wait(20)

    run(["true"])
    before = set(os.listdir("/proc/self/fd"))
    run(["true"])
    run(["true"], log=tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        run(["true"], log=tmp_path / "missing" / "log")
    assert set(os.listdir("/proc/self/fd")) == before


def test_stopping_twice_is_harmless() -> None:
    with supervised(["sleep", "60"]) as child:
        assert isinstance(child, Child)
        child.stop()
        child.stop()
        assert child.poll() is not None


def test_the_guard_costs_a_fraction_of_a_second(record_property) -> None:
    """About 40 ms on an idle machine; the bound only catches a guard that imports the world."""
    took = []
    for _ in range(3):
        start = time.perf_counter()
        with supervised(["true"]) as child:
            child.wait(20)
        took.append(time.perf_counter() - start)
    record_property("guard_seconds", min(took))
    assert min(took) < 5, f"the guard took {min(took):.2f} s to run `true`"
