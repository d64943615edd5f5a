"""A forked program is a fresh Python for the tests, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common.errors import RunError
from tests.fork_server import ROOT, fork_server, forked

COMPUTES = """
import os, sys
import faiss, numpy, torch
assert not any(name.startswith("labs.") for name in sys.modules)
vectors = numpy.random.rand(50_000, 8).astype("float32")
index = faiss.IndexFlatL2(8)
index.add(vectors)
found = index.search(vectors[:100], 1)[1]
assert (found[:, 0] == numpy.arange(100)).all()
assert (torch.ones(500, 500) @ torch.ones(500, 500)).sum() == 500**3
print(os.environ["GIVEN"], sys.argv[1:], os.getcwd(), torch.get_num_threads(), vectors[0, 0])
"""
STUBBORN = """
import os, signal, subprocess, time
subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 30; done"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(300)
"""
CLIENT = """
import sys
from pathlib import Path
from tests.fork_server import fork_server, forked
with fork_server() as server:
    with forked([sys.argv[1]], server=server, log=Path(sys.argv[2]), grace_s=0.2) as child:
        child.wait()
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(source: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(source)
        return path

    return write


def marked(token: str) -> list[psutil.Process]:
    """The living processes that inherited a token in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and token in process.environ().values():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_forked_program_computes_in_its_own_environment(server, script, tmp_path) -> None:
    """Threads of OpenMP start in the child, and each child draws numbers of its own."""
    log = tmp_path / "log"
    given = os.environ | {"GIVEN": "here", "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        with forked(
            [script(COMPUTES), "a b"], server=server, log=log, env=given, cwd=tmp_path
        ) as child:
            assert child.wait() == 0, log.read_text()
    first, second = log.read_text().splitlines()
    assert first.startswith(f"here ['a b'] {tmp_path} 1 ")
    assert first != second, "numpy's seed of the server"


@pytest.mark.parametrize(
    ("source", "status", "printed"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise ValueError('why')", 1, "ValueError: why"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'goodbye')", 0, "goodbye"),
        ("import signal; signal.raise_signal(signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_a_program_ends_as_under_python(source, status, printed, server, script, tmp_path) -> None:
    """A crash must not look like success, and its traceback is kept."""
    log = tmp_path / "log"
    with forked([script(source)], server=server, log=log) as child:
        assert child.wait() == status
        assert child.poll() == status
    assert printed in log.read_text()


def test_a_module_is_run_as_main(server, tmp_path) -> None:
    log = tmp_path / "log"
    with forked(["-m", "pytest", "--version"], server=server, log=log) as child:
        assert child.wait() == 0
    assert "pytest" in log.read_text()


def test_a_program_that_resists_ends_with_the_block(server, script, tmp_path) -> None:
    """Also what it started in another session, as a server's worker is."""
    log, token = tmp_path / "log", uuid.uuid4().hex
    given = os.environ | {"FORK_TOKEN": token}
    with forked([script(STUBBORN)], server=server, log=log, env=given, grace_s=0.2) as child:
        until(lambda: log.exists() and "up" in log.read_text())
        # The forked Python's own /proc/<pid>/environ is the server's: its child stands for it.
        until(lambda: len(marked(token)) >= 1)
        assert child.poll() is None
    assert child.poll() == -signal.SIGTERM
    assert marked(token) == []


def test_nothing_outlives_a_client_that_is_killed(script, tmp_path) -> None:
    """``kill -9`` of a test session ends the server and every program in it."""
    log, path = tmp_path / "log", script(STUBBORN)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, path, log], cwd=ROOT)
    try:
        until(lambda: log.exists() and "up" in log.read_text(), timeout_s=240)
        family = below(client.pid)
        assert len(family) >= 5, family  # guard, server, its guard, the program, its shell
    finally:
        client.kill()
        client.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_a_server_that_has_ended_is_an_error(tmp_path) -> None:
    with fork_server() as server:
        pass
    with (
        pytest.raises(RunError, match="has ended"),
        forked(["-m", "this"], server=server, log=tmp_path / "log"),
    ):
        pass
