"""The wire format of every server in this lab: what a request may be, and what an error says.

Nothing here knows of sockets or models. A request is checked in full before it may cost a place
in a queue, and every refusal is a status, a message for the client, and headers.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hmac import compare_digest
from typing import Any
from urllib.parse import unquote_to_bytes

from labs.lab4_model_serving.predictor import Answer

JSON = "application/json"


@dataclass(frozen=True)
class Limits:
    """What one request may be."""

    body_bytes: int = 16_384
    characters: int = 4000


class HttpError(Exception):
    """A refusal: ``status``, a message that goes to the client, and headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class Request:
    """A request that was read to its end. ``headers`` have names in lower case, as bytes."""

    __slots__ = ("arrived", "body", "headers", "id", "method", "target")

    def __init__(
        self, method: str, target: bytes, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.arrived = time.perf_counter()
        self.id = request_id(headers.get(b"x-request-id", b""))

    def header(self, name: bytes) -> str:
        """A header's value; empty without one."""
        return self.headers.get(name, b"").decode("latin-1")


@dataclass(slots=True)
class Response:
    """An answer; ``close`` ends the connection after it."""

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()
    close: bool = False


_START = secrets.token_hex(4)
_numbers = itertools.count(1)


def request_id(given: bytes) -> str:
    """The id that a client gave, if it is short and harmless in a log; else a new one."""
    if 0 < len(given) <= 64 and given.replace(b"-", b"").isalnum():
        return given.decode("ascii")
    return f"{_START}-{next(_numbers):x}"


def name_of(given: bytes) -> str:
    """The name by which a client or user calls itself; empty if it is none to keep in a table."""
    if 0 < len(given) <= 64 and given.isascii() and given.decode("ascii").isprintable():
        return given.decode("ascii")
    return ""


@dataclass(frozen=True)
class Route:
    """``/predictions/<model>[/<version>]``; ``version`` is empty when the server may choose."""

    model: str
    version: str = ""


def route_of(path: str) -> Route | None:
    """The prediction that a decoded path asks for; None for another path."""
    parts = path.split("/")
    if len(parts) in (3, 4) and parts[:2] == ["", "predictions"] and all(parts[2:]):
        return Route(*parts[2:])
    return None


@dataclass(frozen=True)
class Target:
    """What a request line asks for. ``path`` is decoded; a decoded slash is no separator."""

    path: str
    route: Route | None


@lru_cache(maxsize=1024)
def parse_target(target: bytes) -> Target:
    """The path of a request's target, without query and percent-decoded.

    Raises
    ------
    HttpError
        400: not a path, half an escape, an escape that is not UTF-8, a NUL or a control character.
    """
    if target.startswith((b"http://", b"https://")):  # the absolute form, which a proxy gets
        target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
    raw = target.partition(b"?")[0].partition(b"#")[0]
    if not raw.startswith(b"/"):
        raise HttpError(400, "the target must be a path")
    parts = [_segment(part) for part in raw.split(b"/")]
    path = "/".join(part.replace("/", "%2F") for part in parts)
    return Target(path, route_of(path))


def _segment(part: bytes) -> str:
    escapes = part.split(b"%")[1:]
    if any(len(e) < 2 or not all(c in b"0123456789abcdefABCDEF" for c in e[:2]) for e in escapes):
        raise HttpError(400, "the path holds half an escape: % needs two hexadecimal digits")
    try:
        text = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise HttpError(400, "the path is not UTF-8") from None
    if not text.isprintable():
        raise HttpError(400, "the path holds a control character")
    return text


class Token:
    """A secret that a request must carry, with or without an end.

    Parameters
    ----------
    expires
        Seconds since 1970; infinite by default.
    """

    def __init__(self, value: str, *, expires: float = math.inf) -> None:
        self._value, self.expires = value.encode(), expires
        self._header = b"Bearer " + self._value

    def check(self, authorization: bytes) -> None:
        """Raise 401 unless the header is ``Bearer <token>``; in the same time for any wrong one."""
        right = compare_digest(authorization, self._header)  # what nearly all clients send
        if not right:
            scheme, _, given = authorization.partition(b" ")
            right = compare_digest(given.strip(), self._value) and scheme.lower() == b"bearer"
            if not right:
                raise _unauthorized(
                    "the token is not valid"
                    if given
                    else "a token is needed: Authorization: Bearer ..."
                )
        if self.expires < math.inf and time.time() >= self.expires:
            raise _unauthorized("the token has expired")


def _unauthorized(message: str) -> HttpError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return HttpError(401, message, {"WWW-Authenticate": challenge})


def check_token(authorization: str, token: str) -> None:
    """:meth:`Token.check` for a token without an end, and a header as text."""
    Token(token).check(authorization.encode("utf-8", "surrogateescape"))


def text_of(body: bytes, content_type: str, limits: Limits) -> str:
    """The text of a request's body.

    Raises
    ------
    HttpError
        415 (not JSON by its content type), 413 (too long), 400 (not UTF-8, not JSON, no text).
    """
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise HttpError(415, f"Content-Type must be {JSON}, not {content_type[:100]!r}")
    if len(body) > limits.body_bytes:
        raise too_large(limits)
    try:
        content = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the body is not JSON: {str(error)[:200]}") from None
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise HttpError(400, 'expected {"text": "..."}')
    if len(text) > limits.characters:
        raise HttpError(
            413, f"the text has {len(text)} characters, the limit is {limits.characters}"
        )
    if not text.strip():
        raise HttpError(400, "the text is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise HttpError(400, "the text holds half a character (a lone surrogate)") from None
    return text


def too_large(limits: Limits) -> HttpError:
    """413 for a body above the limit, known from its length or while it is read."""
    return HttpError(413, f"the body is above {limits.body_bytes} bytes", {"Connection": "close"})


def answer_body(answer: Answer, version: str) -> bytes:
    """The JSON of an answer. Raises ValueError when the model gave NaN: that is no probability."""
    if not 0 <= answer.probability <= 1:
        raise ValueError(f"the model gave the probability {answer.probability}")
    return (
        f'{{"label": {_quoted(answer.label)}, "probability": {answer.probability!r}, '
        f'"version": {_quoted(version)}}}'
    ).encode()


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return json.dumps(text)


def json_response(content: Any, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(status, json.dumps(content).encode(), (("content-type", JSON),))


def error_body(error: HttpError, request_id: str) -> bytes:
    """The JSON of a refusal."""
    content = {"code": error.status, "message": error.message, "request_id": request_id}
    return json.dumps({"error": content}).encode()


def error_response(error: HttpError, request_id: str) -> Response:
    """The answer of a refusal. ``Connection: close`` among its headers ends the connection."""
    headers = [("content-type", JSON), ("x-request-id", request_id)]
    close = False
    for name, value in error.headers.items():
        if name.lower() == "connection":
            close = value == "close"
        else:
            headers.append((name, value))
    return Response(error.status, error_body(error, request_id), headers, close)


@dataclass(frozen=True)
class Times:
    """Where the time of one request went (s)."""

    queue_s: float = 0.0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    batch: int = field(default=0)
    """Requests in the batch that it was part of."""
