"""The servers of the benchmark, each as a context manager over one bundle.

All but "TorchServe as it comes" have the deliverable's batches, delay, queue and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.process import Child
from labs.lab4_model_serving.torchserve_config import AS_IT_COMES as UNTUNED
from labs.lab4_model_serving.torchserve_config import (
    DEFAULT,
    TUNED_BATCH,
    TUNED_DELAY_MS,
    TUNED_QUEUE,
)

if TYPE_CHECKING:
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.torchserve import Frontend

OURS, AS_IT_COMES, TUNED = "own server", "TorchServe as it comes", "TorchServe tuned"
RAY, LIT = "Ray Serve", "LitServe"


@dataclass(frozen=True)
class Contender:
    """A running server: where predictions go, what they carry, whose CPU time counts."""

    url: str
    headers: Mapping[str, str]
    child: Child


@contextmanager
def own_server(bundle: Bundle, folder: Path, workers: int) -> Iterator[Contender]:
    """The lab's own; a run of the model releases the interpreter's lock, so threads will do."""
    from labs.lab4_model_serving.server import serve_bundle
    from labs.lab4_model_serving.versions import BatchSettings

    settings = BatchSettings(
        max_batch=TUNED_BATCH,
        max_delay_s=TUNED_DELAY_MS / 1000,
        max_queue=TUNED_QUEUE,
        runners=workers,
    )
    with serve_bundle(bundle.folder, folder=folder, settings=settings) as server:
        yield Contender(server.prediction_url(), server.headers, server.child)


@contextmanager
def torchserve_as_it_comes(bundle: Bundle, folder: Path, workers: int) -> Iterator[Contender]:
    """Batch size 1, delay 100 ms, queue of 100, its own logs, no flags for the JVM."""
    with _torchserve(bundle, folder, workers, 1, 100, 100, UNTUNED) as contender:
        yield contender


@contextmanager
def torchserve_tuned(bundle: Bundle, folder: Path, workers: int) -> Iterator[Contender]:
    """The settings of ``lessons/torchserve.md``."""
    with _torchserve(
        bundle, folder, workers, TUNED_BATCH, TUNED_DELAY_MS, TUNED_QUEUE, DEFAULT
    ) as contender:
        yield contender


@contextmanager
def _torchserve(
    bundle: Bundle,
    folder: Path,
    workers: int,
    batch: int,
    delay_ms: int,
    queue: int,
    frontend: Frontend,
) -> Iterator[Contender]:
    from labs.lab4_model_serving.archive import archive_bundle
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    archive = archive_bundle(bundle, folder / "store")
    spec = ModelSpec(
        bundle.name,
        archive,
        bundle.version,
        workers=workers,
        batch_size=batch,
        max_batch_delay_ms=delay_ms,
    )
    with torchserve(
        folder / "store", [spec], folder=folder, frontend=frontend, queue_size=queue
    ) as server:
        yield Contender(server.prediction_url(bundle.name), server.headers, server.child)


@contextmanager
def ray_serve_contender(bundle: Bundle, folder: Path, workers: int) -> Iterator[Contender]:
    """Its settings for throughput; batches and queue as the tuned TorchServe.

    The queue is the proxy's; each replica may have some batches more in hand.
    """
    from labs.lab4_model_serving.ray_serve import ray_serve

    with ray_serve(
        bundle,
        folder=folder,
        replicas=workers,
        max_batch=TUNED_BATCH,
        max_batch_delay_ms=TUNED_DELAY_MS,
        max_queued=TUNED_QUEUE,
    ) as server:
        yield Contender(server.prediction_url(), server.headers, server.child)


@contextmanager
def lit_serve_contender(bundle: Bundle, folder: Path, workers: int) -> Iterator[Contender]:
    """Batches and queue as the tuned TorchServe; what is being run counts as queued."""
    from labs.lab4_model_serving.lit_serve import lit_serve

    with lit_serve(
        bundle,
        folder=folder,
        workers=workers,
        max_batch=TUNED_BATCH,
        max_batch_delay_ms=TUNED_DELAY_MS,
        max_queued=TUNED_QUEUE,
    ) as server:
        yield Contender(server.prediction_url(), server.headers, server.child)


SERVERS: dict[str, Callable[[Bundle, Path, int], AbstractContextManager[Contender]]] = {
    TUNED: torchserve_tuned,
    AS_IT_COMES: torchserve_as_it_comes,
    RAY: ray_serve_contender,
    LIT: lit_serve_contender,
    OURS: own_server,  # last: what runs first finds the machine coolest
}
