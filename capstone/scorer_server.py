"""TorchServe for other machines: on loopback, behind a proxy that asks for a token of our own.

TorchServe makes new tokens at every start and is no longer maintained. Replicas with a token each
cannot stand behind one address, and its management API should not be one mistake away from a
network. So it stays on loopback, and this proxy, which knows four routes, is what is reached:

=============================  ==========  ====================================
``POST /predictions/ranker/V``   our token   forwarded with TorchServe's own token
``GET /health``                  open        the proxy answers
``GET /ready``                   open        TorchServe runs
``GET /metrics``                 open        TorchServe's own
=============================  ==========  ====================================
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import aiohttp
from aiohttp import web

from labs.lab4_model_serving.protocol import HttpError, Token

MOST_BYTES = 6_553_500
CONNECTIONS = 64
TIMEOUT_S = 10.0
FORWARDED = ("Content-Type", "Accept")
VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Upstream(Protocol):
    """The TorchServe behind the proxy (lab 4's ``TorchServe``)."""

    url: str
    token: str

    def alive(self) -> bool: ...

    def metrics(self) -> str: ...


def proxy(upstream: Upstream, token: str) -> web.Application:
    """The application.

    Parameters
    ----------
    token
        What a request must send as ``Authorization: Bearer``; TorchServe's own never leaves.
    """
    asked = Token(token)
    client: list[aiohttp.ClientSession] = []

    async def connected(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, auto_decompress=False
        ) as session:
            client.append(session)
            yield

    async def predict(request: web.Request) -> web.StreamResponse:
        asked.check(request.headers.get("Authorization", "").encode("latin-1"))
        version = request.match_info["version"]
        if not VERSION.fullmatch(version):
            raise HttpError(404, "no such version")
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        headers["Authorization"] = f"Bearer {upstream.token}"
        try:
            async with client[0].post(
                f"{upstream.url}/predictions/ranker/{version}",
                data=await request.read(),
                headers=headers,
            ) as answer:
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers={"Content-Type": answer.headers.get("Content-Type", "text/plain")},
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HttpError(503, f"TorchServe did not answer: {type(error).__name__}") from error

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        alive = upstream.alive()
        return web.json_response({"ready": alive}, status=200 if alive else 503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=upstream.metrics(), content_type="text/plain")

    app = web.Application(client_max_size=MOST_BYTES, middlewares=[_refusals])
    app.cleanup_ctx.append(connected)
    app.add_routes(
        [
            web.post("/predictions/ranker/{version}", predict),
            web.get("/health", health),
            web.get("/ready", ready),
            web.get("/metrics", metrics),
        ]
    )
    return app


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except HttpError as error:
        return web.json_response(
            {"detail": error.message}, status=error.status, headers=dict(error.headers)
        )
