"""One feed request as typed stages; :func:`execute_stages` reads as the system diagram.

hydrate the user -> source candidates -> filter what was seen -> score -> select -> log exposure
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray

from capstone.bundle import Bundle
from capstone.data import pad
from labs.lab2_vector_db.persistence import load_index
from labs.lab2_vector_db.search import search
from labs.lab4_model_serving.export import run, session


class ScorerDown(Exception):
    """The model server did not answer; the request may be tried again."""


@dataclass
class Request:
    """What one request knows so far; each stage fills in its part."""

    user_id: int
    unit_id: str
    k: int
    variant: int
    history: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ratings: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    candidates: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    p_engage: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    p_like: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    items: list[dict[str, Any]] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """A named step that reads and fills a request."""

    name: str

    async def __call__(self, request: Request) -> None: ...


async def execute_stages(
    stages: Sequence[Stage], request: Request, observe: Callable[[str, float], None]
) -> Request:
    """Run the stages in order; every one is timed (milliseconds) and observed."""
    for stage in stages:
        start = time.perf_counter()
        await stage(request)
        seconds = time.perf_counter() - start
        request.timings_ms[stage.name] = round(seconds * 1000, 3)
        observe(stage.name, seconds)
    return request


class UserStore:
    """Histories of the known users: user id to (items, ratings), oldest first."""

    def __init__(self, path: Path) -> None:
        rows = json.loads(path.read_text(encoding="utf-8"))
        self.histories = {
            int(user): (np.array(items, np.int64), np.array(ratings, np.int64))
            for user, (items, ratings) in rows.items()
        }


@dataclass
class Hydrate:
    """Fetch the user's history. Raises KeyError for an unknown user."""

    users: UserStore
    name: str = "hydrate"

    async def __call__(self, request: Request) -> None:
        request.history, request.ratings = self.users.histories[request.user_id]


class RetrieveNearest:
    """Source: the items nearest to the encoded history, from the bundle's own index."""

    name = "retrieve"

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.encoder = session(bundle.encoder, threads=1)
        self.index, _ = load_index(bundle.index, expected_version=bundle.checkpoint)

    async def __call__(self, request: Request) -> None:
        history = pad(request.history, self.bundle.max_length)[None]
        query = run(self.encoder, {"history": history})["query"]
        # As many more as the next stage can take away.
        k = min(self.index.ntotal, self.bundle.candidates + len(request.history))
        _, ids = search(self.index, query, k)
        request.candidates = ids[0]


@dataclass
class DropSeen:
    """Filter: nothing the user already knows, and no more than the ranker wants."""

    limit: int
    name: str = "filter"

    async def __call__(self, request: Request) -> None:
        fresh = ~np.isin(request.candidates, request.history)
        request.candidates = request.candidates[fresh][: self.limit]


@dataclass
class ScoreRemotely:
    """Scorer: the ranker behind TorchServe. Raises :class:`ScorerDown` when it cannot answer."""

    client: aiohttp.ClientSession
    url: str
    headers: dict[str, str]
    max_length: int
    timeout_s: float = 2.0
    name: str = "score"

    async def __call__(self, request: Request) -> None:
        body = {
            "inputs": {
                "history": [pad(request.history, self.max_length).tolist()],
                "ratings": [pad(request.ratings, self.max_length).tolist()],
                "candidates": [request.candidates.tolist()],
            }
        }
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with self.client.post(
                self.url, json=body, headers=self.headers, timeout=timeout
            ) as answer:
                if answer.status != 200:
                    raise ScorerDown(f"the ranker answered {answer.status}: {await answer.text()}")
                outputs = (await answer.json(content_type=None))["outputs"]
        except (TimeoutError, aiohttp.ClientError) as error:
            raise ScorerDown(f"the ranker did not answer: {error!r}") from error
        count = len(request.candidates)
        request.p_engage = np.array(outputs["p_engage"][0])[:count]
        request.p_like = np.array(outputs["p_like"][0])[:count]


class SelectByValue:
    """Selector: the ``k`` items of the greatest expected value."""

    name = "select"

    def __init__(self, bundle: Bundle) -> None:
        self.weights = bundle.weights
        self.titles = json.loads(bundle.catalogue.read_text(encoding="utf-8"))

    async def __call__(self, request: Request) -> None:
        value = self.weights.value(request.p_engage, request.p_like)
        request.items = [
            {
                "item_id": int(request.candidates[row]),
                "title": self.titles[int(request.candidates[row])],
                "value": float(value[row]),
                "p_engage": float(request.p_engage[row]),
                "p_like": float(request.p_like[row]),
            }
            for row in np.argsort(-value, kind="stable")[: request.k]
        ]


@dataclass
class LogExposure:
    """Side effect: who was shown what by which version, one JSON line a request."""

    write: Callable[[str], None]
    version: str
    name: str = "log"

    async def __call__(self, request: Request) -> None:
        self.write(
            json.dumps(
                {
                    "time": time.time(),
                    "unit_id": request.unit_id,
                    "user_id": request.user_id,
                    "variant": request.variant,
                    "version": self.version,
                    "items": [item["item_id"] for item in request.items],
                }
            )
        )


def build_stages(
    bundle: Bundle,
    users: UserStore,
    client: aiohttp.ClientSession,
    *,
    scorer_url: str,
    scorer_headers: dict[str, str],
    write: Callable[[str], None],
) -> list[Stage]:
    """The stages of one variant, top to bottom."""
    return [
        Hydrate(users),
        RetrieveNearest(bundle),
        DropSeen(bundle.candidates),
        ScoreRemotely(client, scorer_url, scorer_headers, bundle.max_length),
        SelectByValue(bundle),
        LogExposure(write, bundle.version),
    ]
