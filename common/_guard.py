"""Run one command and leave none of its processes behind. Started by :mod:`common.process`.

The guard reads a pipe whose other end only the parent holds. When the parent ends, in any way,
``kill -9`` included, the pipe closes and the guard stops the command's whole process tree. It is a
child subreaper (``prctl(2)``), so processes that detach themselves stay its descendants.

Kept to the standard library's cheap modules: it starts in about 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def follow(parent: int) -> None:
    """In a pool's worker: end when ``parent`` ends, killed or not, and leave Ctrl-C to it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, zombies left out (Linux ``/proc``)."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != b"Z":
            children.setdefault(int(parent), []).append(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def reap() -> dict[int, int]:
    """Collect every child that has ended: process id to exit status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _stop_tree(grace_s: float) -> None:
    _signal(descendants(os.getpid()), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        reap()
        time.sleep(0.02)
    while left:
        _signal(left, signal.SIGKILL)
        reap()
        time.sleep(0.01)
        left = descendants(os.getpid())
    # A process whose main thread has ended counts as a zombie while its other threads still end.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main(lifeline: int, grace_s: float, command: list[str]) -> int:
    """Run ``command`` until it ends or is to be stopped; its status, or minus a signal."""

    def execute() -> None:
        # Python ignores SIGPIPE and SIGXFSZ; the command gets every signal's default back.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"cannot start {command[0]}: {error}", file=sys.stderr, flush=True)
            os._exit(127)

    return guard(lifeline, grace_s, execute) or 0


def guard(lifeline: int, grace_s: float, run: Callable[[], None]) -> int | None:
    """Call ``run`` in a child until it ends or is to be stopped; its status, or minus a signal.

    Returns None in the child, if ``run`` returns there.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    received: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for stop in STOP_SIGNALS:
        signal.signal(stop, lambda number, _: received.append(number))

    own = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(lifeline)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *STOP_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != own:  # the guard was killed before it could say so
            os._exit(128 + signal.SIGKILL)
        run()
        return None

    while True:
        ready, _, _ = select.select([lifeline, wake_read], [], [])
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        ended = reap()
        if child in ended:
            _stop_tree(grace_s)
            return os.waitstatus_to_exitcode(ended[child])
        if received or lifeline in ready:
            _stop_tree(grace_s)
            return -(received[0] if received else signal.SIGTERM)


if __name__ == "__main__":
    code = main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    os._exit(code if code >= 0 else 128 - code)
