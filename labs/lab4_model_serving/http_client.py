"""A small HTTP/1.1 client for load tests: kept-alive connections, little work for a request.

A client that is slower than its server measures itself. This one builds the bytes of a request
once, writes them in one piece, hands what comes back to httptools (the parser of Node.js), and has
neither a task nor a timer for a request. It does what a load test needs and no more: POST over
plain HTTP, one request on a connection at a time, no redirects, no cookies, no compression.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httptools
import numpy as np

from common.errors import InputError, require

OnAnswer = Callable[[int, int, dict[str, str], bytes], None]
"""``on_answer(i, status, headers, body)``: names of headers in lower case."""

OPENED_AT_ONCE = 5
"""A server with a short backlog drops more, and the kernel tries again only after a second."""

Result = TypeVar("Result")


class HttpFailure(Exception):
    """An answer with a status other than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")


def build_request(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of one POST.

    Raises
    ------
    InputError
        A URL that is not ``http://host...``, or a header with a line break.
    """
    _, _, target, netloc = _parts(url)
    given = {"Content-Type": "application/json", **(headers or {})}
    for name, value in given.items():
        require(
            "\r" not in name + value and "\n" not in name + value,
            f"header {name}", value, "must be one line", "strip it",
        )  # fmt: skip
    lines = [f"POST {target} HTTP/1.1", f"Host: {netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class HttpClient:
    """Kept-alive connections to one server; :meth:`send` gives the answer's future.

    Parameters
    ----------
    url
        ``http://host[:port]/...``; only host and port are used here.
    requests
        What to send (:func:`build_request`); request ``i`` sends ``requests[i % len(requests)]``.
    total
        Requests that will be sent: ``i`` < ``total``.
    connections
        At most. One that the server closes is replaced when it is needed.
    on_answer
        Called for every complete answer, whatever its status. What it raises ends up in ``broken``.

    Attributes
    ----------
    answered_at : float64 array [total]
        When answer ``i`` was complete (s, ``time.perf_counter``); NaN before, inf when it failed.
    failures
        What became of each request that failed, by its index.
    opened, most_under_way
        Connections that were opened, and most requests under way at one time.
    """

    def __init__(
        self,
        url: str,
        requests: Sequence[bytes],
        total: int,
        *,
        connections: int,
        on_answer: OnAnswer | None = None,
    ) -> None:
        require(len(requests) >= 1, "requests", len(requests), "must be at least 1")
        require(connections >= 1, "connections", connections, "must be >= 1")
        self.host, self.port, _, _ = _parts(url)
        self.requests = list(requests)
        self.limit = connections
        self.on_answer = on_answer
        self.answered_at = np.full(total, np.nan)
        self.failures: dict[int, Exception] = {}
        self.broken: Exception | None = None
        self.opened = self.under_way = self.most_under_way = 0
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._idle: list[_Connection] = []  # the last used first: the others may time out
        self._waiting: deque[Answer] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    async def connect(self, connections: int, *, timeout: float = 5.0) -> int:
        """Open connections before the run, a few at a time; returns how many are open.

        One that cannot be opened is no error here: the requests that need it will fail.
        """
        missing = min(connections, self.limit) - len(self._connections)

        async def some() -> None:
            for start in range(0, missing, OPENED_AT_ONCE):
                group = min(OPENED_AT_ONCE, missing - start)
                found = await asyncio.gather(
                    *(self._connect() for _ in range(group)), return_exceptions=True
                )
                if any(isinstance(each, BaseException) for each in found):
                    return
                self._idle += [each for each in found if isinstance(each, _Connection)]

        with suppress(TimeoutError):
            await asyncio.wait_for(some(), timeout)
        return len(self._connections)

    def send(self, i: int) -> Answer:
        """Send request ``i``; the future has the status, or the failure.

        Cancelling the future closes its connection: an answer that nobody waits for any more
        must not be taken for that of the next request.
        """
        answer = Answer(i, self)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self._idle:
            self._idle.pop().ask(answer)
        else:
            self._waiting.append(answer)
            self._open_if_needed()
        return answer

    async def close(self) -> None:
        """Close everything, and wait for what was being opened."""
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _connect(self) -> _Connection:
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self), self.host, self.port
        )
        self.opened += 1
        return connection

    def _open_if_needed(self) -> None:
        if len(self._opening) < len(self._waiting) and (
            len(self._connections) + len(self._opening) < self.limit
        ):
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            if answer := self._next_waiting():
                answer.fail(error)
        else:
            self.release(connection)

    def _next_waiting(self) -> Answer | None:
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                return answer
        return None

    def release(self, connection: _Connection) -> None:
        """A connection is free: the next request in line has it."""
        if answer := self._next_waiting():
            connection.ask(answer)
        else:
            self._idle.append(connection)

    def came(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def went(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._open_if_needed()

    def complete(self, answer: Answer, status: int, headers: dict[str, str], body: bytes) -> None:
        """Take a complete answer: note when it came, then tell who waits for it."""
        if status == 200:
            self.answered_at[answer.i] = time.perf_counter()
            self.under_way -= 1
        if self.on_answer:
            try:
                self.on_answer(answer.i, status, headers, body)
            except Exception as error:
                self.broken = self.broken or error
        if status == 200:
            answer.set_result(status)
        else:
            answer.fail(HttpFailure(status))


class Answer(asyncio.Future[int]):
    """The future of one request's status; fails with what became of it."""

    def __init__(self, i: int, client: HttpClient) -> None:
        super().__init__(loop=client._loop)
        self.i = i
        self.client = client
        self.connection: _Connection | None = None

    def fail(self, error: Exception) -> None:
        if not self.done():
            self._failed(error)
            self.set_exception(error)

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._failed(TimeoutError())
            if self.connection is not None:
                self.connection.abort()
        return cancelled

    def _failed(self, error: Exception) -> None:
        self.client.under_way -= 1
        self.client.failures[self.i] = error
        self.client.answered_at[self.i] = np.inf


class _Connection(asyncio.Protocol):
    """One connection: at most one request is on its way."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.answer: Answer | None = None
        self.parser = httptools.HttpResponseParser(
            _Recorder(self) if client.on_answer else _Watcher(self)
        )
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = self.keep_alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.client.came(self)

    def ask(self, answer: Answer) -> None:
        self.answer = answer
        answer.connection = self
        requests = self.client.requests
        self.transport.write(requests[answer.i % len(requests)])

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.abort()
            return
        if self.is_complete:
            self._finish()

    def _finish(self) -> None:
        answer, self.answer = self.answer, None
        headers, body = self.headers, self.body
        self.is_complete, self.headers, self.body = False, {}, b""
        if answer is None:  # the server spoke unasked
            self.abort()
            return
        answer.connection = None
        self.client.complete(answer, self.parser.get_status_code(), headers, body)
        if self.keep_alive:
            self.client.release(self)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("closed before the answer was complete"))
        self.client.went(self)

    def abort(self) -> None:
        self.answer = None
        self.transport.abort()

    def _fail(self, error: Exception) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.connection = None
            answer.fail(error)


class _Watcher:
    """What the parser calls when only the status matters."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def on_message_complete(self) -> None:
        # The parser forgets it when this returns.
        self.connection.keep_alive = self.connection.parser.should_keep_alive()
        self.connection.is_complete = True


class _Recorder(_Watcher):
    """What the parser calls when headers and body matter too."""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.connection.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.connection.body += body


def run_on_fast_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """``asyncio.run`` on uvloop where it is installed, which halves the work for a request."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def _parts(url: str) -> tuple[str, int, str, str]:
    """Host, port, target and netloc of a URL."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(f"url = {url!r} must be http://host[:port]/path; terminate TLS before it")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.hostname, parts.port or 80, target, parts.netloc
