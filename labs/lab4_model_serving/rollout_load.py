"""Users while something is changed: an open loop that goes on until the change is done.

Unlike a load test it must know of every request which version answered it, and with what: whether
a switch lost or mixed up anything is a question about single requests.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from common.errors import InputError, require

T = TypeVar("T")
Feedback = Callable[[Sequence[tuple[str, str]]], object]
FEEDBACK_EVERY_S = 0.1


@dataclass(frozen=True)
class Request:
    """One request and its answer; ``version`` and ``label`` are empty when it failed."""

    sent_s: float
    """After the load began."""
    user: str
    text: int
    """Index into the texts."""
    status: int
    """0 when there was no answer (connection, timeout)."""
    seconds: float
    version: str = ""
    label: str = ""
    named: str = ""
    """The version of the header."""
    why: str = ""
    """What the refusal said, or the client's error."""


@dataclass(frozen=True)
class Driven(Generic[T]):
    """What was returned by the change that was made under load, and all requests by time."""

    result: T
    requests: tuple[Request, ...]
    changed_s: tuple[float, float]
    """When the change began and ended, after the load began."""

    @property
    def failed(self) -> int:
        return sum(request.status != 200 for request in self.requests)

    @property
    def failures(self) -> dict[str, int]:
        """Status and message to requests, status 0 for no answer at all."""
        failed = [each for each in self.requests if each.status != 200]
        return dict(Counter(f"{each.status} {each.why}" for each in failed))

    @property
    def by_version(self) -> dict[str, int]:
        """Version to requests that it answered."""
        return dict(Counter(each.version for each in self.requests if each.status == 200))


def drive(
    url: str,
    texts: Sequence[str],
    change: Callable[[], T],
    *,
    rate: float,
    headers: Mapping[str, str],
    users: int = 500,
    seed: int = 0,
    labels: Sequence[str] = (),
    feedback: Feedback | None = None,
    feedback_after_s: float = 0.2,
    before_s: float = 0.3,
    timeout: float = 10.0,
    longest_s: float = 600.0,
) -> Driven[T]:
    """Send Poisson traffic while ``change`` runs on a thread, and a moment before and after.

    Parameters
    ----------
    url
        Of the predictions.
    texts, labels
        What is asked, at random, and the true labels.
    headers
        The token.
    users
        Sent as ``X-User``; each request is of a random one.
    feedback
        Told the true label of each answer after ``feedback_after_s``, in bunches, on a thread.
    before_s
        Load before and after the change (s).
    longest_s
        The load ends then, whether or not the change has.

    Raises
    ------
    InputError
        No texts, a rate that is not positive, feedback without a label for each text.
    """
    require(rate > 0, "rate", rate, "must be > 0 requests/s")
    require(len(texts) >= 1, "number of texts", 0, "must be at least 1")
    if feedback and len(labels) != len(texts):
        raise InputError(f"{len(labels)} labels for {len(texts)} texts; feedback needs one each")
    load = _Load(url, texts, headers, users, seed, timeout)
    return asyncio.run(
        load.drive(change, rate, labels, feedback, feedback_after_s, before_s, longest_s)
    )


class _Load:
    def __init__(
        self,
        url: str,
        texts: Sequence[str],
        headers: Mapping[str, str],
        users: int,
        seed: int,
        timeout: float,
    ) -> None:
        self.url, self.users, self.timeout = url, users, timeout
        self.headers = {"Content-Type": "application/json", **headers}
        self.bodies = [json.dumps({"text": text}).encode() for text in texts]
        self.rng = np.random.default_rng(seed)
        self.done: list[Request] = []
        self.unlabelled: deque[tuple[float, str, int]] = deque()

    async def drive(
        self,
        change: Callable[[], T],
        rate: float,
        labels: Sequence[str],
        feedback: Feedback | None,
        feedback_after_s: float,
        before_s: float,
        longest_s: float,
    ) -> Driven[T]:
        import aiohttp

        stop = asyncio.Event()
        start = time.perf_counter()
        async with aiohttp.ClientSession(
            headers=self.headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
        ) as client:

            async def one(i: int) -> None:
                user, text = f"user-{self.rng.integers(self.users)}", i_text()
                sent = time.perf_counter()
                request_id = f"load-{i}-{start:.6f}".replace(".", "-")
                own = {"X-User": user, "X-Request-Id": request_id}
                status, version, label, named, why = 0, "", "", "", ""
                try:
                    async with client.post(self.url, data=self.bodies[text], headers=own) as answer:
                        content = await answer.json()
                        status = answer.status
                        if status == 200:
                            version, label = str(content["version"]), str(content["label"])
                            named = answer.headers.get("X-Model-Version", "")
                            answered = time.perf_counter()
                            self.unlabelled.append((answered, request_id, text))
                        else:
                            why = _message(content)
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                    status, why = 0, type(error).__name__
                self.done.append(
                    Request(
                        sent - start,
                        user,
                        text,
                        status,
                        time.perf_counter() - sent,
                        version,
                        label,
                        named,
                        why,
                    )
                )

            def i_text() -> int:
                return int(self.rng.integers(len(self.bodies)))

            async def arrive() -> None:
                tasks = set()
                due, i = start, 0
                while not stop.is_set() and time.perf_counter() - start < longest_s:
                    due += float(self.rng.exponential(1 / rate))
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    task = asyncio.create_task(one(i))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    i += 1
                await asyncio.gather(*tasks)

            async def tell(send: Feedback) -> None:
                while not stop.is_set():
                    ripe = []
                    until = time.perf_counter() - feedback_after_s
                    while self.unlabelled and self.unlabelled[0][0] <= until:
                        _, request_id, text = self.unlabelled.popleft()
                        ripe.append((request_id, labels[text]))
                    if ripe:
                        await asyncio.to_thread(send, ripe)
                    await asyncio.sleep(FEEDBACK_EVERY_S)

            arriving = asyncio.create_task(arrive())
            telling = asyncio.create_task(tell(feedback)) if feedback else None
            try:
                await asyncio.sleep(before_s)
                began = time.perf_counter() - start
                result = await asyncio.to_thread(change)
                ended = time.perf_counter() - start
                await asyncio.sleep(before_s)
            finally:
                stop.set()
                await arriving
                if telling:
                    await telling
        return Driven(result, tuple(sorted(self.done, key=lambda r: r.sent_s)), (began, ended))


def _message(content: Any) -> str:
    error = content.get("error", content) if isinstance(content, dict) else {}
    return str(error.get("message", ""))[:100]


def moved_back(requests: Sequence[Request], old: str, new: str, until_s: float) -> int:
    """Users whom ``new`` had answered and ``old`` answered again, among requests sent by then."""
    latest: dict[str, str] = {}
    back = set()
    for request in requests:
        if request.sent_s < until_s and request.version in (old, new):
            if latest.get(request.user) == new and request.version == old:
                back.add(request.user)
            latest[request.user] = request.version
    return len(back)


def mixed_up(requests: Sequence[Request], expected: Mapping[str, Sequence[str]]) -> int:
    """Answers that are not what the version they name says to their text.

    Parameters
    ----------
    expected
        Version to the label of each text. Other versions are not looked at.
    """
    return sum(
        request.label != expected[request.version][request.text]
        or request.named not in ("", request.version)
        for request in requests
        if request.status == 200 and request.version in expected
    )
