"""Health probes of TorchServe that work with tokens on: alive and ready are two questions.

*Alive* asks whether to restart: does anything answer on the port? Whatever the status, a process
that refuses a request is running. *Ready* asks whether to send traffic: is every worker loaded,
and does a real prediction come back? A server that loads its model is alive and not ready; an
orchestrator that restarts it then never lets it finish.

``python -m labs.lab4_model_serving.health ready --url http://127.0.0.1:8080`` exits with 0 or 1,
for an ``exec`` probe; the token is read from ``SERVING_TOKEN`` so that it shows in no process list.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

TOKEN = "SERVING_TOKEN"


@dataclass(frozen=True)
class Health:
    """What a probe found; ``detail`` says why it is not ready."""

    alive: bool
    ready: bool
    detail: str


def probe(
    url: str,
    headers: Mapping[str, str],
    *,
    predict: tuple[str, Any] | None = None,
    timeout: float = 1.0,
) -> Health:
    """Ask a TorchServe for its health.

    Parameters
    ----------
    url
        Of the inference API.
    headers
        With the inference token. Without it ``/ping`` answers 400, and here that is said.
    predict
        A path such as ``"/predictions/intents"`` and a JSON payload: ready only when it is
        answered 200. ``/ping`` alone says "Healthy" while a model has no worker at all.
    timeout
        Seconds for each of the two requests. Shorter than the orchestrator's own.
    """
    with httpx.Client(trust_env=False, timeout=timeout, headers=dict(headers)) as client:
        try:
            ping = client.get(f"{url}/ping")
        except httpx.TimeoutException:
            return Health(False, False, f"no answer from {url} in {timeout:g} s")
        except httpx.TransportError as error:
            return Health(False, False, f"nothing answers at {url}: {error}")
        said = _said(ping)
        if ping.status_code == 400:
            return Health(True, False, f"/ping answered 400 ({said}): is the token missing?")
        if not ping.is_success or said != "Healthy":
            return Health(True, False, f"/ping answered {ping.status_code}: {said}")
        if predict is None:
            return Health(True, True, "")
        path, payload = predict
        try:
            answer = client.post(f"{url}{path}", json=payload)
        except httpx.TransportError as error:
            return Health(True, False, f"{path} did not answer: {error!r}")
        if not answer.is_success:
            return Health(True, False, f"{path} answered {answer.status_code}: {_said(answer)}")
        return Health(True, True, "")


def _said(answer: httpx.Response) -> str:
    try:
        content = answer.json()
    except ValueError:
        return answer.text[:200]
    if not isinstance(content, dict):
        return str(content)[:200]
    return str(content.get("status") or content.get("message") or content)[:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the answer is yes, 1 when it is no."""
    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.health")
    parser.add_argument("question", choices=("alive", "ready"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", help="ready only when this model answers")
    parser.add_argument("--payload", type=json.loads, default={"text": "ready?"})
    parser.add_argument("--timeout", type=float, default=1.0)
    options = parser.parse_args(arguments)
    path = (f"/predictions/{options.model}", options.payload) if options.model else None
    token = os.environ.get(TOKEN, "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found = probe(options.url, headers, predict=path, timeout=options.timeout)
    fine = found.alive if options.question == "alive" else found.ready
    if not fine:
        print(found.detail, file=sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
