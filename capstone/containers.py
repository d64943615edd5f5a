"""What each container runs: ``python -m capstone.containers gateway|scorer|monitor``.

``capstone.serve`` runs everything on one machine. Here each process is alone, finds the others by
name, and reads its secrets from files (``/run/secrets``), never from the command line. Addresses
are 0.0.0.0 because a container's network is its own; what is published is the stack's decision.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tyro

from common.errors import EXIT_OK, InputError, RunError, exit_status, require

EVERYWHERE = "0.0.0.0"
CURRENT, PREVIOUS, STORE, USERS = "current", "previous", "store", "users.json"
"""What a release holds (:mod:`capstone.release`, which needs MLflow, is not imported here)."""
MIN_TOKEN = 16


@dataclass(frozen=True)
class Paths:
    """Where the release and the secrets are."""

    release: Path = Path("/data/release")
    """Folder that `python -m capstone.release` writes."""
    bundles: tuple[str, ...] = ("champion",)
    """Aliases of the bundles, one an arm; a scorer also loads `previous`."""
    secrets: Path = Path("/run/secrets")
    """Folder of the secrets, a file each."""

    @property
    def made(self) -> Path:
        """The folder of the newest release.

        Raises
        ------
        InputError
            When a bundle is not there.
        """
        made = (self.release / CURRENT).resolve()
        require(bool(self.bundles), "bundles", self.bundles, "must name at least one")
        for name in self.bundles:
            if not (made / name).is_dir():
                raise InputError(
                    f"no {name} in {made}; the container `release` takes it out of the registry"
                )
        return made

    def secret(self, name: str) -> str:
        """A secret of at least 16 characters, from its file.

        Raises
        ------
        InputError
            When it is not there or too short.
        """
        path = self.secrets / name
        if not path.is_file():
            raise InputError(f"no secret {path}; write one with `openssl rand -hex 24`")
        value = path.read_text(encoding="utf-8").strip()
        require(
            len(value) >= MIN_TOKEN, f"length of the secret {name}", len(value),
            f"must be >= {MIN_TOKEN}", "make one with `openssl rand -hex 24`",
        )  # fmt: skip
        return value


@dataclass(frozen=True)
class Gateway:
    """The gateway: secrets feed_token, admin_token, scorer_token, and redis_password."""

    paths: tyro.conf.OmitArgPrefixes[Paths] = field(default_factory=Paths)
    host: str = EVERYWHERE
    """IPv4 address to listen on."""
    port: int = 8080
    """Port to listen on."""
    scorer_url: str = "http://scorer:8085"
    """Of the container ``scorer``."""
    posts_under_way: int = 2
    """POSTs to it at a time, of each version: the scorer's workers and one more."""
    redis: str = ""
    """host:port of Redis; empty keeps user state in SQLite beside the event log."""
    events: Path = Path("/data/events")
    """Folder of the event log; each replica needs one of its own."""
    arms: tuple[str, ...] = ()
    """Names of the arms."""
    weights: tuple[float, ...] = (1.0,)
    """Shares of the arms."""
    drain_s: float = 5.0
    """Seconds after SIGTERM in which requests are still taken."""


@dataclass(frozen=True)
class Scorer:
    """TorchServe behind its proxy: secret scorer_token."""

    paths: tyro.conf.OmitArgPrefixes[Paths] = field(default_factory=Paths)
    host: str = EVERYWHERE
    """IPv4 address to listen on."""
    port: int = 8085
    """Port to listen on."""
    workers: int = 1
    """TorchServe workers of each version."""
    gpus: int = 0
    """GPUs to spread the workers over."""

    def __post_init__(self) -> None:
        require(1 <= self.workers <= 64, "--workers", self.workers, "must be from 1 to 64")
        require(self.gpus >= 0, "--gpus", self.gpus, "must be at least 0")


@dataclass(frozen=True)
class Monitor:
    """The monitor of online quality: no secret."""

    host: str = EVERYWHERE
    """IPv4 address to listen on."""
    port: int = 9464
    """Port to listen on."""
    events: Path = Path("/data/events")
    """Folder of the event log, or of several."""
    references: Path = Path("/data/monitor/references.json")
    """Score references, such as the bundle's; made from the first users when they are not there."""
    groups: Path | None = None
    """JSON: attribute to (user id to group)."""
    interval_s: float = 60.0
    """Seconds between two results."""
    window_h: float = 24.0
    """Hours that are looked at."""


def main() -> int:
    commands: Any = tyro.extras.subcommand_type_from_defaults(
        {"gateway": Gateway(), "scorer": Scorer(), "monitor": Monitor()}
    )
    options = tyro.cli(commands, prog="python -m capstone.containers", description=__doc__)
    run: Any = {Gateway: gateway, Scorer: scorer, Monitor: monitor}[type(options)]
    return exit_status(lambda: run(options))


def gateway(options: Gateway) -> int:
    """Serve until a signal comes."""
    from capstone import gateway as served
    from capstone.gateway_config import GatewayConfig

    made, paths = options.paths.made, options.paths
    redis_url = ""
    if options.redis:
        redis_url = f"redis://:{quote(paths.secret('redis_password'), safe='')}@{options.redis}/0"
    config = GatewayConfig(
        bundles=[str(made / name) for name in paths.bundles],
        users=str(made / USERS),
        log=str(options.events),
        port=options.port,
        host=options.host,
        scorer_url=options.scorer_url,
        posts_under_way=options.posts_under_way,
        redis_url=redis_url,
        bundle_root=str(made),
        arms=options.arms,
        weights=options.weights,
        drain_s=options.drain_s,
        access_log=str(options.events / "access.jsonl"),
    )
    os.environ |= {
        "FEED_TOKEN": paths.secret("feed_token"),
        "FEED_ADMIN_TOKEN": paths.secret("admin_token"),
        "SCORER_TOKEN": paths.secret("scorer_token"),
    }
    # The URL of Redis holds its password: the file is this user's alone, and ends with the process.
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        return served.main(str(config.write(Path(folder) / "gateway.json")))


def scorer(options: Scorer) -> int:
    """Run TorchServe and the proxy until a signal comes, or TorchServe ends."""
    import asyncio

    from capstone import bundle
    from capstone.serving import QUEUE, START_TIMEOUT_S, model_specs
    from labs.lab4_model_serving.torchserve import torchserve

    made, token = options.paths.made, options.paths.secret("scorer_token")
    # A gateway that was not restarted since the last release asks for the champion before this one.
    names = [*options.paths.bundles, *([PREVIOUS] if (made / PREVIOUS).is_dir() else [])]
    bundles = [bundle.load(made / name) for name in dict.fromkeys(names)]
    store = made / STORE
    with (
        tempfile.TemporaryDirectory(prefix="scorer-") as folder,
        torchserve(
            store, model_specs(bundles, store, options.workers), folder=Path(folder),
            gpus=options.gpus, queue_size=QUEUE, start_timeout=START_TIMEOUT_S,
        ) as server,
    ):  # fmt: skip
        return asyncio.run(_proxied(server, token, options.host, options.port))


async def _proxied(server: Any, token: str, host: str, port: int) -> int:
    import asyncio

    from aiohttp import web

    from capstone.scorer_server import proxy

    @dataclass
    class Running:
        url: str = server.url
        token: str = server.token

        def alive(self) -> bool:
            return server.child.poll() is None

        def metrics(self) -> str:
            text: str = server.metrics()
            return text

    running, ended = Running(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(proxy(running, token), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print(f"scoring on port {port}", flush=True)
    try:
        while running.alive() and not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), timeout=0.5)
    finally:
        await runner.cleanup()
    if ended.is_set():
        return EXIT_OK
    raise RunError(f"TorchServe ended:\n{server.child.tail()}")  # and is started again from outside


def monitor(options: Monitor) -> int:
    """Recompute and export until a signal comes."""
    from capstone.monitor import MonitorConfig, serve

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    config = MonitorConfig(
        events=str(options.events),
        port=options.port,
        host=options.host,
        references=str(options.references),
        groups=str(options.groups or ""),
        interval_s=options.interval_s,
        window_h=options.window_h,
    )
    with serve(config):
        ended.wait()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
