"""What the servers of a bundle have in common: where one listens, and when it is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.errors import RunError
from common.process import Child

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "SERVING_TOKEN"


@dataclass(frozen=True)
class BundleServer:
    """A server of one bundle: where it listens and what a request must carry."""

    url: str
    name: str
    version: str
    token: str
    child: Child
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        """What a prediction must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    def prediction_url(self, version: str = "") -> str:
        """Where to POST requests."""
        return f"{self.url}/predictions/{self.name}" + (f"/{version}" if version else "")


def environment(token: str, extra: Mapping[str, str], *, without: str) -> dict[str, str]:
    """The environment of a server: the token, the repository on the path, one thread a process.

    ``without`` is a prefix of variables that are not inherited: a server is configured here alone.
    """
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(without)}
    return {
        **inherited,
        TOKEN: token,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **extra,
    }


def wait_until_it_answers(server: BundleServer, timeout: float) -> None:
    """Return when one prediction was answered 200.

    Raises
    ------
    RunError
        The process ended, or the time was up; with the end of its log.
    """
    deadline = time.monotonic() + timeout
    with httpx.Client(trust_env=False, timeout=10) as client:
        while True:
            try:
                answer = client.post(
                    server.prediction_url(), json={"text": "ready?"}, headers=server.headers
                )
                if answer.is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            name = server.child.name
            if (status := server.child.poll()) is not None:
                raise RunError(f"{name} ended with status {status}:\n{server.child.tail(30)}")
            if time.monotonic() > deadline:
                raise RunError(
                    f"{name} was not ready within {timeout:g} s:\n{server.child.tail(30)}"
                )
            time.sleep(0.1)
