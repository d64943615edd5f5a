"""The bundle as a LitServe application. Started by ``lit_serve.py`` in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import litserve

from labs.lab4_model_serving import protocol
from labs.lab4_model_serving.bundle import read_bundle
from labs.lab4_model_serving.bundle_server import TOKEN
from labs.lab4_model_serving.length_runs import predict_in_runs
from labs.lab4_model_serving.predictor import Predictor

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BundleAPI(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe asks for: a model, and what to do with a batch of requests."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def setup(self, device: str) -> None:
        """In each worker, before it counts as ready."""
        self.predictor = Predictor(self.folder)
        self.predictor.predict(["the first run is slow: not at a user's expense"])

    # LitServe takes annotations of the next and the last hook for FastAPI's request and response.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The text; :class:`Contract` has checked it."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """As they are: a predictor takes a list."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Answers of texts [n]; of one text with ``max_batch_size=1``."""
        found = predict_in_runs(self.predictor, [x] if isinstance(x, str) else x)
        version = self.predictor.version
        answers = [
            {"label": each.label, "probability": each.probability, "version": version}
            for each in found
        ]
        return answers[0] if isinstance(x, str) else answers

    def unbatch(self, output: list[Any]) -> list[Any]:
        """One answer a request."""
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """As it is."""
        return output


class Contract:
    """ASGI middleware: who may ask what, and how many at once."""

    def __init__(self, app: Any, *, name: str, version: str, token: str, max_queued: int) -> None:
        self.app = app
        self.name, self.version, self.token = name, version, token
        self.max_queued, self.in_hand = max_queued, 0
        self.limits = protocol.Limits()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        request_id = headers.get("x-request-id", "")[:64] or secrets.token_hex(8)
        ours = [
            (b"x-request-id", request_id.encode("latin-1")),
            (b"x-model-version", self.version.encode()),
        ]
        try:
            body = await self._body(scope, headers, receive)
            protocol.text_of(body, headers.get("content-type", ""), self.limits)
            if self.in_hand >= self.max_queued:
                raise protocol.HttpError(503, "the queue is full", {"Retry-After": "1"})
        except protocol.HttpError as error:
            content = protocol.error_body(error, request_id)
            length = str(len(content))
            extra = {**error.headers, "content-type": protocol.JSON, "content-length": length}
            encoded = [(key.lower().encode(), value.encode()) for key, value in extra.items()]
            start = {"type": "http.response.start", "status": error.status}
            await send({**start, "headers": ours + encoded})
            await send({"type": "http.response.body", "body": content})
            return

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        self.in_hand += 1
        try:
            await self.app({**scope, "path": "/predict"}, again, marked)
        finally:
            self.in_hand -= 1

    async def _body(self, scope: Message, headers: dict[str, str], receive: Receive) -> bytes:
        """What may be read of a request that may be served; else HttpError."""
        route = protocol.route_of(scope["path"])
        if route is None:
            raise protocol.HttpError(404, f"nothing is at {scope['path'][:100]!r}")
        if scope["method"] != "POST":
            raise protocol.HttpError(405, "POST is needed here", {"Allow": "POST"})
        protocol.check_token(headers.get("authorization", ""), self.token)
        if route.model != self.name or route.version not in ("", self.version):
            raise protocol.HttpError(404, f"no model at {scope['path'][:100]!r}")
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.body_bytes:
                raise protocol.too_large(self.limits)
        return bytes(body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM: ``python -m labs.lab4_model_serving.lit_app OPTIONS`` (JSON)."""
    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.lit_app")
    parser.add_argument("options", type=json.loads)
    options = parser.parse_args(arguments).options
    bundle = read_bundle(Path(options["bundle"]))
    api = BundleAPI(
        bundle.folder,
        max_batch_size=options["max_batch"],
        batch_timeout=options["max_batch_delay_ms"] / 1000,
    )
    contract = {
        "name": bundle.name,
        "version": bundle.version,
        "token": os.environ[TOKEN],
        "max_queued": options["max_queued"],
    }
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=options["workers"],
        middlewares=[(Contract, contract)],
        disable_openapi_url=True,
    )
    server.run(
        host="127.0.0.1",
        port=options["port"],
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
