"""A Python that has the heavy libraries imported, and forks one confined child for each task.

It is started with an empty environment and never imports code of the labs. For each task it forks
a *keeper*; the keeper leaves the machine's namespaces and forks the first process of a new one,
which builds the private root and forks the *worker*, which gives up its privileges and runs the
tests. When the keeper's connection closes, when the task ends, or when memory or processes go
beyond their limit, the keeper kills the first process, and with it the kernel ends every process of
the namespace, however it detached itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from common._guard import descendants, reap
from common.grading import confinement
from common.grading.confinement import Bind

MESSAGE_BYTES = 1 << 20
POLL_S = 0.1
PR_SET_CHILD_SUBREAPER = 36
COUNTED = ("RssAnon:", "RssShmem:")
FORKS = 6


def serve(listener: socket.socket, stage: str, wanted: list[str], preloaded: list[str]) -> None:
    """Say what the kernel allows, then fork a keeper for each request until the other side ends."""
    for name in preloaded:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listener.send(json.dumps(_possible(stage, wanted)).encode())
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    while True:
        message, fds, _, _ = socket.recv_fds(listener, MESSAGE_BYTES, 3)
        if not message:
            break
        if os.fork() == 0:
            listener.close()
            _keep(json.loads(message), *fds)
        for fd in fds:
            os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(ChildProcessError):
        while True:  # a keeper ends with what it keeps
            os.wait()


def _possible(stage: str, wanted: list[str]) -> list[str]:
    """The namespaces that can be had and used, tried out in a child."""
    for asked in (wanted, [name for name in wanted if name != "mount"]):
        read, write = os.pipe()
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                had = confinement.unshare(tuple(asked))
                if os.fork() == 0:
                    if "net" in had:
                        confinement.raise_loopback()
                    if "mount" in had:
                        confinement.enter_private_root(stage, [], 1, own_pids="pid" in had)
                    os.write(write, json.dumps(sorted(had)).encode())
                else:
                    os.wait()
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            said = answer.read()
        if said:
            found: list[str] = json.loads(said)
            return found
    return []


def _keep(task: dict[str, Any], control: int, channel: int, output: int) -> NoReturn:
    """Run one task to its end, and leave nothing of it."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        confinement.prctl(PR_SET_CHILD_SUBREAPER, 1)
        had = confinement.unshare(tuple(task["namespaces"]))
        first = os.fork()
        if first == 0:
            os.close(control)
            _first(task, had, channel, output)
        os.close(channel)
        os.close(output)
        ended = _watch(task, control, first)
        _kill(task, first, had)
        answer = json.dumps(ended | {"namespaces": sorted(had)}).encode()
        with contextlib.suppress(OSError):
            os.write(control, answer)
    finally:
        os._exit(0)


def _watch(task: dict[str, Any], control: int, first: int) -> dict[str, Any]:
    """Wait for the end of a task or for a reason to end it."""
    base = _anonymous(os.getpid())
    while True:
        if select.select([control], [], [], POLL_S)[0]:
            return {"ended": "stopped"}
        pid, status = os.waitpid(first, os.WNOHANG)
        if pid:
            return {"ended": "exit", "status": os.waitstatus_to_exitcode(status)}
        memory, count = _usage(first, base)
        if memory > task["memory_mb"]:
            return {"ended": "memory", "measured": memory}
        if count > task["processes"]:
            return {"ended": "processes", "measured": count}


def _anonymous(pid: int) -> int:
    """KB of memory that a process has mapped and no file stands for."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(COUNTED))
    return 0


def _usage(first: int, base: int) -> tuple[int, int]:
    """MB of memory of a process tree, and its processes.

    A fork shares ``base`` KB with the zygote; that is taken off for a few of them only, for what
    has called ``exec`` shares nothing.
    """
    pids = [first, *descendants(first)]
    total = sum(map(_anonymous, pids)) - base * min(len(pids), FORKS)
    return max(0, total) >> 10, len(pids)


def _kill(task: dict[str, Any], first: int, had: set[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = descendants(os.getpid())
        if "pid" not in had and task["uid"] is not None:
            left += _of_user(task["uid"])
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap()
        if not left:
            return
        time.sleep(0.005)


def _of_user(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
    return found


def _first(task: dict[str, Any], had: set[str], channel: int, output: int) -> NoReturn:
    """The first process of the namespace: builds the root, starts the worker, collects orphans."""
    status = 70
    try:
        confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(output, 2)
        if "net" in had:
            confinement.raise_loopback()
        if "mount" in had:
            binds = [Bind(*each) for each in task["binds"]]
            confinement.enter_private_root(
                task["stage"], binds, task["disk_mb"], own_pids="pid" in had
            )
        worker = os.fork()
        if worker == 0:
            _work(task, channel, output)
        os.close(channel)
        os.close(output)
        while True:
            pid, waited = os.wait()
            if pid == worker:
                status = os.waitstatus_to_exitcode(waited)
                break
    except BaseException as error:
        os.write(2, f"the sandbox could not be made: {error}\n".encode())
    finally:
        os._exit(status if status >= 0 else 128 - status)


def _work(task: dict[str, Any], channel: int, output: int) -> NoReturn:
    """The worker: gives up what it may not have, then runs the tests."""
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(task["env"])
        os.umask(0o077)
        confinement.drop_privileges(task["uid"])
        confinement.limit(task["memory_mb"], task["processes"], task["file_mb"], task["cpu_s"])
        os.makedirs(task["env"]["HOME"], exist_ok=True)
        os.chdir(task["cwd"])
        # The channel gets a number that is no constant; every other descriptor is closed.
        kept = 200 + int.from_bytes(os.urandom(2), "big") % 700
        os.dup2(channel, kept, inheritable=False)
        os.closerange(3, kept)
        os.closerange(kept + 1, 1024)
        confinement.default_signals()
        sys.path[:] = task["path"]
        for name in [name for name in sys.modules if name.partition(".")[0] == "common"]:
            del sys.modules[name]  # what is imported now comes from the private tree
        from common.grading.trusted_driver import run

        status = run(task, socket.socket(fileno=kept))
    except BaseException as error:
        os.write(2, f"\nthe tests could not be run: {type(error).__name__}: {error}\n".encode())
        status = 71
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        serve(listener, sys.argv[2], sys.argv[3].split(","), sys.argv[4:])
