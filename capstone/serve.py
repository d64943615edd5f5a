"""``make serve``: the bundle of the last capstone at a scale over HTTP, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from common.errors import EXIT_OK, InputError, RunError, exit_status, require

if TYPE_CHECKING:
    from capstone.release import Source
    from capstone.serving import Service

MIN_TOKEN = 16


@dataclass(frozen=True)
class Options:
    """Which bundle to serve, and where."""

    scale: Literal["smoke", "standard", "full"] = "standard"
    """Scale of the run whose bundle is served."""
    seed: int = 0
    """Seed of that run."""
    out: Path = Path("runs")
    """Folder of the runs."""
    host: str = "127.0.0.1"
    """IPv4 address to listen on. 0.0.0.0 is every network: for a container, behind a firewall."""
    port: int = 8080
    """Port to listen on; 0 picks a free one."""
    token_file: Path | None = None
    """File with the token that clients must send; a random one is made without it."""
    admin_token_file: Path | None = None
    """File with the token that changes the experiment; a random one is made without it."""
    redis_url: str = ""
    """Keep user state in this Redis (redis://host:port) instead of in SQLite."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where TorchServe runs the ranker."""
    workers: int = 1
    """TorchServe workers; more make smaller batches of those that wait."""
    unregistered: bool = False
    """Serve the last run's champion although no gate let it into the registry."""
    monitoring: bool = True
    """Run the monitor, and Prometheus and Alertmanager where they are installed, beside it."""


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    options = tyro.cli(Options, prog="python -m capstone.serve", description=__doc__)

    def command() -> int:
        try:
            return serve(options)
        except KeyboardInterrupt:
            print("\nstopped")
            return EXIT_OK

    return exit_status(command)


def serve(options: Options) -> int:
    """Start the service, say how to ask it, and wait."""
    _require_address(options.host)
    require(1 <= options.workers <= 64, "--workers", options.workers, "must be from 1 to 64")
    token, admin_token = (
        _read_token(path, option) if path else ""
        for path, option in (
            (options.token_file, "--token-file"), (options.admin_token_file, "--admin-token-file")
        )
    )  # fmt: skip
    from capstone import release
    from capstone.serving import live

    capstone = options.out.resolve() / "capstone"
    name = f"{options.scale}-seed{options.seed}"
    artefacts, kept = capstone / "artifacts" / name, capstone / "service" / name
    source = release.find(artefacts, unregistered=options.unregistered)
    champion, made = source.champion, artefacts / release.MADE
    with (
        tempfile.TemporaryDirectory(prefix="feed-") as folder,
        live(
            [champion],
            source.store,
            source.folder / release.USERS,
            folder=Path(folder),
            host=options.host,
            port=options.port,
            token=token,
            admin_token=admin_token,
            device=options.device,
            workers=options.workers,
            log=kept / "events",
            redis_url=options.redis_url,
            bundle_root=made,
        ) as service,
        _watched(options, service, source, kept, Path(folder)) as watched,
    ):
        print(f"bundle {champion.version} on {service.url}; Ctrl-C stops it")
        print(f"reactions and exposures are kept in {kept}\n")
        shown = f"$(cat {options.token_file})" if token else service.token
        admin = f"$(cat {options.admin_token_file})" if admin_token else service.admin_token
        print(f"the page: {service.url}/#token={shown}\n")
        print(f'curl -s {service.url}/feed -H "Authorization: Bearer {shown}" \\')
        print("  -H 'Content-Type: application/json' -d '{\"user_id\": 1}'\n")
        print(f'curl -s -X PUT {service.url}/experiment -H "Authorization: Bearer {admin}" \\')
        print("  -H 'Content-Type: application/json' -d '{\"weights\": [1.0]}'")
        print("\n".join(["", *watched]), flush=True)
        while service.gateway.poll() is None:
            if service.torchserve.child.poll() is not None:
                print("TorchServe ended; starting it again", flush=True)
                service.restart_torchserve()
            time.sleep(0.5)
        raise RunError(f"the gateway ended:\n{service.gateway.tail()}")


@contextmanager
def _watched(
    options: Options, service: Service, source: Source, kept: Path, folder: Path
) -> Iterator[list[str]]:
    """Monitoring beside the service; yields the lines that say where it is."""
    if not options.monitoring:
        yield []
        return
    from capstone.monitor import MonitorConfig
    from capstone.release import GROUPS
    from capstone.stack import monitoring

    config = MonitorConfig(
        str(service.log),
        port=0,
        references=str(source.champion.references),
        groups=str(source.folder / GROUPS),
        interval_s=30.0,
    )
    gateway = service.url.removeprefix("http://")
    with monitoring([gateway], config, folder=folder / "monitoring") as stack:
        yield stack.lines()


def _require_address(host: str) -> None:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise InputError(
            f"--host {host} is no IPv4 address; give 127.0.0.1, or 0.0.0.0 for every network"
        ) from None


def _read_token(path: Path, option: str) -> str:
    if not path.is_file():
        raise InputError(f"{option} {path} is no file; write a token of your own into it")
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{option} {path} must hold one token of at least {MIN_TOKEN} printable ASCII "
            "characters without spaces; make one with `openssl rand -hex 24`"
        )
    return token


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
