"""A real Redis for the length of a ``with`` block: loopback, a password, no leftovers."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, RunError
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised

START_TIMEOUT_S = 10.0
BINARY = "redis-server"


def available() -> bool:
    """Whether ``redis-server`` is installed."""
    return shutil.which(BINARY) is not None


@dataclass
class RedisServer:
    """A running Redis; ``url`` holds its password, so it belongs in no log."""

    port: int
    password: str
    folder: Path
    child: Child
    _servers: ExitStack

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def pid(self) -> int:
        """The server's own process (the child that is supervised is its guard)."""
        import psutil

        guard = psutil.Process(self.child.pid)
        family = [guard, *guard.children(recursive=True)]
        return next(each.pid for each in family if each.name() == BINARY)

    def start_again(self) -> None:
        """The same port, password and data: what a supervisor does after a crash."""
        self._servers.close()
        self.child = self._servers.enter_context(_started(self.port, self.password, self.folder))


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Start Redis with an append-only file in ``folder``, fsynced every second.

    Raises
    ------
    InputError
        When ``redis-server`` is not installed.
    RunError
        When it does not come up; with the end of its log.
    """
    if not available():
        raise InputError(f"{BINARY} is not installed; on Debian: apt-get install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(24)
    with ExitStack() as servers:
        child = servers.enter_context(_started(port, password, folder))
        yield RedisServer(port, password, folder, child, servers)


@contextmanager
def _started(port: int, password: str, folder: Path) -> Iterator[Child]:
    # The password goes through a file that only we may read, never the command line.
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"bind {LOOPBACK}\nport {port}\nrequirepass {password}\ndir {folder}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\n',
        encoding="utf-8",
    )
    with supervised([BINARY, str(config)], log=folder / "redis.log", name="redis") as child:
        _wait(port, password, child)
        yield child


def _wait(port: int, password: str, child: Child) -> None:
    import redis

    client = redis.Redis(host=LOOPBACK, port=port, password=password, socket_timeout=1)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RunError(f"redis ended at start:\n{child.tail()}")
        try:
            if client.ping():
                return
        except redis.exceptions.RedisError:
            time.sleep(0.05)
    raise RunError(f"redis was not ready after {START_TIMEOUT_S:.0f} s:\n{child.tail()}")
