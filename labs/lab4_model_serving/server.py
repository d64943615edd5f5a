"""The lab's own model server: HTTP, one queue a version, batches, answers that say their version.

An ASGI application under uvicorn. The event loop parses requests and fills queues; ONNX Runtime
runs batches on a thread, without the interpreter's lock. Start one with :func:`serve_bundle`, or
by hand: ``python -m labs.lab4_model_serving.server --bundle FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common.errors import InputError, RunError
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised
from labs.lab4_model_serving.batcher import DeadlinePassed, QueueFull
from labs.lab4_model_serving.bundle import read_bundle
from labs.lab4_model_serving.management import is_management, respond
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.protocol import (
    HttpError,
    Limits,
    answer_body,
    check_token,
    error_body,
    route_of,
    text_of,
    too_large,
)
from labs.lab4_model_serving.versions import BatchSettings, LiveModel

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
TOKEN = "SERVING_TOKEN"
MANAGEMENT_TOKEN = "SERVING_MANAGEMENT_TOKEN"
REPOSITORY = Path(__file__).resolve().parents[2]


class ModelServer:
    """The ASGI application.

    Parameters
    ----------
    model
        The live versions.
    token, management_token
        What a prediction and a change of traffic must carry.
    """

    def __init__(
        self, model: LiveModel, *, token: str, management_token: str, limits: Limits | None = None
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self._token, self._management_token = token, management_token

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.model.drain()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        request_id = _request_id(headers)
        try:
            body, extra = await self._respond(scope, headers, request_id, receive)
            status = 200
        except HttpError as error:
            body, extra, status = error_body(error, request_id), error.headers, error.status
        except Exception as error:  # a bug must not look like a hung connection
            print(f"error: {request_id}: {error!r}", file=sys.stderr, flush=True)
            failure = HttpError(500, "internal error")
            body, extra, status = error_body(failure, request_id), {}, 500
        await _send(send, status, body, {**extra, "X-Request-Id": request_id})

    async def _respond(
        self,
        scope: dict[str, Any],
        headers: Mapping[str, bytes],
        request_id: str,
        receive: Receive,
    ) -> tuple[bytes, dict[str, str]]:
        path, method = scope["path"], scope["method"]
        if route := route_of(path):
            if method != "POST":
                raise HttpError(405, f"{method} is not allowed here, POST is", {"Allow": "POST"})
            check_token(_header(headers, "authorization"), self._token)
            if route.model != self.model.name:
                raise HttpError(404, f"no model {route.model[:50]!r}")
            content = await self._body(headers, receive)
            text = text_of(content, _header(headers, "content-type"), self.limits)
            # Between the choice and the queue nothing is awaited: no version leaves in between.
            version = self.model.choose(_header(headers, "x-user") or request_id, route.version)
            return await self._predict(text, version, request_id, counted=not route.version)
        if path == "/ping":
            return b'{"status": "alive"}', {}
        if is_management(path):
            check_token(_header(headers, "authorization"), self._management_token)
            _status, found = await respond(
                self.model, method, path, await self._body(headers, receive)
            )
            return json.dumps(found).encode(), {}
        raise HttpError(404, f"nothing is at {path[:100]!r}")

    async def _predict(
        self, text: str, version: str, request_id: str, *, counted: bool
    ) -> tuple[bytes, dict[str, str]]:
        try:
            answer, _times = await self.model.predict(
                text, version, request_id=request_id, counted=counted
            )
        except QueueFull as full:
            wait = str(max(1, math.ceil(full.retry_after_s)))
            raise HttpError(503, "the queue is full", {"Retry-After": wait}) from None
        except DeadlinePassed:
            raise HttpError(504, "the request waited longer than its deadline") from None
        return answer_body(answer, version), {"X-Model-Version": version}

    async def _body(self, headers: Mapping[str, bytes], receive: Receive) -> bytes:
        length = _header(headers, "content-length")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            raise too_large(self.limits)
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "the client went away")
            body += message.get("body", b"")
            if len(body) > self.limits.body_bytes:
                raise too_large(self.limits)
            if not message.get("more_body"):
                return body


async def _send(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    fields += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _header(headers: Mapping[str, bytes], name: str) -> str:
    return headers.get(name, b"").decode("latin-1")


def _request_id(headers: Mapping[str, bytes]) -> str:
    given = _header(headers, "x-request-id")
    if 0 < len(given) <= 64 and given.isascii() and given.replace("-", "").isalnum():
        return given
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Server:
    """A running server. Made by :func:`serve_bundle`."""

    url: str
    name: str
    token: str
    management_token: str
    child: Child
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        """What a prediction must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    def prediction_url(self, version: str = "") -> str:
        return f"{self.url}/predictions/{self.name}" + (f"/{version}" if version else "")

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Change the share of requests that each version gets."""
        answer = httpx.put(
            f"{self.url}/models/{self.name}",
            json={"weights": dict(weights)},
            headers={"Authorization": f"Bearer {self.management_token}"},
            trust_env=False,
        )
        if answer.is_client_error:
            raise InputError(answer.json()["error"]["message"])
        answer.raise_for_status()


@contextmanager
def serve_bundle(
    bundles: Path | Sequence[Path],
    *,
    folder: Path,
    port: int | None = None,
    device: str = "cpu",
    threads: int = 1,
    settings: BatchSettings | None = None,
    model_store: Path | None = None,
    delays: Mapping[str, float] | None = None,
    start_timeout: float = 60,
) -> Iterator[Server]:
    """Serve bundles of one model (several versions) until the block ends.

    The first bundle gets all requests that name no version.

    Parameters
    ----------
    folder
        Receives ``server.log``.
    port
        On 127.0.0.1; None picks a free one.
    model_store
        Folder that bundles may be loaded from while the server runs; None switches that off.
    delays
        Version to seconds that each of its runs is delayed by, a fault put in on purpose.

    Raises
    ------
    InputError
        A broken bundle, bundles of different models, a port in use.
    RunError
        The server did not start.
    """
    paths = [bundles] if isinstance(bundles, Path) else list(bundles)
    names = {read_bundle(path).name for path in paths}
    if len(names) != 1:
        raise InputError(f"one server serves one model; the bundles are of {sorted(names)}")
    if port:
        require_port_free(port, "the model server")
    port = port or free_port()
    settings = settings or BatchSettings()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    token, management_token = secrets.token_hex(16), secrets.token_hex(16)
    command = [sys.executable, "-m", "labs.lab4_model_serving.server", "--port", str(port)]
    command += ["--device", device, "--threads", str(threads)]
    command += ["--settings", json.dumps(vars(settings))]
    for path in paths:
        command += ["--bundle", str(path.resolve())]
    if model_store:
        command += ["--model-store", str(model_store.resolve())]
    for version, seconds in (delays or {}).items():
        command += ["--delay", f"{version}={seconds}"]
    env = {**os.environ, TOKEN: token, MANAGEMENT_TOKEN: management_token}
    env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with supervised(command, log=log, env=env, name="model server") as child:
        server = Server(
            f"http://{LOOPBACK}:{port}", names.pop(), token, management_token, child, log
        )
        _wait_until_it_answers(server, start_timeout)
        yield server


def _wait_until_it_answers(server: Server, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            if httpx.get(f"{server.url}/ping", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        if server.child.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"the model server did not start:\n{server.child.tail(20)}")
        time.sleep(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import gc

    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.server")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--model-store", type=Path, help="allow loading bundles from this folder")
    parser.add_argument(
        "--delay", action="append", default=[], metavar="VERSION=SECONDS", help="inject a fault"
    )
    options = parser.parse_args(arguments)
    settings = BatchSettings(**options.settings)
    try:
        predictors = [
            Predictor(folder, device=options.device, threads=options.threads)
            for folder in options.bundle
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    model = LiveModel(
        predictors[0].bundle.name,
        settings=settings,
        store=options.model_store,
        delays={each.partition("=")[0]: float(each.partition("=")[2]) for each in options.delay},
        device=options.device,
        threads=options.threads,
    )
    for i, predictor in enumerate(predictors):
        predictor.predict(["warm up"])
        model.add(predictor, settings, weight=1.0 if i == 0 else 0.0)
    token = os.environ.get(TOKEN) or secrets.token_hex(16)
    management = os.environ.get(MANAGEMENT_TOKEN) or secrets.token_hex(16)
    if TOKEN not in os.environ:
        print(f"token: {token}\nmanagement token: {management}", flush=True)
    app = ModelServer(model, token=token, management_token=management)
    gc.freeze()  # what lives as long as the server is not looked at by every collection
    uvicorn.run(
        app,
        host=LOOPBACK,
        port=options.port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
