"""Who scores candidates: the ranker behind TorchServe, or one in this process.

A POST to TorchServe costs its Java frontend as much as a small ranker takes to run. So only a few
POSTs are on their way at a time, one more than there are workers, and what comes meanwhile goes out
together in the next: alone at a low rate, in company at a high one, and nobody waits for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from capstone.fallback import DependencyDown
from capstone.score_codec import (
    CONTENT_TYPE,
    Malformed,
    ScoreRequest,
    decode_scores,
    encode,
    padded,
    rows_of,
)
from labs.lab4_model_serving.export import run, session
from labs.lab4_model_serving.http_client import HttpClient, build_request

Floats = NDArray[np.floating]
Scores = Mapping[str, Floats]
UNDER_WAY = 2
"""POSTs at a time: one that the worker runs, and one that is ready when it has finished."""
USERS = 16
"""Users of one POST at most."""


class Scorer(Protocol):
    """Scores the candidates of a user.

    Raises
    ------
    DependencyDown
        When it cannot.
    """

    async def score(self, request: ScoreRequest) -> Scores:
        """Probabilities of each head, [C]."""
        ...


Waiting = tuple[ScoreRequest, "asyncio.Future[Scores]"]


class TorchServeConnection:
    """Kept-alive connections to one TorchServe, shared by the scorers of all versions.

    Parameters
    ----------
    token
        What TorchServe asks for, or the file that holds it: a server that was started again has
        another one, so the file is read again after a failure.
    slots
        POSTs at a time of all versions together: at least the sum of what its scorers may send.
    """

    def __init__(self, url: str, token: str | Path, *, slots: int = UNDER_WAY) -> None:
        self.url, self._source = url, token
        self.token = ""
        self.read_token()
        self.bodies: list[bytes] = [b""] * slots
        self.free = list(range(slots))
        self.client = HttpClient(
            url, [b""] * slots, slots, connections=slots, on_answer=self._take
        )  # fmt: skip

    def read_token(self) -> None:
        """Take the token that is valid now."""
        if isinstance(self._source, str):
            self.token = self._source
        else:
            with suppress(OSError):  # it is being written: the old one until the next failure
                self.token = self._source.read_text(encoding="utf-8").strip()

    async def close(self) -> None:
        await self.client.close()

    def _take(self, slot: int, status: int, headers: dict[str, str], body: bytes) -> None:
        self.bodies[slot] = body


class TorchServeScorer:
    """The ranker of one version behind TorchServe (:mod:`capstone.rank_handler`).

    Parameters
    ----------
    under_way
        POSTs at a time: one for each worker of the version, and one more.
    """

    def __init__(
        self, connection: TorchServeConnection, version: str, *, under_way: int = UNDER_WAY
    ) -> None:
        self._connection, self._version, self._most = connection, version, under_way
        self._token = ""
        self._before = self._after = b""
        self._waiting: deque[Waiting] = deque()
        self._under_way = 0

    async def score(self, request: ScoreRequest) -> Scores:
        answer: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self._send()
        return await answer

    def _send(self) -> None:
        while self._waiting and self._under_way < self._most and self._connection.free:
            users: list[Waiting] = []
            while self._waiting and len(users) < USERS:
                each = self._waiting.popleft()
                if not each[1].done():  # else its deadline has passed
                    users.append(each)
            if users:
                self._post(users)

    def _post(self, users: list[Waiting], *, again: bool = True) -> None:
        connection = self._connection
        if self._token != connection.token:
            self._renew_head()
        slot = connection.free.pop()
        body = encode([request for request, _ in users])
        length = b"Content-Length: %d" % len(body)
        connection.client.requests[slot] = b"".join((self._before, length, self._after, body))
        self._under_way += 1
        post = connection.client.send(slot)
        post.add_done_callback(partial(self._answered, slot, users, again))
        left = len(users)

        def gone(answer: asyncio.Future[Scores]) -> None:
            nonlocal left
            left -= 1
            if left == 0 and not post.done():
                post.cancel()  # nobody waits for it any more

        for _, answer in users:
            answer.add_done_callback(gone)

    def _renew_head(self) -> None:
        self._token = self._connection.token
        url = f"{self._connection.url}/predictions/ranker/{self._version}"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": CONTENT_TYPE}
        self._before, self._after = build_request(url, b"", headers).split(b"Content-Length: 0")

    def _answered(
        self, slot: int, users: list[Waiting], again: bool, post: asyncio.Future[int]
    ) -> None:
        connection = self._connection
        connection.free.append(slot)
        self._under_way -= 1
        body, connection.bodies[slot] = connection.bodies[slot], b""
        error = None if post.cancelled() else post.exception()
        wanted = [each for each in users if not each[1].done()]
        if wanted and isinstance(error, ConnectionResetError) and again:
            self._post(wanted, again=False)  # the connection was closed while it was idle
        elif error is not None:
            connection.read_token()
            _fail(wanted, f"the ranker failed: {error!r}")
        elif wanted:
            self._give(users, body)
        self._send()

    @staticmethod
    def _give(users: list[Waiting], body: bytes) -> None:
        try:
            rows = decode_scores(body, [len(request.candidates) for request, _ in users])
        except Malformed as error:
            _fail(users, f"the ranker answered nonsense: {error}")
            return
        for (_, answer), scores in zip(users, rows, strict=True):
            if not answer.done():
                answer.set_result(scores)


def _fail(users: list[Waiting], why: str) -> None:
    for _, answer in users:
        if not answer.done():
            answer.set_exception(DependencyDown(why))


class LocalScorer:
    """A ranker in this process, in a thread of its own.

    For a candidate bundle that is added to a running gateway, and for tests. It takes the core
    that answers requests, and a crash of the model is a crash of the gateway.
    """

    def __init__(self, ranker: Path) -> None:
        self._session = session(ranker, threads=1)
        self._length = int(self._session.get_inputs()[0].shape[1])
        self._thread = ThreadPoolExecutor(1, "ranker")

    async def score(self, request: ScoreRequest) -> Scores:
        def work() -> Scores:
            outputs = run(self._session, padded([request], self._length))
            return rows_of(outputs, [len(request.candidates)])[0]

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
