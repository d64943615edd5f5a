"""Several replicas of one server: start, stop, kill, start again.

A replica is any command that listens on a port of 127.0.0.1 and answers ``/ping``: the lab's own
server (:func:`bundle_replica`), or a stand-in that only waits (:func:`echo_replica`), with which
the balancer can be watched without a model.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from common.errors import InputError, RunError, require
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ReplicaSpec:
    """How one replica is started: a command of its port, and what it finds in its environment."""

    command: Callable[[int], Sequence[str]]
    env: dict[str, str] = field(default_factory=dict)
    token: str = ""
    """What requests must carry; all replicas share it."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def echo_replica(*, service_ms: float = 2.0, concurrency: int = 4, queue: int = 100) -> ReplicaSpec:
    """A stand-in: waits ``service_ms`` and answers; ``concurrency`` requests at a time."""
    options = ["--service-ms", str(service_ms), "--concurrency", str(concurrency)]
    module = "labs.lab4_model_serving.echo_replica"
    return ReplicaSpec(
        lambda port: [
            *(sys.executable, "-m", module, "--port", str(port), *options, "--queue", str(queue)),
        ]
    )


def bundle_replica(bundle: Path, *, device: str = "cpu", threads: int = 1) -> ReplicaSpec:
    """The lab's own server with a bundle."""
    token = secrets.token_hex(16)
    return ReplicaSpec(
        lambda port: [
            *(sys.executable, "-m", "labs.lab4_model_serving.server", "--port", str(port)),
            *("--bundle", str(bundle.resolve()), "--device", device, "--threads", str(threads)),
        ],
        env={"SERVING_TOKEN": token, "SERVING_MANAGEMENT_TOKEN": secrets.token_hex(16)},
        token=token,
    )


class Fleet:
    """Running replicas. Made by :func:`replicas`."""

    def __init__(self, spec: ReplicaSpec, ports: Sequence[int], folder: Path) -> None:
        self.spec = spec
        self.ports = list(ports)
        self.folder = folder
        self._stacks = [ExitStack() for _ in ports]
        self._children: list[Child | None] = [None for _ in ports]

    def start(self, i: int, *, wait: bool = True) -> None:
        """Start replica ``i`` on its port; again after :meth:`stop` or :meth:`kill`."""
        require(self._children[i] is None, "i", i, "is a replica that runs")
        env = {**os.environ, "OMP_NUM_THREADS": "1", **self.spec.env}
        env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        log = self.folder / f"replica-{i}.log"
        self._children[i] = self._stacks[i].enter_context(
            supervised(self.spec.command(self.ports[i]), log=log, env=env, name=f"replica {i}")
        )
        if wait:
            self.wait_ready(i)

    def wait_ready(self, i: int, timeout: float = 60) -> None:
        """Return when replica ``i`` answers ``/ping``.

        Raises
        ------
        RunError
            It ended, or the time was up.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                url = f"http://{LOOPBACK}:{self.ports[i]}/ping"
                if httpx.get(url, trust_env=False, timeout=2).is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            child = self._children[i]
            if child is None or child.poll() is not None or time.monotonic() > deadline:
                tail = child.tail(20) if child else ""
                raise RunError(f"replica {i} did not start within {timeout:g} s:\n{tail}")
            time.sleep(0.02)

    def stop(self, i: int) -> None:
        """SIGTERM: the replica answers what it has, then ends."""
        self._stacks[i].close()
        self._children[i] = None

    def kill(self, i: int) -> None:
        """SIGKILL, as by the kernel when memory is short: nothing is answered any more."""
        child = self._children[i]
        if child is None:
            raise InputError(f"replica {i} does not run")
        for process in psutil.Process(child.pid).children(recursive=True):
            process.send_signal(signal.SIGKILL)
        self.stop(i)

    def close(self) -> None:
        with ExitStack() as stack:
            for each in self._stacks:
                stack.callback(each.close)


@contextmanager
def replicas(spec: ReplicaSpec, count: int, *, folder: Path) -> Iterator[Fleet]:
    """Run ``count`` replicas on free ports until the block ends.

    Parameters
    ----------
    folder
        Receives ``replica-<i>.log``.

    Raises
    ------
    InputError
        ``count`` below 1.
    RunError
        One did not start.
    """
    require(count >= 1, "count", count, "must be >= 1")
    folder.mkdir(parents=True, exist_ok=True)
    ports: list[int] = []
    while len(ports) < count:
        if (port := free_port()) not in ports:
            ports.append(port)
    fleet = Fleet(spec, ports, folder)
    try:
        for i in range(count):
            fleet.start(i, wait=False)
        for i in range(count):
            fleet.wait_ready(i)
        yield fleet
    finally:
        fleet.close()


def bodies_of(texts: Sequence[str]) -> list[bytes]:
    """Request bodies of texts."""
    return [json.dumps({"text": text}).encode() for text in texts]
