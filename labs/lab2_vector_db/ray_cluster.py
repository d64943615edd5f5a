"""A Ray cluster for the length of a block: the one of ``RAY_ADDRESS``, or a private local one.

Ray is imported here and nowhere else, and only when a cluster is asked for.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from common.errors import InputError, RunError
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised

MIB = 2**20
FOLDER = "labs-ray-"
START_S = 60.0
LEAST_OBJECT_STORE = 80 * MIB  # Ray's own limit is 75 MiB
# "0" makes Ray take 127.0.0.1 for its own address, on Linux too, and bind its servers to that.
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def ray_cluster(*, cpus: int, object_store_bytes: int = LEAST_OBJECT_STORE) -> Iterator[Any]:
    """The module ``ray``, connected; what was started for it is gone after the block.

    With ``RAY_ADDRESS`` set, that cluster is used, its nodes get the code of this repository, and
    only the connection ends with the block. A local cluster listens on 127.0.0.1 alone, wants a
    token on every call, has no dashboard and reports no usage. Inside another block, or where Ray
    is connected already, that connection is used and left as it is.

    Parameters
    ----------
    cpus
        Cores that a local cluster lends out, or that a given one must have.
    object_store_bytes
        Shared memory of a local cluster, for what is sent to actors.

    Raises
    ------
    InputError
        When the cluster of ``RAY_ADDRESS`` does not answer or is too small.
    RunError
        When Ray was imported before with settings that would open a local cluster to the network.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    connect = _given(ray, address, cpus) if address else _local(ray, cpus, object_store_bytes)
    with connect:
        yield ray


def require_free(ray: Any, cpus: int, *, patience_s: float = 5.0) -> None:
    """Refuse to ask for cores that are not free: Ray would wait for them without an end.

    Cores of processes that have just ended come back after a moment, hence the patience.

    Raises
    ------
    InputError
        Naming what is free and what is needed.
    """
    end = time.monotonic() + patience_s
    while (free := ray.available_resources().get("CPU", 0)) < cpus:
        if time.monotonic() > end:
            there = ray.cluster_resources().get("CPU", 0)
            raise InputError(
                f"{cpus} CPUs are needed, {free:g} of the cluster's {there:g} are free; use fewer "
                "shards or threads, close other shards, or add a node"
            )
        time.sleep(0.05)


def _require_answer(address: str) -> None:
    """Look before Ray does, which tries for minutes and then ends the process."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except OSError as error:
        raise InputError(
            f"RAY_ADDRESS = {address!r}: no cluster answers there ({error}); start one with "
            "`ray start --head`, or unset it for a local one"
        ) from error


@contextmanager
def _given(ray: Any, address: str, cpus: int) -> Iterator[None]:
    code = {"py_modules": [str(ROOT / "common"), str(ROOT / "labs")]}
    try:
        ray.init(
            address=address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR
        )
        require_free(ray, cpus)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _local(ray: Any, cpus: int, object_store_bytes: int) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(_head(ray, cpus, object_store_bytes))
        except RunError:
            # Ray waits 30 s for its own servers, which a machine that is busy can take to begin.
            stack.enter_context(_head(ray, cpus, object_store_bytes))
        yield


@contextmanager
def _head(ray: Any, cpus: int, object_store_bytes: int) -> Iterator[None]:
    # The names of sockets below it may not exceed 107 bytes: TMPDIR can be too long for that.
    for left in Path("/tmp").glob(f"{FOLDER}*"):
        pid = left.name.removeprefix(FOLDER).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir="/tmp"))
    port, log = free_port(), folder / "start.log"
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--num-cpus={cpus}",
        f"--object-store-memory={max(object_store_bytes, LEAST_OBJECT_STORE)}",
        "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
        "--min-worker-port=0", "--max-worker-port=0",  # any free one: there may be two clusters
    ]  # fmt: skip
    try:
        # Under a guard and not in ray.init: Ray's agents outlive a killed driver by a minute.
        with supervised(start, log=log, name="ray start", grace_s=1.0) as head:
            try:
                _connect(ray, f"{LOOPBACK}:{port}", head)
                yield
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connect(ray: Any, address: str, head: Child) -> None:
    """Connect as soon as the cluster is up."""
    end = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection((LOOPBACK, int(address.rpartition(":")[2])), timeout=1):
                pass
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            if head.poll() is not None or time.monotonic() > end:
                raise RunError(f"Ray did not start ({error}): {head.tail(3)}") from error
            time.sleep(0.1)


def _ray() -> Any:
    """Import Ray, which reads its settings once: from the environment, when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not os.environ.get("RAY_ADDRESS"):
        if "ray" in sys.modules and os.environ.get(LOOPBACK_ONLY) != "0":
            raise RunError(
                "ray was imported before, by something else: a cluster started now would listen on "
                f"every network without a token; set {LOOPBACK_ONLY}=0 and RAY_AUTH_MODE=token "
                "before it is imported"
            )
        os.environ.setdefault(LOOPBACK_ONLY, "0")
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    return ray
