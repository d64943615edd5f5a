"""The service without HTTP: a feed, a reaction, the experiment, bundles, start and end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from capstone import api, loaded_bundle
from capstone.arms import Arm, Arms, Settings, Shadow
from capstone.event_log import EventConflict, EventLog, LogRefused
from capstone.fallback import CircuitBreaker, DependencyDown, LastGood
from capstone.feed import Request, execute_stages
from capstone.gateway_config import GatewayConfig, arm_name
from capstone.interleaved_feed import interleaved_arm
from capstone.loaded_bundle import LoadedBundle, Mismatch
from capstone.request_ids import RequestIds, Served, ServedRequests
from capstone.scorer import LocalScorer, Scorer, TorchServeConnection, TorchServeScorer
from capstone.service_metrics import ServiceMetrics
from capstone.stages import answer_items, build_pipeline, person, stage_latencies
from capstone.user_state import SqliteState, UserState, read_histories, replay
from capstone.withdrawn import Withdrawn
from common.errors import InputError
from labs.lab4_model_serving.protocol import HttpError

log = logging.getLogger(__name__)
RECENT = 2048
"""Requests over which ``GET /stages`` reports."""
PEOPLE = 50
WARM_UP, WARM_UP_S = 30, 10.0
"""Feeds of each arm, and seconds for them at most, before the gateway is ready."""


class FeedService:
    """Everything of one gateway process. :meth:`start` before use, :meth:`close` after it.

    Parameters
    ----------
    secret
        Signs request ids: the same in all gateways, and after a restart.
    scorer_token
        Of TorchServe.

    Raises
    ------
    Mismatch
        A bundle is damaged, or its parts do not fit together.
    InputError
        Another process writes to the event log, or a file is damaged.
    """

    def __init__(self, config: GatewayConfig, *, secret: str, scorer_token: str = "") -> None:
        self.config = config
        self.metrics = ServiceMetrics()
        self._loaded = [self._load(Path(folder)) for folder in config.bundles]
        self._initial = read_histories(Path(config.users))
        self.events = EventLog(
            Path(config.log),
            on_error=lambda kind, count: self.metrics.log_errors.labels(kind).inc(count),
        )
        self.ids, self.served = RequestIds(secret), ServedRequests()
        self.withdrawn = Withdrawn(Path(config.log) / "withdrawn.json")
        self.draining = False
        self.in_flight = 0
        self.arms = Arms(
            config.experiment,
            Settings(config.weights, config.coverage),
            Path(config.log) / "experiment.json",
            self.metrics,
        )
        self.shadow = Shadow(self.arms, self.metrics)
        self._scorer_token = scorer_token
        self._deadlines = {name: ms / 1000 for name, ms in config.deadlines_ms.items()}
        self._rng = np.random.default_rng(config.seed)
        self._stage_children: dict[str, Any] = {}
        self._recent: deque[Mapping[str, float]] = deque(maxlen=RECENT)
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, load the arms, and bring user state up to date."""
        self.state: UserState = await self._open_state()
        await replay(self.state, self.events.recovered)
        self.events.recovered.clear()
        self._connection: TorchServeConnection | None = None
        posts = self.config.posts_under_way
        if self.config.scorer_url:
            file = self.config.scorer_token_file
            token = Path(file) if file else self._scorer_token
            slots = len(self._loaded) * posts
            self._connection = TorchServeConnection(self.config.scorer_url, token, slots=slots)
        for variant, loaded in enumerate(self._loaded):
            scorer: Scorer = (
                TorchServeScorer(self._connection, loaded.version, under_way=posts)
                if self._connection and variant not in self.config.in_process
                else LocalScorer(loaded.bundle.ranker)
            )
            self.arms.add(self._arm(self.config.names[variant], loaded, scorer))
        self.arms.restore()
        self.arms.change(self.arms.settings)
        await self._warm_up()
        self._background = [asyncio.ensure_future(self._roll_now_and_then())]
        self.metrics.ready.set(1)

    async def close(self) -> None:
        """Finish what is under way, and write everything to disk."""
        self.metrics.ready.set(0)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.shadow.close()
        await self.events.close()
        await self.state.close()
        if self._connection:
            await self._connection.close()

    def drain(self) -> None:
        """Say no at ``/ready``; requests are answered still."""
        self.draining = True
        self.metrics.ready.set(0)

    async def feed(self, query: api.FeedQuery, began: float) -> tuple[bytes, Request]:
        """A feed as JSON, whatever happens to the stages.

        Parameters
        ----------
        began
            When the request came (``time.perf_counter``).

        Raises
        ------
        HttpError
            422 for a variant that there is not, 503 beyond the declared number of requests.
        """
        if self.in_flight >= self.config.most_in_flight:
            wait = {"Retry-After": "1"}
            raise HttpError(503, f"{self.in_flight} feeds are under way already", wait)
        unit = query.unit_id or str(query.user_id)
        variant, inside = query.variant, False
        if variant is None:
            assigned = self.arms.variant_of(unit)
            variant, inside = assigned or 0, assigned is not None
        elif variant >= len(self.arms):
            raise HttpError(422, f"variant = {variant} must be below {len(self.arms)}")
        arm = self.arms[variant]
        request = Request(
            self.ids.new(query.user_id), query.user_id, unit, query.k, variant, inside
        )
        self.in_flight += 1
        try:
            admitted = time.perf_counter() - began
            request.timings_ms["admit"] = 1000 * admitted
            self._observe_stage("admit", admitted)
            await execute_stages(
                arm.pipeline,
                request,
                deadlines_s=self._deadlines,
                observe=self._observe_stage,
                on_error=_log_error,
            )
        finally:
            self.in_flight -= 1
        answering = time.perf_counter()
        shown = request.shown
        assert shown is not None
        self.served.add(
            request.request_id,
            Served(unit, variant, arm.name, arm.loaded.version, shown.items),
        )
        request.timings_ms["total"] = 1000 * (answering - began)
        body = orjson.dumps(
            {
                "request_id": request.request_id,
                "user_id": request.user_id,
                "variant": variant,
                "arm": arm.name,
                "version": arm.loaded.version,
                "cold_start": request.cold_start,
                "fallback": request.missed[0] if request.missed else None,
                "items": answer_items(request, arm.loaded),
                "timings_ms": request.timings_ms,
            }
        )
        self._recent.append(request.timings_ms)
        self.shadow.offer(request)
        now = time.perf_counter()
        self._child("answer").observe(now - answering)
        self.metrics.latency.observe(now - began)
        return body, request

    async def react(self, event: api.EventIn) -> api.EventAnswer:
        """Take a reaction; when this returns it is on disk and in the user's history.

        Raises
        ------
        HttpError
            403 for a request id that was not made for this user, 404 for an item that nobody has,
            409 for an item that this request did not show and for an id of another event, 507 and
            503 when the event is not in the log.
        """
        kind = event.reaction.value
        served = self.served.get(event.request_id)
        if not self.ids.issued(event.request_id, event.user_id):
            self._count(kind, "forged")
            raise HttpError(403, "request_id is of no feed of this user; send the feed's own")
        last = max(arm.loaded.catalogue.n_items for arm in self.arms.arms)
        if event.item_id > last:
            self._count(kind, "unknown_item")
            told = f"item_id = {event.item_id} is not in the catalogue, which ends at {last}"
            raise HttpError(404, f"{told}; send an item of the feed")
        if served is not None and served.position(event.item_id) < 0:
            self._count(kind, "not_shown")
            told = f"item_id = {event.item_id} was not in feed {event.request_id}"
            raise HttpError(409, f"{told}; send one of its items")
        record = event.model_dump(mode="json") | {
            "unit_id": served.unit_id if served else str(event.user_id),
            "variant": served.variant if served else -1,
            "arm": served.arm if served else "",
            "version": served.version if served else "",
            "position": served.position(event.item_id) if served else -1,
            "at": time.time_ns() // 1000,
        }
        try:
            duplicate = await self.events.react(record)
        except EventConflict as error:
            self._count(kind, "conflict")
            raise HttpError(409, str(error)) from error
        except LogRefused as error:
            self._count(kind, "refused")
            wait = {"Retry-After": "1"}
            raise HttpError(error.status, str(error), wait) from error
        # Also for a duplicate: the first try may have ended between the log and the state.
        rating = api.signed_rating(event.reaction)
        try:
            await self.state.append(event.user_id, event.item_id, rating, event.event_id)
        except Exception:  # the event is on disk, so it is acknowledged; a restart replays it
            self.metrics.state_errors.labels("append").inc()
            log.exception("event %s is in the log and not in the user state", event.event_id)
        self._count(kind, "duplicate" if duplicate else "accepted")
        return api.EventAnswer(event_id=event.event_id, duplicate=duplicate)

    async def add_bundle(self, asked: api.BundleIn) -> api.Arm:
        """Load a bundle as a new arm of weight 0; its ranker runs in this process.

        Raises
        ------
        HttpError
            403 outside the bundle root, 409 for a bundle that does not fit or a name that is taken.
        """
        if not self.config.bundle_root:
            raise HttpError(403, "this gateway loads no bundles: it was started without a root")
        root = Path(self.config.bundle_root).resolve()
        folder = (root / asked.folder).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise HttpError(403, "folder must be below the gateway's bundle root")
        try:
            loaded = await asyncio.to_thread(self._load, folder, judged=True)
            name = asked.arm or arm_name(len(self.arms))
            self.arms.add(self._arm(name, loaded, LocalScorer(loaded.bundle.ranker)))
        except InputError as error:
            raise HttpError(409, str(error)) from error
        return self.arms.described()[-1]

    def interleave(self, asked: api.InterleavedIn) -> api.Arm:
        """A new arm of weight 0 that drafts each feed from two others.

        Raises
        ------
        HttpError
            422 for a variant that there is not, 409 for two that cannot be interleaved.
        """
        first, second = asked.variants
        if max(first, second) >= len(self.arms):
            raise HttpError(422, f"variants = {asked.variants} must be below {len(self.arms)}")
        try:
            pair = self.arms[first], self.arms[second]
            self.arms.add(interleaved_arm(asked.arm, pair, asked.variants, self._rng))
        except InputError as error:
            raise HttpError(409, str(error)) from error
        return self.arms.described()[-1]

    def set_experiment(self, asked: api.ExperimentIn) -> api.Experiment:
        """Change weights, coverage and shadow; on disk when this returns.

        Raises
        ------
        HttpError
            422 for what does not fit the arms, 507 when it cannot be kept.
        """
        shadow, share = asked.shadow, asked.shadow_share
        try:
            self.arms.change(Settings(tuple(asked.weights), asked.coverage, shadow, share))
        except InputError as error:
            raise HttpError(422, str(error)) from error
        except OSError as error:
            raise HttpError(507, f"the settings cannot be kept: {error.strerror}") from error
        return self.experiment()

    def experiment(self) -> api.Experiment:
        return api.Experiment(
            name=self.arms.experiment,
            coverage=self.arms.settings.coverage,
            arms=self.arms.described(),
            shadow=self.shadow.report(),
        )

    def readiness(self) -> api.Readiness:
        return api.Readiness(
            ready=not self.draining and len(self.arms) > 0,
            draining=self.draining,
            scorer="failing" if self._scorer_failing() else "ok",
            user_state="degraded" if self.state.degraded else "ok",
        )

    async def people(self) -> list[api.Person]:
        """Some users for the page, with what they watched last."""
        titles = self.arms[0].loaded.catalogue.titles
        return [person(user, history, titles) for user, history in await self.state.people(PEOPLE)]

    def stages(self) -> list[api.StageLatency]:
        """Latency of each stage over the last requests."""
        return stage_latencies(self._recent)

    def tell(self) -> None:
        """Set the gauges that are read at a scrape."""
        self.metrics.pending.set(self.events.pending)
        self.metrics.in_flight.set(self.in_flight)
        self.metrics.breaker_open.set(self._scorer_failing())
        self.metrics.state_degraded.set(self.state.degraded)

    def _scorer_failing(self) -> bool:
        return any(arm.pipeline.score.breaker.open for arm in self.arms.asked())

    def _load(self, folder: Path, *, judged: bool = False) -> LoadedBundle:
        try:
            loaded = loaded_bundle.load(folder)
            if judged:
                loaded_bundle.require_gates(loaded.bundle)
            return loaded
        except Mismatch as error:
            self.metrics.mismatch.labels(error.part).inc()
            raise

    def _arm(self, name: str, loaded: LoadedBundle, scorer: Scorer) -> Arm:
        # One of its own: a candidate that hangs must not make the champion fall back.
        breaker = CircuitBreaker(
            failures=self.config.breaker_failures, cooldown_s=self.config.breaker_cooldown_s
        )
        pipeline = build_pipeline(
            loaded,
            arm=name,
            experiment=lambda: self.arms.experiment,
            state=self.state,
            scorer=scorer,
            breaker=breaker,
            expose=self.events.expose,
            metrics=self.metrics,
            last_good=LastGood(),
            withdrawn=self.withdrawn,
            rng=self._rng,
        )
        return Arm(name, loaded, pipeline)

    async def _warm_up(self) -> None:
        """Feeds that nobody asked for, before the first that somebody does.

        TorchServe's Java takes ten times as long for its first requests as for its hundredth; they
        would miss their deadline.
        """
        people = list(self._initial)[:WARM_UP]
        for variant, arm in enumerate(self.arms.arms):
            try:
                async with asyncio.timeout(WARM_UP_S):
                    for user in people:
                        await arm.pipeline.rank(Request("warm-up", user, str(user), 1, variant))
            except (DependencyDown, TimeoutError, InputError) as error:
                log.warning("arm %s is not warm: %r", arm.name, error)

    async def _open_state(self) -> UserState:
        if not self.config.redis_url:
            return SqliteState(self.config.state_path, self._initial)
        from capstone.user_state_redis import RedisState

        return await RedisState.connect(
            self.config.redis_url,
            self._initial,
            timeout_s=0.6 * self._deadlines["hydrate"],
            on_error=lambda operation: self.metrics.state_errors.labels(operation).inc(),
        )

    async def _roll_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self.config.roll_s)
            try:
                await self.events.roll()
            except Exception:
                self.metrics.log_errors.labels("parquet").inc()
                log.exception("the event log could not be moved to Parquet; it is tried again")

    def _child(self, stage: str) -> Any:
        child = self._stage_children.get(stage)
        if child is None:
            child = self._stage_children[stage] = self.metrics.stage.labels(stage)
        return child

    def _observe_stage(self, stage: str, seconds: float) -> None:
        self._child(stage).observe(seconds)

    def _count(self, reaction: str, outcome: str) -> None:
        self.metrics.events.labels(reaction, outcome).inc()


def _log_error(request: Request, stage: str, error: Exception) -> None:
    log.error("request %s: stage %s failed", request.request_id, stage, exc_info=error)
