"""A stand-in for a model server: the same wire format, no model, a known service time.

``python -m labs.lab4_model_serving.echo_replica --port 8080 --service-ms 2``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from common.ports import LOOPBACK

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Echo:
    """ASGI application: answers after ``service_s``, or 503 when its queue is full."""

    def __init__(self, port: int, service_s: float, concurrency: int, queue: int) -> None:
        self.name = str(port).encode()
        self.service_s = service_s
        self.slots = asyncio.Semaphore(concurrency)
        self.limit = concurrency + queue
        self.inside = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/ping":
            return await self._answer(scope, send, 200, {"status": "alive"})
        if self.inside >= self.limit:
            full = {"error": {"code": 503, "message": "the queue is full", "request_id": ""}}
            return await self._answer(scope, send, 503, full)
        self.inside += 1
        try:
            async with self.slots:
                await asyncio.sleep(self.service_s)
        finally:
            self.inside -= 1
        await self._answer(scope, send, 200, {"label": "echo", "probability": 1.0, "version": "1"})

    async def _answer(
        self, scope: dict[str, Any], send: Send, status: int, content: dict[str, Any]
    ) -> None:
        body = json.dumps(content).encode()
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id),
            (b"x-replica", self.name),
        ]
        if status == 503:
            headers.append((b"retry-after", b"2"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; what was accepted is answered first."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.echo_replica")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--service-ms", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--queue", type=int, default=100)
    options = parser.parse_args(arguments)
    app = Echo(options.port, options.service_ms / 1000, options.concurrency, options.queue)
    uvicorn.run(app, host=LOOPBACK, port=options.port, access_log=False, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
