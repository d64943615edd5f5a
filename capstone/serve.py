"""``make serve``: the newest bundle over HTTP, until Ctrl-C."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, RunError


@dataclass(frozen=True)
class Options:
    """Which bundle to serve, and where."""

    scale: Literal["smoke", "standard", "full"] = "standard"
    """Scale of the run whose bundle is served."""
    seed: int = 0
    """Seed of that run."""
    out: Path = Path("runs")
    """Folder of the runs."""
    port: int = 8080
    """Port on 127.0.0.1; 0 picks a free one."""


def main() -> int:
    options = tyro.cli(Options, prog="python -m capstone.serve", description=__doc__)
    try:
        return serve(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nstopped")
        return EXIT_OK


def serve(options: Options) -> int:
    """Start the service, say how to ask it, and wait."""
    from capstone import bundle
    from capstone.serving import live

    made = options.out / "capstone" / "artifacts" / f"{options.scale}-seed{options.seed}" / "bundle"
    if not made.is_dir():
        raise InputError(
            f"no bundle in {made}; make one with `make capstone SCALE={options.scale}`"
        )
    champion = bundle.load((made / "champion").resolve())
    with (
        tempfile.TemporaryDirectory(prefix="feed-") as folder,
        live(
            [champion],
            (made / "store").resolve(),
            (made / "users.json").resolve(),
            folder=Path(folder),
            port=options.port,
        ) as service,
    ):
        print(f"bundle {champion.version} on {service.url}; Ctrl-C stops it\n")
        print(f'curl -s {service.url}/feed -H "Authorization: Bearer {service.token}" \\')
        print("  -H 'Content-Type: application/json' -d '{\"user_id\": 1}'", flush=True)
        while service.gateway.poll() is None:
            time.sleep(0.5)
        raise RunError(f"the gateway ended:\n{service.gateway.tail()}")


if __name__ == "__main__":
    sys.exit(main())
