"""A Python that has the heavy libraries imported, forked for each program of the tests.

``import torch`` takes longer than most of what the tests run in processes of their own: the check
of a wrong solution, a rank. The server imports the libraries once and forks a child for each
program. It imports nothing of the labs and computes nothing, so it has no OpenMP or gloo threads,
which a fork would lose, and no code that a child should load from the learner's folder.

A connection is one program: the client sends what to run, then reads the exit status. Each program
has a guard (:mod:`common._guard`) for which the connection is the lifeline: when the client closes
it or dies, the program's whole process tree ends. The server is a supervised process and ends with
the test session.

A child differs from a fresh Python in that the libraries are there without an import of its own, in
the seed of ``hash``, and in that variables which are read when Python starts, such as
``PYTHONPATH``, have the server's values. ``course check`` starts a fresh Python.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common._guard import guard, reap
from common.errors import RunError
from common.exercises.catalog import discover, discover_tests, lab_folders
from common.process import supervised

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "LABS_FORK_SERVER"
START_S = 240  # it takes 4 s on an idle machine
PRELOADED = (
    *("pytest", "hypothesis", "numpy", "pandas", "scipy.stats", "faiss", "libcst"),
    *("sklearn.ensemble", "sklearn.linear_model", "sklearn.metrics", "matplotlib.figure"),
    *("_hypothesis_pytestplugin", "hypothesis.extra._patching", "anyio.pytest_plugin"),
    *("pytest_timeout", "platformdirs.pytest_plugin", "typeguard._pytest_plugin"),
    *("xdist.looponfail", "xdist.plugin"),
    *("common.exercises.pytest_plugin", "common.exercises.pytest_grader", "statsmodels.api"),
    *("torch", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp"),
    *("torch.distributed.tensor", "torch.nn.parallel", "torch.optim", "torch.profiler"),
)


@dataclass(frozen=True)
class Program:
    """What ``python *arguments`` is to run: ``-m module ...`` or ``script.py ...``."""

    arguments: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    grace_s: float


class Forked:
    """A program that runs in a fork of the server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._status: int | None = None

    def poll(self) -> int | None:
        """Exit status (minus the signal for a program that was killed), or None while it runs."""
        if self._status is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self._status

    def wait(self) -> int:
        if self._status is None:
            answer = self._connection.recv(16)
            self._status = int(answer) if answer else -signal.SIGKILL
        return self._status


@contextlib.contextmanager
def forked(
    arguments: Sequence[str | Path],
    *,
    server: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    grace_s: float = 10.0,
) -> Iterator[Forked]:
    """Run ``python *arguments`` in a fork of the server; its process tree ends with the block.

    Parameters
    ----------
    server
        The server's socket, see :func:`fork_server`.
    log
        File to which standard output and error are appended.
    env
        The whole environment of the program (default: this process's).
    grace_s
        Seconds between SIGTERM and SIGKILL.

    Raises
    ------
    RunError
        When the server has ended.
    """
    program = Program(
        list(map(str, arguments)), dict(env or os.environ), str(cwd), str(log.absolute()), grace_s
    )
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(server))
            connection.sendall(json.dumps(asdict(program)).encode() + b"\n")
        except OSError as error:
            raise RunError(f"the fork server at {server} has ended: {error}") from error
        child = Forked(connection)
        try:
            yield child
        finally:
            connection.shutdown(socket.SHUT_WR)  # the guard stops the tree, then says so
            child.wait()


@contextlib.contextmanager
def fork_server() -> Iterator[Path]:
    """Start a server for the block; its socket.

    Raises
    ------
    RunError
        When it does not come up, with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="fork-") as folder:
        path, log = Path(folder, "socket"), Path(folder, "log")
        command = [sys.executable, "-m", "tests.fork_server", str(path)]
        with supervised(command, log=log, cwd=ROOT, name="fork server") as server:
            deadline = time.monotonic() + START_S
            while not path.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"the fork server did not come up: {server.tail()}")
                time.sleep(0.01)
            yield path


def serve(path: Path) -> None:
    """Fork for every connection, for ever. Returns in a child whose program has ended."""
    for name in PRELOADED:
        importlib.import_module(name)
    discover(ROOT)  # these keep what they have read of each file
    for lab in lab_folders(ROOT):
        discover_tests(ROOT, lab.name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy the pages of all these objects
    signal.signal(signal.SIGCHLD, lambda *_: reap())  # and the session's CPU time counts them
    with socket.socket(socket.AF_UNIX) as listener:
        new = path.with_suffix(".new")
        listener.bind(str(new))
        listener.listen(64)
        new.rename(path)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    with connection.makefile("rb") as stream:
        program = Program(**json.loads(stream.readline()))
    status = guard(connection.fileno(), program.grace_s, lambda: _run(program))
    if status is not None:
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(str(status).encode())
        os._exit(0)


def _run(program: Program) -> None:
    """Run a program as ``python *arguments`` would; what it raises ends this process."""
    os.environ.clear()
    os.environ.update(program.env)
    os.chdir(program.cwd)
    log = os.open(program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _start_afresh()
    status = 0
    try:
        if program.arguments[0] == "-m":
            name = program.arguments[1]
            sys.argv, sys.path[0] = program.arguments[1:], program.cwd
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = program.arguments, str(Path(program.arguments[0]).parent)
            runpy.run_path(program.arguments[0], run_name="__main__")
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        status = ended.code or 0
    _end(status)


def _end(status: int) -> None:
    """End this process as Python would, without taking the libraries' modules apart (0.3 s)."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for output in (sys.stdout, sys.stderr):
        output.flush()
    os._exit(status)


def _start_afresh() -> None:
    """What the libraries take from the system or the environment when they are imported."""
    import numpy
    import torch

    numpy.random.seed()  # noqa: NPY002 - every child would draw the same numbers
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
