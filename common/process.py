"""Processes that never outlive the run that started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("_guard.py")


@dataclass
class Child:
    """A supervised command. ``pid`` is its guard: the command is below it in the process tree."""

    name: str
    popen: subprocess.Popen[str]
    log: Path | None
    _lifeline: int

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> IO[str]:
        """Standard output and error, line by line (when no ``log`` was given)."""
        if self.popen.stdout is None:
            raise ValueError(f"{self.name} writes to {self.log}: there is no stream to read")
        return self.popen.stdout

    def poll(self) -> int | None:
        """Exit status (128 + signal for a command that was killed), or None while it runs."""
        return self.popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self.popen.wait(timeout)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log, for an error message."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open(encoding="utf-8", errors="replace") as stream:
            return "".join(deque(stream, lines)).rstrip()

    def stop(self) -> None:
        """Stop the whole process tree and wait until it is gone."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self.popen.wait()


@contextmanager
def supervised(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    name: str = "",
    grace_s: float = 10.0,
    pass_fds: Sequence[int] = (),
) -> Iterator[Child]:
    """Run ``command`` under a guard; its whole process tree ends with the block.

    It also ends when this process is interrupted, killed with ``kill -9`` or crashes, and the tree
    includes processes that detached themselves (a server's workers).

    Parameters
    ----------
    log
        File that receives standard output and error. Without it, read ``child.output``.
    env
        The whole environment of the command (default: this process's).
    grace_s
        Seconds between SIGTERM and SIGKILL.
    pass_fds
        File descriptors that the command inherits under the same numbers.

    Yields
    ------
    Child
        With ``poll()``, ``wait()``, ``tail()`` and ``pid``.
    """
    stream = log.open("a", encoding="utf-8") if log else None
    read_end, write_end = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-S", "-E", str(GUARD), str(read_end), str(grace_s)]
            + [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stream or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=[read_end, *pass_fds],
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
        if stream:
            stream.close()
    child = Child(name or Path(command[0]).name, popen, log, write_end)
    try:
        yield child
    finally:
        child.stop()
        if popen.stdout:
            popen.stdout.close()
