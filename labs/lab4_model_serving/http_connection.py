"""HTTP/1.1 over one connection: what a server must survive before it may think of models.

httptools (llhttp, the parser of Node.js) reads the bytes. This module adds what a parser does not
decide: limits of sizes, times and connections, the order of pipelined answers, closing without
losing the answer, and what happens to requests whose client is gone. There is no task, no timer
and no await for a request: a request is a callback, its answer another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from labs.lab4_model_serving.protocol import HttpError, Request, Response, error_response

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"x-request-id"})
"""Headers that may come once. Two of them are read differently by a proxy and by a server."""
PIPELINED = 32
"""Requests of a connection that wait for their answers; then reading stops."""
SPARE = 256
"""Connections above the limit that are told so; beyond them a connection is cut without a word."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may do to a connection."""

    connections: int = 1024
    """Open at once; one more is answered 503 and closed."""
    head_bytes: int = 16_384
    body_bytes: int = 16_384
    head_s: float = 5.0
    """From the first byte of a request to the end of its headers (slow-loris)."""
    body_s: float = 10.0
    """From the end of the headers to the end of the body."""
    idle_s: float = 75.0
    """Before the first request and between requests. Longer than clients keep a connection, so that
    they close first."""
    write_s: float = 10.0
    """A client that does not read its answers is cut off after this."""
    linger_s: float = 1.0
    """How long what a refused client still sends is read and thrown away. A close with unread
    bytes is a reset, which may overtake the answer."""


@dataclass
class Site:
    """What all connections of a server share."""

    handle: Callable[[Request, Slot], None]
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    connections: set[Connection] = field(default_factory=set)
    draining: bool = False
    closed_by_clock: int = 0
    date: bytes = b""

    def __post_init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        """Renew the date; end what takes too long. One timer for all connections."""
        self.date = formatdate(usegmt=True).encode()
        now = time.monotonic()
        for connection in [each for each in self.connections if each.deadline < now]:
            self.closed_by_clock += 1
            connection.timed_out()

    @property
    def in_flight(self) -> int:
        """Requests that were read and not yet answered."""
        return sum(len(connection.slots) for connection in self.connections)


class Slot:
    """The place of one answer in the order of its connection's requests."""

    __slots__ = ("answer", "close", "connection", "head_only", "keep_alive_said", "pending")

    def __init__(self, connection: Connection, *, close: bool, head_only: bool, said: bool) -> None:
        self.connection, self.close, self.head_only = connection, close, head_only
        self.keep_alive_said = said
        self.answer: bytes | None = None
        self.pending: asyncio.Future[object] | None = None
        """Cancelled when the client goes away."""

    def reply(self, response: Response) -> None:
        """Answer. The bytes leave when all earlier requests of the connection are answered."""
        if self.answer is not None:
            return
        site = self.connection.site
        if site.draining or response.close:
            self.close = True
        body = response.body
        head = b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-length: %d\r\n" % (
            response.status,
            REASONS.get(response.status, b"Unknown"),
            site.date,
            len(body),
        )
        if response.headers:
            head += "".join(f"{name}: {value}\r\n" for name, value in response.headers).encode()
        if self.close:
            head += b"connection: close\r\n"
        elif self.keep_alive_said:
            head += b"connection: keep-alive\r\n"
        self.pending = None
        self.answer = head + b"\r\n" + (b"" if self.head_only else body)
        self.connection.flush()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.slots: deque[Slot] = deque()
        self.deadline = time.monotonic() + site.limits.idle_s
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._reading = False  # a request has begun and not ended
        self._refused = False  # nothing more is parsed
        self._lingering = False
        self._paused = self._unread = False
        self._head_size = self._head_bytes = 0
        self._new()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(65_536)
        self.site.connections.add(self)
        above = len(self.site.connections) - self.site.limits.connections
        if above > SPARE:
            self._transport.abort()
        elif above > 0:
            wait = {"Retry-After": "1"}
            self._refuse(HttpError(503, "too many connections", wait))

    def connection_lost(self, error: Exception | None) -> None:
        self.site.connections.discard(self)
        self._transport = None
        self._refused = True
        slots, self.slots = self.slots, deque()
        for slot in slots:
            if slot.pending:
                slot.pending.cancel()

    def eof_received(self) -> bool:
        # A client that ended its side is taken to be gone (as by nginx): connection_lost follows.
        return False

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # read and thrown away
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request itself was handled, in HTTP/1.1, which is a server's right
        except httptools.HttpParserError as error:
            if not self._refused:
                cause = error.__context__
                if isinstance(error, httptools.HttpParserCallbackError) and cause:
                    raise cause from None
                self._refuse(HttpError(400, f"no HTTP/1.1 request: {str(error)[:100]}"))
        if self._reading and not self._refused and not self._head_done:
            self._head_bytes += len(data)
            self._check_head()

    # The parser calls these.

    def on_message_begin(self) -> None:
        if not self._refused:
            self._new()
            self._reading = True
            self.deadline = time.monotonic() + self.site.limits.head_s

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head_size += len(part)

    def on_header(self, name: bytes, value: bytes | None) -> None:
        value = value or b""
        self._head_size += len(name) + len(value)
        if self._head_size > self.site.limits.head_bytes:
            self._check_head()
            return
        if self._head_done:
            return  # a trailer after a chunked body may not become a header
        name = name.lower()
        headers = self._headers
        if name in headers:
            if name in ONCE:
                self._twice = name
            else:
                headers[name] += b", " + value
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._head_done = True
        self._method = self._parser.get_method().decode("ascii", "replace")
        self._check_head()
        if self._refused:
            return
        self.deadline = time.monotonic() + self.site.limits.body_s
        headers = self._headers
        length = headers.get(b"content-length")
        if self._parser.should_upgrade() and (b"transfer-encoding" in headers or int(length or 0)):
            # The parser takes what follows for another protocol: the body would be lost.
            message = "Upgrade is not offered here: send the request without it"
            self._refuse(HttpError(400, message))
        elif length and int(length) > self.site.limits.body_bytes:
            self._refuse_body()
        elif headers.get(b"expect", b"").lower() == b"100-continue" and not self.slots:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if self._refused:
            return
        self._body += part
        if len(self._body) > self.site.limits.body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._reading = False
        self.deadline = float("inf")
        keep = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        said = keep and self._parser.get_http_version() == "1.0"
        slot = Slot(self, close=not keep, head_only=self._method == "HEAD", said=said)
        self.slots.append(slot)
        if not keep:
            self._refused = True  # what comes after it is no request
        if len(self.slots) == PIPELINED:
            self._pause()
        self.site.handle(Request(self._method, self._target, self._headers, self._body), slot)

    def _new(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._method = ""
        self._twice = b""
        self._head_done = False
        self._head_size = self._head_bytes = 0

    def _check_head(self) -> None:
        limits = self.site.limits
        if max(self._head_size, self._head_bytes) > limits.head_bytes:
            self._refuse(HttpError(431, f"the headers are above {limits.head_bytes} bytes"))
        elif self._twice:
            self._refuse(HttpError(400, f"the header {self._twice.decode('latin-1')} comes twice"))
        elif (
            self._head_done
            and b"host" not in self._headers
            and self._parser.get_http_version() != "1.0"
        ):
            self._refuse(HttpError(400, "the header host is missing"))

    def _refuse_body(self) -> None:
        self._refuse(HttpError(413, f"the body is above {self.site.limits.body_bytes} bytes"))

    def _refuse(self, error: HttpError) -> None:
        """Answer in its turn, and read no further request: where it would begin is unknown."""
        self._refused = True
        self._reading = False
        self.deadline = float("inf")
        slot = Slot(self, close=True, head_only=self._method == "HEAD", said=False)
        self.slots.append(slot)
        slot.reply(error_response(error, "-"))

    def flush(self) -> None:
        """Write what is ready, in order."""
        slots = self.slots
        ready: list[bytes] = []
        close = False
        while slots and not close and (answer := slots[0].answer) is not None:
            ready.append(answer)
            close = slots.popleft().close
        if not ready:
            return
        self._write(ready[0] if len(ready) == 1 else b"".join(ready))
        if close:
            for slot in slots:  # requests that came after one that ends the connection
                if slot.pending:
                    slot.pending.cancel()
            slots.clear()
            self._linger()
            return
        if self._unread:  # it stays what pause_writing set, unless a request was read since
            write = time.monotonic() + self.site.limits.write_s
            self.deadline = min(self.deadline, write)
        elif not slots and not self._reading:
            self.deadline = time.monotonic() + self.site.limits.idle_s
        if self._paused and len(slots) < PIPELINED // 2:
            self._resume()

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def _linger(self) -> None:
        self._refused = self._lingering = True
        self.deadline = time.monotonic() + self.site.limits.linger_s
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._resume()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def pause_writing(self) -> None:
        # The client sends requests and does not read the answers.
        self._unread = True
        self._pause()
        self.deadline = time.monotonic() + self.site.limits.write_s

    def resume_writing(self) -> None:
        self._unread = False
        self._resume()
        idle = time.monotonic() + self.site.limits.idle_s
        self.deadline = float("inf") if self.slots else idle

    def _pause(self) -> None:
        if self._transport and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport and self._paused and (self._lingering or not self._unread):
            self._paused = False
            self._transport.resume_reading()

    def timed_out(self) -> None:
        """The deadline of what the connection was doing has passed."""
        if self._reading and not self._refused:
            what = "body" if self._head_done else "headers"
            self._refuse(HttpError(408, f"the request's {what} took too long"))
        elif self._transport:
            if self._unread:
                self._transport.abort()  # close() would wait for the client to read
            else:
                self._transport.close()
            self.deadline = time.monotonic() + self.site.limits.write_s
            self._unread = True
