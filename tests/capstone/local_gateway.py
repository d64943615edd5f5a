"""A gateway in a process of its own, over the tiny bundle: real HTTP, no TorchServe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from capstone.bundle import Bundle
from capstone.gateway_config import GatewayConfig
from capstone.serving import gateway_process
from common.ports import free_port
from tests.capstone import tiny_bundle

TOKEN, ADMIN_TOKEN = "client-" + "t" * 16, "admin-" + "a" * 16


@dataclass(frozen=True)
class Gateway:
    """A running gateway; ``client`` and ``admin`` send their token."""

    url: str
    log: Path
    client: httpx.Client
    admin: httpx.Client

    @property
    def admin_header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN_TOKEN}"}

    def feed(self, user: int, **query: Any) -> dict[str, Any]:
        answer = self.client.post("/feed", json={"user_id": user, **query})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def watched(self, user: int) -> int:
        """Films in the user's history."""
        people = {each["user_id"]: each for each in self.client.get("/users").json()}
        return people[user]["watched"] if user in people else 0

    def count(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.samples_of(name))
            for sample in family.samples
            if labels.items() <= sample.labels.items()
        )

    def samples_of(self, name: str) -> str:
        """The lines of a scrape that are of this metric: parsing all of them costs more."""
        lines = self.client.get("/metrics").text.splitlines()
        return "".join(f"{line}\n" for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@contextmanager
def local_gateway(folder: Path, bundle: Bundle, **options: Any) -> Iterator[Gateway]:
    """Serve a bundle; ``options`` are of :class:`GatewayConfig`."""
    config = GatewayConfig(
        bundles=[str(bundle.folder)],
        users=str(tiny_bundle.write_users(folder / "users.json")),
        log=str(folder / "log"),
        port=free_port(),
        **options,
    )
    url = f"http://127.0.0.1:{config.port}"
    with (
        gateway_process(config, folder, token=TOKEN, admin_token=ADMIN_TOKEN),
        _client(url, TOKEN) as client,
        _client(url, ADMIN_TOKEN) as admin,
    ):
        yield Gateway(url, Path(config.log), client, admin)


def _client(url: str, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)
