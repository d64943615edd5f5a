"""The bundle behind LitServe: FastAPI in front, a process a worker behind a queue, batches by size.

LitServe brings neither a bounded queue nor versions nor a format of errors. They are added in front
of it, as ASGI middleware (``lit_app.py``), so that the comparison is of servers with one contract.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import require
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import supervised
from labs.lab4_model_serving.bundle import Bundle, read_bundle
from labs.lab4_model_serving.bundle_server import BundleServer, environment, wait_until_it_answers


@contextmanager
def lit_serve(
    bundle: Bundle | Path,
    *,
    folder: Path,
    port: int | None = None,
    workers: int = 1,
    max_batch: int = 32,
    max_batch_delay_ms: float = 1.0,
    max_queued: int = 128,
    start_timeout: float = 60,
) -> Iterator[BundleServer]:
    """Serve a bundle by LitServe until the block ends; then no process of it is left.

    Parameters
    ----------
    folder
        Receives ``lit_serve.log``.
    workers
        Processes that run the model.
    max_batch, max_batch_delay_ms
        A batch leaves when it is full, or this long after the worker began to wait.
    max_queued
        Requests in hand; the next is answered 503 at once.

    Raises
    ------
    InputError
        A broken bundle, a port in use, a setting out of range.
    RunError
        It did not start; the message has the end of its log.
    """
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    require(workers >= 1, "workers", workers, "must be >= 1")
    require(max_batch >= 1, "max_batch", max_batch, "must be >= 1")
    require(max_batch_delay_ms >= 0, "max_batch_delay_ms", max_batch_delay_ms, "must be >= 0")
    require(max_queued >= 1, "max_queued", max_queued, "must be >= 1")
    if port:
        require_port_free(port, "LitServe")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "lit_serve.log"
    log.write_text("", encoding="utf-8")
    token = secrets.token_urlsafe(24)
    options = {
        "bundle": str(bundle.folder.resolve()),
        "port": port,
        "workers": workers,
        "max_batch": max_batch,
        "max_batch_delay_ms": max_batch_delay_ms,
        "max_queued": max_queued,
    }
    with supervised(
        [sys.executable, "-m", "labs.lab4_model_serving.lit_app", json.dumps(options)],
        log=log,
        env=environment(token, {}, without="LIT"),
        cwd=folder,
        name="LitServe",
        grace_s=2.0,
    ) as child:
        url = f"http://{LOOPBACK}:{port}"
        server = BundleServer(url, bundle.name, bundle.version, token, child, log)
        wait_until_it_answers(server, start_timeout)
        yield server
