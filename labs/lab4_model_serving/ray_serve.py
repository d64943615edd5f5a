"""The bundle behind Ray Serve: a maintained way out of TorchServe, on one machine or on many.

Ray starts a dozen processes (its own database, a scheduler, agents, the HTTP proxy, a replica a
model), and they outlive a killed driver. They are therefore started below a guard that ends them
all, in a process whose environment is set before Ray is imported.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from common.errors import require
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import supervised
from labs.lab4_model_serving.bundle import Bundle, read_bundle
from labs.lab4_model_serving.bundle_server import (
    BundleServer,
    environment,
    wait_until_it_answers,
)

MIB = 2**20
LEAST_OBJECT_STORE = 80 * MIB  # Ray's own limit is 75 MiB
FOLDER = "labs-serve-"
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # "0" makes Ray take 127.0.0.1 for its own address, on Linux too, and bind to that.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # From Ray Serve's settings for throughput: one event loop a process, gRPC between them.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


@contextmanager
def ray_serve(
    bundle: Bundle | Path,
    *,
    folder: Path,
    port: int | None = None,
    replicas: int = 1,
    max_replicas: int = 0,
    max_batch: int = 32,
    max_batch_delay_ms: float = 1.0,
    max_ongoing: int = 96,
    max_queued: int = 32,
    target_ongoing_requests: float = 16.0,
    upscale_delay_s: float = 2.0,
    downscale_delay_s: float = 10.0,
    cpus_per_replica: float = 0.5,
    start_timeout: float = 90,
) -> Iterator[BundleServer]:
    """Serve a bundle by Ray Serve until the block ends; then no process of Ray's is left.

    Parameters
    ----------
    folder
        Receives ``ray_serve.log``.
    replicas
        Processes that run the model; the least of them with ``max_replicas``.
    max_replicas
        Above ``replicas``: Ray Serve scales between the two so that each replica has about
        ``target_ongoing_requests`` in hand.
    max_batch, max_batch_delay_ms
        A batch leaves when it is full, or this long after its first request.
    max_ongoing
        Requests that one replica may have in hand. Below ``max_batch`` no batch is ever full.
    max_queued
        Requests that may wait in the proxy for a replica; the next is answered 503 at once.
    upscale_delay_s, downscale_delay_s
        For how long the need must have lasted.
    cpus_per_replica
        What Ray books for a replica. It limits where replicas are placed, not what they use.

    Raises
    ------
    InputError
        A broken bundle, a port in use, a setting out of range.
    RunError
        Ray did not start; the message has the end of its log.
    """
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    require(replicas >= 1, "replicas", replicas, "must be >= 1")
    require(max_batch >= 1, "max_batch", max_batch, "must be >= 1")
    require(max_batch_delay_ms >= 0, "max_batch_delay_ms", max_batch_delay_ms, "must be >= 0")
    require(
        max_ongoing >= max_batch,
        "max_ongoing",
        max_ongoing,
        f"must be >= max_batch = {max_batch}",
        "a replica that may not hold a batch never fills one",
    )
    require(max_queued >= 1, "max_queued", max_queued, "must be >= 1")
    if port:
        require_port_free(port, "Ray Serve")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "ray_serve.log"
    log.write_text("", encoding="utf-8")
    token = secrets.token_urlsafe(24)
    with _short_folder() as home:
        options = {
            "bundle": str(bundle.folder.resolve()),
            "name": bundle.name,
            "port": port,
            "folder": str(home),
            "replicas": replicas,
            "max_replicas": max_replicas,
            "max_batch": max_batch,
            "max_batch_delay_ms": max_batch_delay_ms,
            "max_ongoing": max_ongoing,
            "max_queued": max_queued,
            "target_ongoing_requests": target_ongoing_requests,
            "upscale_delay_s": upscale_delay_s,
            "downscale_delay_s": downscale_delay_s,
            "cpus_per_replica": cpus_per_replica,
            "cpus": 2 + math.ceil(cpus_per_replica * max(replicas, max_replicas)),
            "object_store_bytes": LEAST_OBJECT_STORE,
        }
        with supervised(
            [sys.executable, "-m", "labs.lab4_model_serving.ray_app", json.dumps(options)],
            log=log,
            env=environment(
                token, {**RAY_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, without="RAY_"
            ),
            name="Ray Serve",
            grace_s=2.0,
        ) as child:
            server = BundleServer(
                f"http://{LOOPBACK}:{port}", bundle.name, bundle.version, token, child, log
            )
            wait_until_it_answers(server, start_timeout)
            yield server


@contextmanager
def _short_folder() -> Iterator[Path]:
    # The names of sockets below it may not exceed 107 bytes: TMPDIR can be too long for that.
    for left in Path("/tmp").glob(f"{FOLDER}*"):
        pid = left.name.removeprefix(FOLDER).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
    home = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir="/tmp"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
