"""Simulated people who use a live gateway: they ask, react as the simulated world says, and return.

What they are shown, by which version, and how fast, is the service's own; what they do with it is
drawn from :mod:`capstone.world` (day 0) and posted as anybody's reactions are. Each session is a
unit of its own, with the taste and the history of a user drawn at random. Histories grow with what
they click, in all arms alike.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from capstone.experiment_requests import K, Service, reaction_kinds
from capstone.world import HEADS, World, draw
from common.errors import RunError

if TYPE_CHECKING:
    import aiohttp

IN_FLIGHT = 6
TIMEOUT_S = 5.0


class SimulatedPeople:
    """They come from ``with`` to its end, from a thread of their own.

    Parameters
    ----------
    name
        Of these people: their units are ``<name>-<number>``.
    n_people
        Users 1 to this number.
    rate
        Sessions a second; None as many as ``in_flight`` at a time can have. May be changed.

    Attributes
    ----------
    feeds
        Answers by the version that they say.
    failures
        What was not answered with 200, in words: the newest 100, and ``failed``, their number.
    """

    def __init__(
        self,
        service: Service,
        world: World,
        *,
        name: str,
        n_people: int = 943,
        rate: float | None = None,
        in_flight: int = IN_FLIGHT,
        seed: int = 0,
    ) -> None:
        self.feeds: Counter[str] = Counter()
        self.failures: list[str] = []
        self.failed = self.reactions = 0
        self._service, self._name, self._n_people = service, name, n_people
        self.rate, self._in_flight, self._seed = rate, in_flight, seed
        items = np.tile(np.arange(world.n_items + 1), (n_people, 1))
        self._chance = world.probabilities(np.arange(n_people), items)
        self._looked = world.examination(K)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def __enter__(self) -> SimulatedPeople:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, feeds: int, *, timeout_s: float = 30.0) -> Counter[str]:
        """Wait for so many more feeds; which versions they said.

        Raises
        ------
        RunError
            They did not come in time.
        """
        before, until = self.feeds.copy(), time.monotonic() + timeout_s
        while self.feeds.total() - before.total() < feeds:
            if time.monotonic() > until:
                raise RunError(f"no {feeds} feeds within {timeout_s:g} s: {self.failures[-1:]}")
            time.sleep(0.01)
        return self.feeds.copy() - before  # a copy: a new version may come in meanwhile

    async def _live(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(
            headers=self._service.headers, trust_env=False, timeout=timeout
        ) as client:
            await asyncio.gather(
                *(self._person(client, number) for number in range(self._in_flight))
            )

    async def _person(self, client: aiohttp.ClientSession, worker: int) -> None:
        rng = np.random.default_rng([self._seed, worker])
        while not self._stop.is_set():
            if self.rate is not None:
                await asyncio.sleep(float(rng.exponential(self._in_flight / self.rate)))
            try:
                await self._session(client, rng)
            except (aiohttp_errors(), TimeoutError, RunError) as error:
                self.failed += 1
                self.failures = [*self.failures[-99:], repr(error)]

    async def _session(self, client: aiohttp.ClientSession, rng: np.random.Generator) -> None:
        user, unit = int(rng.integers(1, self._n_people + 1)), f"{self._name}-{next(self._numbers)}"
        feed = await self._post(client, "/feed", {"user_id": user, "k": K, "unit_id": unit})
        self.feeds[feed["version"]] += 1
        items = np.array([item["item_id"] for item in feed["items"]], dtype=np.int64)
        chance = {head: self._chance[head][user - 1, items][None] for head in HEADS}
        kinds = reaction_kinds(draw(chance, self._looked[: len(items)], rng))[0]
        for place in np.flatnonzero(kinds != ""):
            event = {
                "event_id": f"{unit}-{place}", "request_id": feed["request_id"], "user_id": user,
                "item_id": int(items[place]), "reaction": str(kinds[place]),
            }  # fmt: skip
            await self._post(client, "/events", event)
            self.reactions += 1

    async def _post(
        self, client: aiohttp.ClientSession, path: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        async with client.post(f"{self._service.url}{path}", json=body) as answer:
            if answer.status != 200:
                raise RunError(f"{path}: {answer.status}: {(await answer.text())[:200]}")
            found: dict[str, Any] = await answer.json(content_type=None)
            return found


def aiohttp_errors() -> type[Exception]:
    """The base of what aiohttp raises; imported late, since it takes a while."""
    import aiohttp

    return aiohttp.ClientError
