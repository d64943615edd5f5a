"""The live system: TorchServe with the rankers, and the gateway in front of it."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from capstone.bundle import Bundle
from capstone.gateway import GatewayConfig
from common.errors import RunError
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised
from labs.lab4_model_serving import tensor_handler
from labs.lab4_model_serving.archive import build_archive
from labs.lab4_model_serving.torchserve import ModelSpec, TorchServe, torchserve

START_TIMEOUT_S = 60.0
ANY_ADDRESS = "0.0.0.0"


@dataclass
class Service:
    """A running feed service."""

    url: str
    token: str
    torchserve: TorchServe
    gateway: Child
    exposures: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def feed(self, user_id: int, **query: Any) -> dict[str, Any]:
        """One feed. Raises :class:`RunError` unless the service answers 200."""
        try:
            answer = httpx.post(
                f"{self.url}/feed",
                json={"user_id": user_id, **query},
                headers=self.headers,
                timeout=30,
                trust_env=False,
            )
        except httpx.TransportError as error:
            raise RunError(f"{self.url}/feed did not answer: {error}") from error
        if answer.status_code != 200:
            raise RunError(f"{self.url}/feed answered {answer.status_code}: {answer.text}")
        body: dict[str, Any] = answer.json()
        return body


@contextmanager
def live(
    bundles: Sequence[Bundle],
    store: Path,
    users: Path,
    *,
    folder: Path,
    host: str = LOOPBACK,
    port: int = 0,
    token: str = "",
    weights: Sequence[float] = (1.0,),
    experiment: str = "feed",
    device: str = "cpu",
) -> Iterator[Service]:
    """Serve the bundles; variant ``i`` of the experiment is bundle ``i``.

    Parameters
    ----------
    store
        Folder of the model archives (:func:`archive_rankers`).
    folder
        Receives the logs and ``exposures.jsonl``.
    host
        Address the gateway listens on; TorchServe stays on loopback.
    port
        Of the gateway; 0 picks a free one.
    token
        What clients must send; a random one is made when it is empty.

    Raises
    ------
    InputError
        When the port is in use or an archive is missing.
    RunError
        When a server does not come up; with the end of its log.
    """
    if port:
        require_port_free(port, "the gateway", option="--port")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        ModelSpec(
            "ranker",
            store / f"ranker-{bundle.version}.mar",
            version=bundle.version,
            batch_size=8,
            max_batch_delay_ms=1,
            default=number == 0,
        )
        for number, bundle in enumerate(bundles)
    ]
    token = token or secrets.token_urlsafe(24)
    gpus = 1 if device == "cuda" else 0
    with torchserve(store, models, folder=folder, gpus=gpus) as server:
        config = GatewayConfig(
            bundles=[str(bundle.folder) for bundle in bundles],
            users=str(users),
            exposures=str(folder / "exposures.jsonl"),
            scorer_url=server.url,
            port=port,
            host=host,
            experiment=experiment,
            weights=tuple(weights),
        )
        env = os.environ | {
            "FEED_TOKEN": token,
            "SCORER_TOKEN": server.token,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
            ),
        }
        with supervised(
            [sys.executable, "-m", "capstone.gateway", config.write(folder / "gateway.json")],
            log=folder / "gateway.log",
            env=env,
            name="gateway",
        ) as gateway:
            url = f"http://{LOOPBACK if host == ANY_ADDRESS else host}:{port}"
            _wait(url, gateway)
            yield Service(url, token, server, gateway, Path(config.exposures))


def archive_rankers(bundles: Sequence[Bundle], store: Path) -> None:
    """Pack each bundle's ranker for TorchServe as ``ranker-<version>.mar``."""
    handler = Path(str(tensor_handler.__file__))
    for bundle in bundles:
        build_archive("ranker", bundle.version, handler, [bundle.ranker], store)


def _wait(url: str, gateway: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if gateway.poll() is not None:
            raise RunError(f"the gateway ended at start:\n{gateway.tail()}")
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RunError(f"the gateway was not ready after {START_TIMEOUT_S:.0f} s:\n{gateway.tail()}")
