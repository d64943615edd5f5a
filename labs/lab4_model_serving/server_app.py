"""What is at which path of the model server, who may ask for it, and what it answers.

A prediction is two callbacks, :meth:`ModelServer.handle` when it has been read and ``_answered``
when its batch has run; a task for each would cost as much as both. Nothing here knows of sockets.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
import traceback
from functools import partial

from labs.lab4_model_serving.batcher import DeadlinePassed, QueueFull, Served
from labs.lab4_model_serving.http_connection import Slot
from labs.lab4_model_serving.json_logs import AccessLog
from labs.lab4_model_serving.management import is_management, respond
from labs.lab4_model_serving.protocol import (
    JSON,
    HttpError,
    Limits,
    Request,
    Response,
    Route,
    Token,
    answer_body,
    error_response,
    json_response,
    name_of,
    parse_target,
    text_of,
)
from labs.lab4_model_serving.serving_metrics import OTHER, ServingMetrics
from labs.lab4_model_serving.versions import LiveModel, Timed

PLAIN: dict[str, str] = {"/ping": "GET, HEAD", "/ready": "GET, HEAD", "/metrics": "GET, HEAD"}
"""What needs no token, since probes and scrapers have none, and its methods."""


class ModelServer:
    """What is at which path, and who may ask for it.

    Parameters
    ----------
    model
        The live versions.
    token, management_token
        What a prediction and a change of traffic must carry.
    log
        Gets a line for each answered or refused prediction; none by default.
    """

    def __init__(
        self,
        model: LiveModel,
        *,
        token: Token,
        management_token: Token,
        limits: Limits | None = None,
        log: AccessLog | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.metrics = ServingMetrics(model.name)
        self.draining = False
        self._token, self._management_token = token, management_token
        self._log = log
        self._announced: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, request: Request, slot: Slot) -> None:
        """Answer a request, now or later, through ``slot.reply``. Never raises."""
        try:
            target = parse_target(request.target)
            if target.route:
                self._predict(request, target.route, slot)
            elif is_management(target.path):
                self._management_token.check(request.headers.get(b"authorization", b""))
                self._refuse_while_draining()
                task = asyncio.get_running_loop().create_task(
                    self._manage(request, target.path, slot)
                )
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                slot.reply(self._plain(request, target.path))
        except Exception as error:
            slot.reply(self._refusal(request, error))

    def _plain(self, request: Request, path: str) -> Response:
        if path not in PLAIN:
            raise HttpError(404, f"nothing is at {path[:100]!r}")
        if request.method == "OPTIONS":
            return Response(204, b"", (("allow", PLAIN[path] + ", OPTIONS"),))
        _only(request, PLAIN[path])
        if path == "/ping":
            return json_response({"status": "alive"})
        if path == "/ready":
            if self.draining or not self.model.versions:
                raise HttpError(503, "draining" if self.draining else "no model is loaded")
            return json_response({"status": "ready", "versions": list(self.model.versions)})
        for gone in self._announced - self.model.versions.keys():
            self.metrics.unloaded(gone)
            self._announced.discard(gone)
        for version, live in self.model.versions.items():
            self._announce(version)
            self.metrics.queue_depth(version, live.batcher.depth)
        body, content_type = self.metrics.exposition()
        return Response(200, body, (("content-type", content_type),))

    def _predict(self, request: Request, route: Route, slot: Slot) -> None:
        if request.method != "POST":
            if request.method == "OPTIONS":
                slot.reply(Response(204, b"", (("allow", "POST, OPTIONS"),)))
                return
            _only(request, "POST")
        version = route.version
        try:
            self._token.check(request.headers.get(b"authorization", b""))
            if route.model != self.model.name:
                raise HttpError(404, f"no model {route.model[:50]!r}")
            self._refuse_while_draining()
            text = text_of(request.body, request.header(b"content-type"), self.limits)
            # From the choice to the queue nothing is awaited: no version leaves in between.
            user = name_of(request.headers.get(b"x-user", b"")) or request.id
            version = self.model.choose(user, route.version)
            self._announce(version)
            future = self.model.submit(
                text,
                version,
                request_id=request.id,
                counted=not route.version,
                client=name_of(request.headers.get(b"x-client", b"")),
                enqueued=request.arrived,
            )
        except Exception as error:
            # Without a token anybody may ask for anything: only what is live gets a label.
            label = version if version in self.model.versions else OTHER
            self._refused(request, version, slot, error, label=label)
        else:
            slot.pending = future  # type: ignore[assignment]
            future.add_done_callback(partial(self._answered, request, version, slot))

    def _answered(
        self, request: Request, version: str, slot: Slot, future: asyncio.Future[Served[Timed]]
    ) -> None:
        if future.cancelled():
            self.metrics.refused(version, 499)  # nginx's number for a client that went away
            return
        try:
            served = future.result()
            timed = served.result
            slot.reply(
                Response(
                    200,
                    answer_body(timed.answer, version),
                    (
                        ("content-type", JSON),
                        ("x-model-version", version),
                        ("x-request-id", request.id),
                    ),
                )
            )
        except Exception as error:
            self._refused(request, version, slot, error, label=version)
            return
        total_s = time.perf_counter() - request.arrived
        self.metrics.observe(
            version,
            200,
            queue_s=served.queue_s,
            input_s=timed.input_s,
            compute_s=timed.compute_s,
            output_s=timed.output_s,
            total_s=total_s,
        )
        if self._log:
            self._log.write(
                request_id=request.id,
                model=self.model.name,
                version=version,
                status=200,
                client=name_of(request.headers.get(b"x-client", b"")),
                queue_ms=1000 * served.queue_s,
                input_ms=1000 * timed.input_s,
                compute_ms=1000 * timed.compute_s,
                output_ms=1000 * timed.output_s,
                total_ms=1000 * total_s,
                batch_size=served.batch,
            )

    def _refused(
        self, request: Request, version: str, slot: Slot, error: Exception, *, label: str
    ) -> None:
        response = self._refusal(request, error)
        slot.reply(response)
        self.metrics.refused(label, response.status)
        if self._log:
            self._log.write(
                request_id=request.id,
                model=self.model.name,
                version=version[:64],
                status=response.status,
                client=name_of(request.headers.get(b"x-client", b"")),
                total_ms=1000 * (time.perf_counter() - request.arrived),
            )

    def _refusal(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HttpError):
            return error_response(error, request.id)
        if isinstance(error, QueueFull):
            wait = str(max(1, math.ceil(error.retry_after_s)))
            busy = HttpError(503, "too many requests wait already", {"Retry-After": wait})
            return error_response(busy, request.id)
        if isinstance(error, DeadlinePassed):
            late = HttpError(504, "the request waited longer than its deadline, and was not run")
            return error_response(late, request.id)
        # A bug must not look like a hung connection, and its details are nobody's business.
        traceback.print_exception(error, file=sys.stderr)
        print(f"error: {request.id}: {error!r}", file=sys.stderr, flush=True)
        return error_response(HttpError(500, "internal error"), request.id)

    async def _manage(self, request: Request, path: str, slot: Slot) -> None:
        try:
            status, content = await respond(self.model, request.method, path, request.body)
            response = json_response(content, status)
            response.headers = (*response.headers, ("x-request-id", request.id))
            slot.reply(response)
        except Exception as error:
            slot.reply(self._refusal(request, error))

    def _refuse_while_draining(self) -> None:
        if self.draining:
            again = {"Retry-After": "1", "Connection": "close"}
            raise HttpError(503, "the server is stopping; ask another one", again)

    def _announce(self, version: str) -> None:
        live = self.model.versions[version]
        if version in self._announced and live.batcher.on_batch is not None:
            return  # one that was unloaded and loaded again has a new batcher
        live.batcher.on_batch = partial(self.metrics.batch, version)
        self.metrics.info(version, precision=live.predictor.bundle.precision)
        self.metrics.queue_limit(version, live.batcher.max_queue)
        self._announced.add(version)

    async def drain(self) -> None:
        """Refuse what comes, and return when all that was accepted is answered."""
        self.draining = True
        await self.model.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _only(request: Request, allowed: str) -> None:
    if request.method not in allowed.split(", "):
        message = f"{request.method} is not allowed here, {allowed} is"
        raise HttpError(405, message, {"Allow": allowed + ", OPTIONS"})
