"""What every HTTP request meets before a route does: token, size, trace, metrics, access log.

FastAPI would read the body first and ask for the token then, so anybody could send as much as they
like. It also costs more than a whole feed's arithmetic: the two routes that take the traffic,
``POST /feed`` and ``POST /events``, are answered here from their bytes, and FastAPI has the rest.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from capstone.service_metrics import ServiceMetrics
from labs.lab4_model_serving.json_logs import AccessLog
from labs.lab4_model_serving.protocol import HttpError, Token

Model = TypeVar("Model", bound=BaseModel)
BODY_BYTES = 16_384
OPEN = frozenset({"/", "/health", "/ready", "/metrics"})
"""Paths without a token; so are those below ``/static/``."""
ADMIN = frozenset(
    {("PUT", "/experiment"), ("POST", "/bundles"), ("POST", "/interleaved"), ("PUT", "/withdrawn")}
)
ROUTES = frozenset(
    f"/{name}"
    for name in (
        "", "feed", "events", "experiment", "bundles", "withdrawn", "users", "stages", "health",
        "ready", "metrics", "openapi.json",
    )
)  # fmt: skip
"""Values of the metrics' label ``route``; everything else is ``other``."""
SHOWN = 60
"""Characters of a refused value that a message repeats."""
TRACE = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
JSON_HEADER = (b"content-type", b"application/json")


@dataclass
class Exchange:
    """One request on its way; what the access log will say of it.

    ``traceparent`` is the client's, or begins here (W3C Trace Context).
    """

    method: str
    path: str
    began: float
    trace_id: str
    admin: bool = False
    """Whether the administrator's token came with it."""
    fields: dict[str, Any] = field(default_factory=dict)


Route = Callable[[bytes, Exchange], Awaitable[bytes]]
"""Body to JSON; raises HttpError."""


class Gate:
    """The ASGI application: routes of bytes, and another application behind them.

    Parameters
    ----------
    hot
        (method, path) to a route that is answered here.
    app
        Gets all other requests.
    token, admin_token
        What clients must send as ``Authorization: Bearer``; the admin's is good for everything.
    """

    def __init__(
        self,
        hot: dict[tuple[str, str], Route],
        app: Any,
        *,
        token: str,
        admin_token: str,
        metrics: ServiceMetrics,
        access: AccessLog | None,
    ) -> None:
        self._hot, self._app, self._access = hot, app, access
        self._token, self._admin = Token(token), Token(admin_token)
        self._requests = metrics.requests
        self._children: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        exchange = Exchange(scope["method"], scope["path"], began, _trace_id(headers))
        route = self._hot.get((exchange.method, exchange.path))
        status = 500

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._authorise(exchange, headers)
            _check_length(headers)
            if route is None:
                await self._app(scope, _limited(receive), sending)
                return
            require_json(headers.get(b"content-type", b"").decode("latin-1"))
            answer = await route(await _body(receive), exchange)
            status = 200
            await _send(send, 200, answer, exchange.trace_id)
        except HttpError as error:
            status = error.status
            body = orjson.dumps({"detail": error.message})
            await _send(send, status, body, exchange.trace_id, error.headers)
        finally:
            self._count(exchange, status)

    def _authorise(self, exchange: Exchange, headers: dict[bytes, bytes]) -> None:
        path = exchange.path
        if path in OPEN or path.startswith("/static/"):
            return
        given = headers.get(b"authorization", b"")
        try:
            self._admin.check(given)
            exchange.admin = True
        except HttpError:
            self._token.check(given)
            if (exchange.method, path) in ADMIN:
                raise HttpError(403, "this needs the admin's token, not a client's") from None

    def _count(self, exchange: Exchange, status: int) -> None:
        path = exchange.path
        name = path if path in ROUTES else "/static" if path.startswith("/static/") else "other"
        key = (name, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(name, str(status))
        child.inc()
        if self._access is not None and name not in ("/health", "/ready", "/metrics"):
            self._access.write(
                request_id=exchange.fields.pop("request_id", exchange.trace_id),
                trace_id=exchange.trace_id,
                method=exchange.method,
                route=name,
                status=status,
                total_ms=1000 * (time.perf_counter() - exchange.began),
                **exchange.fields,
            )


def parsed(model: type[Model], body: bytes) -> Model:
    """A body as a model.

    Raises
    ------
    HttpError
        400 for what is no JSON, 422 for JSON that does not fit; the message names the fields, their
        values and what they must be.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        if faults[0]["type"] == "json_invalid":
            raise HttpError(400, f"the body is no JSON: {faults[0]['msg'][:200]}") from None
        raise HttpError(422, "; ".join(map(_told, faults))[:1000]) from None


def _told(fault: Mapping[str, Any]) -> str:
    """Field, value and what it must be: ``k = 51: Input should be less than or equal to 50``."""
    name = ".".join(map(str, fault["loc"])) or "body"
    given = fault["input"]
    if isinstance(given, str | int | float) and fault["type"] != "extra_forbidden":
        shown = repr(given)
        name += f" = {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}"


def require_json(content_type: str) -> None:
    """Raise 415 unless a content type, with or without parameters, is JSON's."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HttpError(415, f"Content-Type must be application/json, not {content_type[:SHOWN]!r}")


def _trace_id(headers: dict[bytes, bytes]) -> str:
    found = TRACE.fullmatch(headers.get(b"traceparent", b""))
    if found and found[1] != b"0" * 32:
        return found[1].decode()
    return secrets.token_hex(16)


def _check_length(headers: dict[bytes, bytes]) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_BYTES:
        raise _too_long()


def _too_long() -> HttpError:
    return HttpError(413, f"the body must be at most {BODY_BYTES} bytes")


def _limited(receive: Any) -> Any:
    """The same messages, up to a body's limit: one sent in chunks names no length before."""
    size = 0

    async def limited() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > BODY_BYTES:
            raise _too_long()
        return message

    return limited


async def _body(receive: Any) -> bytes:
    limited = _limited(receive)
    message = await limited()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await limited()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise HttpError(400, "the client went away")
    return body


async def _send(
    send: Any, status: int, body: bytes, trace_id: str, headers: dict[str, str] | None = None
) -> None:
    sent = [JSON_HEADER, (b"content-length", b"%d" % len(body)), (b"x-trace-id", trace_id.encode())]
    for name, value in (headers or {}).items():
        sent.append((name.lower().encode(), value.encode("latin-1", "replace")))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
