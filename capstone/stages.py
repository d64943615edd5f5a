"""The stages of a feed: hydrate, source, filter, score, select, log, and the fallback."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capstone.api import Person, Slot, StageLatency
from capstone.calibration import calibrated
from capstone.fallback import CircuitBreaker, LastGood, fallback_items
from capstone.feed import Pipeline, Request, Shown
from capstone.loaded_bundle import LoadedBundle
from capstone.reranking import rerank
from capstone.score_codec import ScoreRequest
from capstone.scorer import Scorer
from capstone.service_metrics import ServiceMetrics
from capstone.sources import SOURCE_NAMES, Candidates, mask_of
from capstone.user_state import History, UserState
from capstone.value import HEADS

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
NAMES_OF_MASK = [
    [name for bit, name in enumerate(SOURCE_NAMES) if mask >> bit & 1] for mask in range(256)
]
"""Names of the sources of each bit mask."""
FALLBACK_SOURCES = ["fallback"]


def _breaker() -> CircuitBreaker:
    return CircuitBreaker()


@dataclass
class Hydrate:
    """The user's history. A user whom nobody knows has none: a cold start, not an error."""

    state: UserState
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "hydrate"

    async def __call__(self, request: Request) -> None:
        request.history = await self.state.get(request.user_id)


@dataclass
class Source:
    """Candidates of all sources, without what the user has seen or may not see."""

    loaded: LoadedBundle
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "source"

    async def __call__(self, request: Request) -> None:
        loaded, history = self.loaded, request.history
        request.seen = mask_of(history.items, loaded.catalogue.n_items)
        request.candidates = loaded.candidates(request.user_id, history, request.seen)


@dataclass
class Filter:
    """What may be shown now, before scoring costs anything; and how much that takes away.

    The sources have filtered by the bundle's catalogue; an item that has been withdrawn since is
    in ``withdrawn``. The check is made once more on the finished list (:class:`Select`).
    """

    loaded: LoadedBundle
    withdrawn: set[int]
    metrics: ServiceMetrics
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "filter"

    def __post_init__(self) -> None:
        self._seen = self.metrics.filtered.labels("seen")
        self._withdrawn = self.metrics.filtered.labels("withdrawn")

    async def __call__(self, request: Request) -> None:
        self._seen.inc(len(request.history.items))
        if not self.withdrawn:
            return
        found = request.candidates
        kept = ~np.isin(found.ids, list(self.withdrawn))
        self._withdrawn.inc(len(kept) - int(np.count_nonzero(kept)))
        request.candidates = Candidates(found.ids[kept], found.source[kept], found.names)


@dataclass
class Score:
    """Calibrated probabilities of every candidate, from the ranker."""

    loaded: LoadedBundle
    scorer: Scorer
    breaker: CircuitBreaker
    name: str = "score"

    async def __call__(self, request: Request) -> None:
        history, length = request.history, self.loaded.bundle.max_length
        items, ratings = history.items[-length:], np.abs(history.ratings[-length:])
        known = items <= self.loaded.catalogue.n_items
        if not known.all():
            items, ratings = items[known], ratings[known]
        if len(request.candidates.ids) == 0:
            request.scores = {head: np.zeros(0) for head in HEADS}
            return
        asked = ScoreRequest(items, ratings, request.candidates.ids)
        request.scores = calibrated(self.loaded.calibration, await self.scorer.score(asked))


@dataclass
class Select:
    """The feed: value, then re-ranking, over what may be shown at this moment."""

    loaded: LoadedBundle
    withdrawn: set[int]
    last_good: LastGood
    rng: np.random.Generator
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "select"

    async def __call__(self, request: Request) -> None:
        loaded, found = self.loaded, request.candidates
        value = loaded.bundle.weights.value(request.scores)
        allowed = loaded.visible[found.ids]
        if self.withdrawn:
            allowed &= ~np.isin(found.ids, list(self.withdrawn))
        chosen = rerank(
            value, found.ids, loaded.catalogue, loaded.vectors, loaded.rerank, request.k,
            self.rng, allowed=allowed,
        )  # fmt: skip
        self.last_good.keep(request.user_id, found.ids[np.argsort(-value, kind="stable")])
        rows = chosen.rows
        request.shown = Shown(
            items=found.ids[rows],
            slots=chosen.slot,
            source=found.source[rows],
            propensity=chosen.propensity,
            value=chosen.value,
            diversity_penalty=chosen.diversity_penalty,
            creator_penalty=chosen.creator_penalty,
            heads={head: p[rows] for head, p in request.scores.items()},
            pool=found.ids[chosen.pool],
            pool_value=chosen.pool_value,
        )


@dataclass
class Fallback:
    """A feed without a ranker: the user's last good ranking, or popular and fresh items."""

    loaded: LoadedBundle
    withdrawn: set[int]
    last_good: LastGood
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "fallback"

    async def __call__(self, request: Request) -> None:
        tables = self.loaded.tables
        allowed = self.loaded.visible & ~mask_of(
            request.history.items, self.loaded.catalogue.n_items
        )
        allowed[[item for item in self.withdrawn if item < len(allowed)]] = False
        items = fallback_items(
            self.last_good.of(request.user_id), tables.popular, tables.fresh, allowed, request.k
        )
        nothing = np.zeros(len(items))
        request.scores = {}
        request.shown = Shown(
            items=items,
            slots=(Slot.FALLBACK,) * len(items),
            source=np.zeros(len(items), dtype=np.uint8),
            propensity=np.ones(len(items)),
            value=nothing,
            diversity_penalty=nothing,
            creator_penalty=nothing,
        )


@dataclass
class Log:
    """Side effects: the exposure goes to the log, what was served to the metrics."""

    arm: str
    experiment: Callable[[], str]
    loaded: LoadedBundle
    expose: Callable[[Mapping[str, Any]], bool]
    metrics: ServiceMetrics
    breaker: CircuitBreaker = field(default_factory=_breaker)
    name: str = "log"

    def __post_init__(self) -> None:
        metrics = self.metrics
        self._feeds = metrics.feeds.labels(self.arm, self.loaded.version)
        self._items = {name: metrics.items.labels(name) for name in (*SOURCE_NAMES, "fallback")}
        self._slots = {slot: metrics.slots.labels(slot.value) for slot in Slot}

    async def __call__(self, request: Request) -> None:
        shown = request.shown
        assert shown is not None
        self.expose(self.record(request, shown))
        self._feeds.inc()
        if request.missed:
            stage, reason = request.missed
            self.metrics.fallbacks.labels(stage, reason.value).inc()
            self._items["fallback"].inc(len(shown.items))
        if request.cold_start:
            self.metrics.cold.inc()
        if len(shown.items) < request.k:
            (self.metrics.short if len(shown.items) else self.metrics.empty).inc()
        for slot, count in Counter(shown.slots).items():
            self._slots[slot].inc(count)
        for mask, count in Counter(shown.source.tolist()).items():
            for name in NAMES_OF_MASK[mask]:
                self._items[name].inc(count)
        if shown.heads:
            self.metrics.score.observe_many(shown.heads)

    def record(self, request: Request, shown: Shown) -> dict[str, Any]:
        """One row of the exposure log (:func:`capstone.event_tables.feed_schema`)."""
        return {
            "request_id": request.request_id,
            "unit_id": request.unit_id,
            "user_id": request.user_id,
            "experiment": self.experiment(),
            "in_experiment": request.in_experiment,
            "variant": request.variant,
            "arm": self.arm,
            "version": self.loaded.version,
            "cold_start": request.cold_start,
            "fallback": request.missed[0] if request.missed else None,
            "n_candidates": len(request.candidates.ids),
            "latency_ms": sum(request.timings_ms.values()),
            "items": shown.items,
            "slots": [slot.value for slot in shown.slots],
            "source": shown.source,
            "propensities": shown.propensity,
            "values": shown.value,
            **{f"p_{head}": np.ascontiguousarray(p) for head, p in shown.heads.items()},
            # What another draw from the same pool would have done can be told from these.
            "pool": shown.pool,
            "pool_values": shown.pool_value.astype(np.float32),
            "sharpness": self.loaded.rerank.exploration_sharpness if len(shown.pool) else None,
            "teams": shown.teams,
            "at": time.time_ns() // 1000,
        }


def answer_items(request: Request, loaded: LoadedBundle) -> list[dict[str, Any]]:
    """The items of an answer, as :class:`capstone.api.FeedItem` describes them."""
    shown = request.shown
    assert shown is not None
    heads = tuple(shown.heads)
    probabilities: list[Any] = [()] * len(shown.items)
    if heads:
        probabilities = np.stack([shown.heads[head] for head in heads], axis=1).tolist()
    columns = zip(
        shown.items.tolist(), shown.slots, shown.source.tolist(), shown.propensity.tolist(),
        shown.value.tolist(), shown.diversity_penalty.tolist(), shown.creator_penalty.tolist(),
        probabilities, [None] * len(shown.items) if shown.teams is None else shown.teams.tolist(),
        strict=True,
    )  # fmt: skip
    return [
        {
            **loaded.described[item],
            "position": position,
            "slot": slot.value,
            "sources": NAMES_OF_MASK[source] or FALLBACK_SOURCES,
            "heads": dict(zip(heads, p, strict=True)),
            "value": value,
            "penalty": {"diversity": diversity, "creator": creator},
            "propensity": propensity,
            "team": team,
        }
        for position, (item, slot, source, propensity, value, diversity, creator, p, team) in (
            enumerate(columns)
        )
    ]


def person(user: int, history: History, titles: Sequence[str]) -> Person:
    """What the page shows of a user: the newest films of the history."""
    recent = [titles[item] for item in history.items[:-4:-1] if item < len(titles)]
    return Person(user_id=user, watched=len(history.items), recent=recent)


def stage_latencies(timings: Iterable[Mapping[str, float]]) -> list[StageLatency]:
    """Median and 99th percentile of each stage over requests' timings in milliseconds."""
    found: dict[str, list[float]] = {}
    for request in timings:
        for stage, ms in request.items():
            found.setdefault(stage, []).append(ms)
    rows = []
    for stage, values in found.items():
        p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
        rows.append(StageLatency(stage=stage, n=len(values), p50_ms=p50, p99_ms=p99))
    return rows


def build_pipeline(
    loaded: LoadedBundle,
    *,
    arm: str,
    experiment: Callable[[], str],
    state: UserState,
    scorer: Scorer,
    breaker: CircuitBreaker,
    expose: Callable[[Mapping[str, Any]], bool],
    metrics: ServiceMetrics,
    last_good: LastGood,
    withdrawn: set[int],
    rng: np.random.Generator,
) -> Pipeline:
    """The stages of one arm, top to bottom.

    Parameters
    ----------
    breaker
        Of the model server.
    withdrawn
        Items that may not be shown any more; it may change while the gateway runs.
    """
    return Pipeline(
        hydrate=Hydrate(state),
        source=Source(loaded),
        filter=Filter(loaded, withdrawn, metrics),
        score=Score(loaded, scorer, breaker),
        select=Select(loaded, withdrawn, last_good, rng),
        fallback=Fallback(loaded, withdrawn, last_good),
        log=Log(arm, experiment, loaded, expose, metrics),
    )
