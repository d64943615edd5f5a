"""A client of the server's management routes: what a rollout controller and an operator call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from common.errors import InputError, RunError
from labs.lab4_model_serving.rollout_policy import Window


@dataclass(frozen=True)
class Windows:
    """Version to what was seen of it since the window ``id`` began."""

    id: str
    versions: Mapping[str, Window]

    def of(self, version: str) -> Window:
        """An empty window for a version that has seen nothing."""
        return self.versions.get(version, Window())


class ManagementClient:
    """Every method is one request with the management token.

    Raises
    ------
    InputError
        The server refused (4xx); the message is its own.
    RunError
        The server could not be reached, or failed (5xx).
    """

    def __init__(self, url: str, model: str, token: str, *, timeout: float = 10.0) -> None:
        self._model = f"/models/{model}"
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=timeout,
        )

    def close(self) -> None:
        self._client.close()

    def state(self) -> dict[str, Any]:
        """Live versions and weights."""
        return self._ask("GET", self._model)

    def set_weights(self, weights: Mapping[str, float], *, salt: str | None = None) -> None:
        """Give every version its share, all at once; with a salt, draw the users anew."""
        content: dict[str, Any] = {"weights": dict(weights)}
        self._ask("PUT", self._model, content if salt is None else {**content, "salt": salt})

    def begin_window(self, slow_ms: float) -> str:
        """Forget what was seen; the new window's id."""
        return str(self._ask("POST", f"{self._model}/windows", {"slow_ms": slow_ms})["id"])

    def windows(self) -> Windows:
        """What was seen so far."""
        found = self._ask("GET", f"{self._model}/windows")
        versions = {version: Window(**window) for version, window in found["versions"].items()}
        return Windows(found["id"], versions)

    def feedback(self, labels: Sequence[tuple[str, str]]) -> int:
        """Tell true labels, (request id, label); how many answers were still known."""
        content = [{"request_id": request_id, "label": label} for request_id, label in labels]
        return int(self._ask("POST", "/feedback", {"feedback": content})["counted"])

    def load(self, bundle: str) -> None:
        """Load a bundle of the store; it gets no requests yet."""
        self._ask("POST", f"{self._model}/versions", {"bundle": bundle})

    def unload(self, version: str) -> None:
        """Return when a version has given its last answer and is gone."""
        self._ask("DELETE", f"{self._model}/versions/{version}")

    def set_shadow(self, version: str, share: float) -> None:
        """Send copies of a share of the requests to a live version."""
        self._ask("PUT", f"{self._model}/shadow", {"version": version, "share": share})

    def shadow(self) -> dict[str, Any]:
        """What the shadow's answers were like (see :class:`shadow.ShadowReport`)."""
        return self._ask("GET", f"{self._model}/shadow")

    def stop_shadow(self) -> None:
        """Copy nothing more."""
        self._ask("DELETE", f"{self._model}/shadow")

    def _ask(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, json=content)
        except httpx.TransportError as error:
            raise RunError(f"{method} {path}: the server cannot be reached: {error!r}") from error
        if answer.is_client_error:
            raise InputError(f"{method} {path}: {_message(answer)}")
        if not answer.is_success:
            raise RunError(f"{method} {path}: {_message(answer)}")
        found: dict[str, Any] = answer.json()
        return found


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}: {answer.text[:200]}"
