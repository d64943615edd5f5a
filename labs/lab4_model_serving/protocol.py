"""The wire format of every server in this lab: what a request may be, and what an error says.

Nothing here knows of sockets or models. A request is checked in full before it may cost a place
in a queue, and every refusal is a status, a message for the client, and headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hmac import compare_digest

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


@dataclass(frozen=True)
class Route:
    """``/predictions/<model>[/<version>]``; ``version`` is empty when the server may choose."""

    model: str
    version: str = ""


def route_of(path: str) -> Route | None:
    """The prediction that a path asks for; None for another path."""
    parts = path.split("/")
    if len(parts) in (3, 4) and parts[:2] == ["", "predictions"] and all(parts[2:]):
        return Route(*parts[2:])
    return None


def check_token(authorization: str, token: str) -> None:
    """Raise 401 unless the header is ``Bearer <token>``; in the same time for any wrong one."""
    scheme, _, given = authorization.partition(" ")
    right = compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        what = "the token is not valid" if given else "a token is needed: Authorization: Bearer ..."
        raise HttpError(401, what, {"WWW-Authenticate": "Bearer"})


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
    """The JSON of an answer."""
    content = {"label": answer.label, "probability": answer.probability, "version": version}
    return json.dumps(content).encode()


def error_body(error: HttpError, request_id: str) -> bytes:
    """The JSON of a refusal."""
    content = {"code": error.status, "message": error.message, "request_id": request_id}
    return json.dumps({"error": content}).encode()


@dataclass(frozen=True)
class Times:
    """Where the time of one request went (s)."""

    queue_s: float = 0.0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    batch: int = field(default=0)
    """Requests in the batch that it was part of."""
