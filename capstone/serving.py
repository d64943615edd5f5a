"""The live system: TorchServe with the rankers, and the gateway in front of it."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from capstone import rank_handler
from capstone.bundle import MANIFEST, Bundle
from capstone.feed import DEADLINES_MS
from capstone.gateway_config import GatewayConfig
from common.errors import RunError
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised
from labs.lab4_model_serving.archive import build_archive
from labs.lab4_model_serving.torchserve import ModelSpec, TorchServe, torchserve

START_TIMEOUT_S = 120.0
"""Of TorchServe and of the gateway: each worker imports its libraries and runs its model once."""
ANY_ADDRESS = "0.0.0.0"
QUEUE = 256


@dataclass
class Service:
    """A running feed service.

    Attributes
    ----------
    token, admin_token
        What clients and what administrators send.
    log
        Folder of the event log (:mod:`capstone.event_tables` reads it).
    access_log
        One JSON object a request (lab 4's ``json_logs.read``).
    """

    url: str
    token: str
    admin_token: str
    torchserve: TorchServe
    gateway: Child
    log: Path
    access_log: Path
    _again: Callable[[], TorchServe] = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_token}"}

    def feed(self, user_id: int, **query: Any) -> dict[str, Any]:
        """One feed. Raises :class:`RunError` unless the service answers 200."""
        return self._ask("POST", "/feed", {"user_id": user_id, **query})

    def react(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Send a reaction (:class:`capstone.api.EventIn`); RunError unless it is acknowledged."""
        return self._ask("POST", "/events", event)

    def experiment(self) -> dict[str, Any]:
        """Arms, weights and shadow."""
        return self._ask("GET", "/experiment")

    def set_experiment(self, weights: Sequence[float], **more: Any) -> dict[str, Any]:
        """Change the weights of the arms (:class:`capstone.api.ExperimentIn`)."""
        return self._ask("PUT", "/experiment", {"weights": list(weights), **more})

    def add_bundle(self, folder: str, arm: str | None = None) -> dict[str, Any]:
        """Load a bundle below the bundle root as a new arm of weight 0."""
        return self._ask("POST", "/bundles", {"folder": folder, "arm": arm})

    def interleave(self, variants: tuple[int, int], arm: str = "interleaved") -> dict[str, Any]:
        """Add an arm of weight 0 that drafts its feeds from two others."""
        return self._ask("POST", "/interleaved", {"variants": list(variants), "arm": arm})

    def metrics(self) -> str:
        """The Prometheus text."""
        return httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).text

    def restart_torchserve(self) -> None:
        """Start TorchServe again, on the same port and with a new token, after it was killed."""
        self.torchserve = self._again()

    def _ask(
        self, method: str, path: str, content: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        headers = self.headers if path in ("/feed", "/events") else self.admin_headers
        try:
            answer = httpx.request(
                method, f"{self.url}{path}", json=content, headers=headers,
                timeout=30, trust_env=False,
            )  # fmt: skip
        except httpx.TransportError as error:
            raise RunError(f"{self.url}{path} did not answer: {error}") from error
        if answer.status_code != 200:
            raise RunError(f"{self.url}{path} answered {answer.status_code}: {answer.text}")
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
    admin_token: str = "",
    weights: Sequence[float] = (1.0,),
    arms: Sequence[str] = (),
    experiment: str = "feed",
    device: str = "cpu",
    workers: int = 1,
    in_process: Sequence[int] = (),
    log: Path | None = None,
    state: Path | None = None,
    redis_url: str = "",
    bundle_root: Path | None = None,
    deadlines_ms: Mapping[str, float] | None = None,
    access_sample: float = 0.1,
    drain_s: float = 0.0,
    seed: int = 0,
) -> Iterator[Service]:
    """Serve the bundles; variant ``i`` of the experiment is bundle ``i``.

    Parameters
    ----------
    store
        Folder of the model archives (:func:`archive_rankers`).
    folder
        Receives the logs, and the event log unless ``log`` says otherwise.
    host
        Address the gateway listens on; TorchServe stays on loopback.
    port
        Of the gateway; 0 picks a free one.
    token, admin_token
        What clients and administrators must send; random ones are made when they are empty.
    workers
        TorchServe workers of each version.
    in_process
        Variants that the gateway scores itself: they need no archive and no worker.
    log, state
        Folder of the event log, and SQLite file of user state: give them to keep both over
        restarts.
    redis_url
        Keeps user state in Redis instead.
    bundle_root
        Folder below which ``POST /bundles`` may load; none without it.
    deadlines_ms
        Changes to :data:`capstone.feed.DEADLINES_MS`.

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
    served = [each for number, each in enumerate(bundles) if number not in in_process]
    models = model_specs(served, store, workers)
    token, admin_token = (given or secrets.token_urlsafe(24) for given in (token, admin_token))
    scorer_port, token_file = free_port(), folder / "scorer-token"
    gpus = 1 if device == "cuda" else 0
    with ExitStack() as servers, ExitStack() as gateways:

        def start_torchserve() -> TorchServe:
            servers.close()  # what is left of an earlier one
            server = servers.enter_context(
                torchserve(
                    store, models, folder=folder, gpus=gpus, inference_port=scorer_port,
                    queue_size=QUEUE, start_timeout=START_TIMEOUT_S,
                )
            )  # fmt: skip
            _write_secret(token_file, server.token)
            return server

        server = start_torchserve()
        gateways.callback(token_file.unlink, missing_ok=True)
        config = GatewayConfig(
            bundles=[str(bundle.folder) for bundle in bundles],
            users=str(users),
            log=str(log or folder / "events"),
            state=str(state or ""),
            redis_url=redis_url,
            scorer_url=server.url,
            posts_under_way=workers + 1,
            scorer_token_file=str(token_file),
            in_process=tuple(in_process),
            port=port,
            host=host,
            experiment=experiment,
            arms=tuple(arms),
            weights=tuple(weights),
            access_log=str(folder / "access.jsonl"),
            access_sample=access_sample,
            bundle_root=str(bundle_root or ""),
            deadlines_ms=DEADLINES_MS | dict(deadlines_ms or {}),
            drain_s=drain_s,
            seed=seed,
        )
        gateway = gateways.enter_context(
            gateway_process(config, folder, token=token, admin_token=admin_token)
        )
        yield Service(
            _url(config), token, admin_token, server, gateway, Path(config.log),
            Path(config.access_log), start_torchserve,
        )  # fmt: skip


@contextmanager
def gateway_process(
    config: GatewayConfig, folder: Path, *, token: str, admin_token: str, scorer_token: str = ""
) -> Iterator[Child]:
    """One gateway in a process of its own, ready when the block begins.

    Parameters
    ----------
    folder
        Receives ``gateway.json`` and ``gateway.log``.

    Raises
    ------
    RunError
        When it does not come up; with the end of its log.
    """
    root = str(Path(__file__).parent.parent)
    env = os.environ | {
        "FEED_TOKEN": token,
        "FEED_ADMIN_TOKEN": admin_token,
        "SCORER_TOKEN": scorer_token,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    with supervised(
        [sys.executable, "-m", "capstone.gateway", config.write(folder / "gateway.json")],
        log=folder / "gateway.log",
        env=env,
        name="gateway",
        grace_s=10.0 + config.drain_s,
    ) as gateway:
        _wait(_url(config), gateway)
        yield gateway


def archive_rankers(bundles: Sequence[Bundle], store: Path) -> None:
    """Pack each bundle's ranker for TorchServe as ``ranker-<version>.mar``."""
    handler = Path(str(rank_handler.__file__))
    for bundle in bundles:
        # The manifest says how many candidates a list has.
        files = [bundle.ranker, bundle.folder / MANIFEST]
        build_archive("ranker", bundle.version, handler, files, store)


def model_specs(bundles: Sequence[Bundle], store: Path, workers: int) -> list[ModelSpec]:
    """The ranker of every bundle, as TorchServe is told of it."""
    # A batch of one: the gateway sends those that wait together in one body, without the delay
    # in which TorchServe would wait for company.
    versions = dict.fromkeys(bundle.version for bundle in bundles)
    return [
        ModelSpec(
            "ranker",
            store / f"ranker-{version}.mar",
            version=version,
            workers=workers,
            batch_size=1,
            max_batch_delay_ms=1,
            default=number == 0,
        )
        for number, version in enumerate(versions)
    ]


def _write_secret(path: Path, secret: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secret)
    partial.replace(path)


def _url(config: GatewayConfig) -> str:
    return f"http://{LOOPBACK if config.host == ANY_ADDRESS else config.host}:{config.port}"


def _wait(url: str, gateway: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if gateway.poll() is not None:
            raise RunError(f"the gateway ended at start:\n{gateway.tail()}")
        try:
            if httpx.get(f"{url}/ready", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RunError(f"the gateway was not ready after {START_TIMEOUT_S:.0f} s:\n{gateway.tail()}")
