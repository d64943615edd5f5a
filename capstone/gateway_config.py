"""What a gateway is told: bundles, folders, deadlines, limits. Secrets come by environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from capstone.feed import DEADLINES_MS
from common.errors import InputError, require
from common.ports import LOOPBACK

MAX_ARMS = 16


@dataclass(frozen=True)
class GatewayConfig:
    """What the gateway serves. Bundle ``i`` is arm and variant ``i`` of the experiment."""

    bundles: list[str]
    users: str
    """``users.json``: the histories that come with the bundles."""
    log: str
    """Folder of the event log."""
    port: int
    host: str = LOOPBACK
    scorer_url: str = ""
    """Of TorchServe; empty scores in this process."""
    in_process: tuple[int, ...] = ()
    """Variants that are scored in this process although there is a TorchServe."""
    posts_under_way: int = 2
    """POSTs to TorchServe at a time, of each version: one for each of its workers, and one that is
    ready when a worker has finished."""
    scorer_token_file: str = ""
    """File with TorchServe's token, read again when it was refused; else SCORER_TOKEN is used."""
    state: str = ""
    """SQLite file of user state; by default ``state.sqlite`` in the folder of the event log."""
    redis_url: str = ""
    """Keeps user state in Redis instead."""
    access_log: str = ""
    """File of the access log; none without it."""
    access_sample: float = 0.1
    """Share of the ordinary requests in the access log; slow and failed ones always are."""
    bundle_root: str = ""
    """Folder below which ``POST /bundles`` may load; empty switches it off."""
    experiment: str = "feed"
    arms: tuple[str, ...] = ()
    """Names of the arms; ``control``, ``treatment``, ``arm-2``, ... by default."""
    weights: tuple[float, ...] = (1.0,)
    coverage: float = 1.0
    deadlines_ms: Mapping[str, float] = field(default_factory=lambda: dict(DEADLINES_MS))
    most_in_flight: int = 256
    """Feeds under way at once; one more is answered 503 with Retry-After."""
    breaker_failures: int = 10
    """In a row, before the ranker is not asked for ``breaker_cooldown_s``. A pause of this process
    or of Java makes those under way miss together: fewer would open it for a hiccup."""
    breaker_cooldown_s: float = 0.5
    roll_s: float = 300.0
    """Seconds between two moves of the event log to Parquet."""
    drain_s: float = 0.0
    """Seconds after SIGTERM in which requests are still taken while ``/ready`` says no."""
    page: str = ""
    """Folder of the web page; the one beside this file by default."""
    seed: int = 0
    """Of exploration."""

    def __post_init__(self) -> None:
        require(1 <= len(self.bundles) <= MAX_ARMS, "bundles", len(self.bundles), "must be 1 to 16")
        for what, given in (("weights", self.weights), ("arms", self.arms)):
            require(
                len(given) in ((0, len(self.bundles)) if what == "arms" else (len(self.bundles),)),
                what, given, f"must be {len(self.bundles)}, one a bundle",
            )  # fmt: skip
        require(
            len(set(self.names)) == len(self.bundles), "arms", self.arms, "must be different names"
        )
        wanted = set(DEADLINES_MS)
        require(
            set(self.deadlines_ms) == wanted,
            "deadlines_ms", sorted(self.deadlines_ms), f"must be of {sorted(wanted)}",
        )  # fmt: skip
        for stage, limit in self.deadlines_ms.items():
            require(limit > 0, f"deadline of {stage}", limit, "must be > 0 ms")
        for name in ("most_in_flight", "breaker_failures", "posts_under_way"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be >= 1")
        for name in ("breaker_cooldown_s", "roll_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(self.drain_s >= 0, "drain_s", self.drain_s, "must be >= 0")
        require(
            0 < self.access_sample <= 1, "access_sample", self.access_sample, "must be in (0, 1]"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms, in the order of the bundles."""
        return self.arms or tuple(arm_name(number) for number in range(len(self.bundles)))

    @property
    def state_path(self) -> Path:
        return Path(self.state) if self.state else Path(self.log) / "state.sqlite"

    def write(self, path: Path) -> Path:
        """Write it as JSON for the owner alone: the address of a Redis may hold a password."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)
        return path

    @classmethod
    def read(cls, path: Path) -> GatewayConfig:
        """Read what :meth:`write` wrote.

        Raises
        ------
        InputError
            For a file that is absent, no JSON, or has an unknown or a bad value.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for name in ("arms", "weights", "in_process"):
                content[name] = tuple(content.get(name, ()))
            return cls(**content)
        except (OSError, json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path} is no configuration of a gateway: {error}") from error


def arm_name(number: int) -> str:
    """What arm ``number`` is called without a name of its own."""
    return ("control", "treatment")[number] if number < 2 else f"arm-{number}"
