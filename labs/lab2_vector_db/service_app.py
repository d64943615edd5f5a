"""The HTTP service over one collection: routes, limits, errors and metrics.

:mod:`labs.lab2_vector_db.service` starts it. The event loop reads and writes JSON; everything that
searches, waits for a disk or copies rows runs in worker threads, in pools of their own, so that no
kind of request can take all threads from another.
"""

from __future__ import annotations

import errno
import hmac
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import faiss
import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Path, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from common.errors import InputError, RunError
from labs.lab2_vector_db.collection import Collection, CollectionStats, Hits
from labs.lab2_vector_db.filters import filter_from_json
from labs.lab2_vector_db.request_checks import MAX_ID
from labs.lab2_vector_db.service_metrics import Metrics
from labs.lab2_vector_db.service_models import (
    Deleted,
    Done,
    Health,
    Ids,
    Neighbours,
    Point,
    Points,
    Problem,
    Readiness,
    Search,
    SearchParameters,
    Upserted,
)

T = TypeVar("T")
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
MAX_BODY_BYTES = 32 * 2**20
WRITERS = 32  # threads that wait for an fsync, and share it
WAITING = 64  # requests in line for a thread; at 10 ms each the last one waits 0.3 s on two cores
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PointPath = Annotated[int, Path(ge=0, le=MAX_ID)]


class Pool:
    """``threads`` workers and a bounded line before them: an M/M/c/K queue.

    A request that finds the line full is refused at once (503): in a line that only grows, every
    answer would come too late for whoever asked.
    """

    def __init__(self, what: str, threads: int, waiting: int = WAITING) -> None:
        self.what, self.waiting = what, waiting
        self._limiter = CapacityLimiter(threads)

    async def run(self, work: Callable[[], T]) -> T:
        """Call ``work`` in a thread, when one is free."""
        if self._limiter.statistics().tasks_waiting >= self.waiting:
            raise HTTPException(
                503,
                f"{self.waiting} {self.what} are waiting already; come back in a second",
                headers={"Retry-After": "1"},
            )
        return await to_thread.run_sync(work, limiter=self._limiter)


class Gate:
    """Before the routes: times every request, and turns away what has no token or is too large.

    FastAPI reads the body before it looks at dependencies. A token checked there would let anyone
    send as much as they like.
    """

    def __init__(self, app: Any, *, token: str, max_body_bytes: int, metrics: Metrics) -> None:
        self.app, self.max_body_bytes, self.metrics = app, max_body_bytes, metrics
        self._token = token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, self._limited(receive), sending)
            else:
                await refusal(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            took = time.perf_counter() - began
            self.metrics.seconds.labels(route, str(status)).observe(took)

    def _refusal(self, scope: Any) -> Response | None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token, self._token):
                return problem(
                    401,
                    "send the service's token as Authorization: Bearer <token>",
                    {"WWW-Authenticate": "Bearer"},
                )
        if int(headers.get(b"content-length", b"0")) > self.max_body_bytes:
            return problem(413, self._too_large())
        return None

    def _limited(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """A body sent in chunks says no length, and is counted."""
        n_bytes = 0

        async def limited() -> Any:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"a request may have {self.max_body_bytes} bytes; send smaller batches"


def create_app(
    collection: Collection,
    token: str,
    *,
    search_threads: int | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """The application.

    Parameters
    ----------
    collection
        Open for writing; the caller closes it, after the last request.
    token
        What clients must send as ``Authorization: Bearer``, except to /healthz, /readyz, /metrics.
    search_threads
        Searches that run at once, each on one faiss thread. None: as many as cores. More would
        not answer more a second, and each would take longer.
    max_body_bytes
        Larger requests get 413.
    """
    cores = len(os.sched_getaffinity(0))
    metrics = Metrics()
    searches = Pool("searches", search_threads or cores)
    writes, looks = Pool("writes", WRITERS), Pool("requests", 4)
    maintaining = threading.Lock()
    readiness = Readiness()

    codes = (401, 404, 409, 413, 422, 503, 507)
    app = FastAPI(
        title="Vector database",
        description="Durable upserts, filtered nearest-neighbour search. Docs: the Lab 2 lessons.",
        docs_url=None,
        redoc_url=None,
        responses={code: {"model": Problem} for code in codes},
    )
    app.add_middleware(
        Gate,  # type: ignore[arg-type]
        token=token,
        max_body_bytes=max_body_bytes,
        metrics=metrics,
    )
    for kind in (InputError, RequestValidationError, RunError):
        app.add_exception_handler(kind, answer_error)
    bearer = [Depends(HTTPBearer(auto_error=False))]  # for the OpenAPI document; Gate checks it

    async def written(work: Callable[[], T]) -> T:
        try:
            result = await writes.run(work)
        except RunError as error:
            readiness.writes = str(error)
            raise
        readiness.writes = "ok"
        return result

    @app.post("/v1/points", dependencies=bearer)
    async def upsert(points: Points) -> Upserted:
        """Insert or replace rows; answered when they are on disk."""
        await written(lambda: collection.upsert(points.ids, points.vectors, points.payload))
        metrics.written.inc(len(points.ids))
        return Upserted(upserted=len(points.ids))

    @app.post("/v1/points/delete", dependencies=bearer)
    async def delete(given: Ids) -> Deleted:
        """Delete rows; answered when that is on disk."""
        n_deleted = await written(lambda: collection.delete(given.ids))
        metrics.deleted.inc(n_deleted)
        return Deleted(deleted=n_deleted)

    @app.get("/v1/points/{id}", dependencies=bearer)
    async def get(id: PointPath) -> Point:
        """One row."""
        (record,) = await looks.run(lambda: collection.get([id]))
        if record is None:
            raise HTTPException(404, f"id {id} is not in the collection")
        return Point(id=id, vector=record.vector.tolist(), payload=record.payload)

    @app.post("/v1/search", dependencies=bearer)
    async def search(wanted: Search) -> Neighbours:
        """The nearest rows of each query, among those that match the filter."""

        def work() -> Neighbours:
            hits = collection.search(wanted.queries, wanted.k, **how(wanted))
            return neighbours(collection, hits, wanted.with_payload)

        found = await searches.run(on_one_thread(work))
        metrics.queries.inc(len(wanted.queries))
        return found

    @app.post("/v1/search/{id}", dependencies=bearer)
    async def search_by_id(id: PointPath, wanted: SearchParameters) -> Neighbours:
        """The rows nearest to a stored one, itself left out."""

        def work() -> Neighbours:
            if collection.get([id]) == [None]:
                raise HTTPException(404, f"id {id} is not in the collection")
            hits = collection.search_by_id(id, wanted.k, **how(wanted))
            return neighbours(collection, hits, wanted.with_payload)

        found = await searches.run(on_one_thread(work))
        metrics.queries.inc()
        return found

    @app.get("/v1/stats", dependencies=bearer)
    async def stats() -> CollectionStats:
        """Rows, tombstones, segments, bytes in memory and on disk, drift."""
        return await looks.run(collection.stats)

    async def maintain(work: Callable[[], None]) -> Done:
        if not maintaining.acquire(blocking=False):
            raise HTTPException(409, "a flush or compaction is running; wait for its answer")
        try:
            await written(work)
        finally:
            maintaining.release()
        now = await looks.run(collection.stats)
        return Done(
            rows=now.n_rows, segments=len(now.segments), tombstone_share=now.tombstone_share
        )

    @app.post("/v1/flush", dependencies=bearer)
    async def flush() -> Done:
        """Write the rows in memory to a segment, and shorten the log."""
        return await maintain(collection.flush)

    @app.post("/v1/compact", dependencies=bearer)
    async def compact() -> Done:
        """Merge all segments into one without tombstones; answered when that is done."""

        def work() -> None:
            faiss.omp_set_num_threads(cores)  # a search may have left this thread with one
            collection.compact()

        return await maintain(work)

    @app.get("/healthz")
    async def healthz() -> Health:
        """The process answers. When this fails, restart it."""
        return Health()

    @app.get("/readyz")
    async def readyz() -> Readiness:
        """The collection is open and searches are answered. When this fails, send nothing here."""
        return readiness

    @app.get("/metrics")
    async def prometheus() -> Response:
        """For Prometheus."""
        text = await looks.run(lambda: metrics.text(collection.stats()))
        return Response(text, media_type="text/plain; version=0.0.4")

    return app


def on_one_thread(work: Callable[[], T]) -> Callable[[], T]:
    """``work`` with one faiss thread: a setting of the thread that runs it."""

    def search() -> T:
        faiss.omp_set_num_threads(1)
        return work()

    return search


def how(wanted: SearchParameters) -> dict[str, Any]:
    """The options of ``Collection.search``."""
    condition = None if wanted.filter is None else filter_from_json(wanted.filter)
    return {
        "filter": condition,
        "nprobe": wanted.nprobe,
        "k_factor": wanted.k_factor,
        "rerank": wanted.rerank,
    }


def neighbours(collection: Collection, hits: Hits, with_payload: bool) -> Neighbours:
    """Hits as lists, the empty slots (-1, NaN) left out."""
    found = hits.ids >= 0
    scores = hits.scores.astype(object)
    scores[~np.isfinite(hits.scores)] = None
    ids = [row[here].tolist() for row, here in zip(hits.ids, found)]
    payloads = None
    if with_payload:
        unique = np.unique(hits.ids[found])
        payload_of = {row.id: row.payload for row in collection.get(unique) if row is not None}
        payloads = [[payload_of.get(id) for id in row] for row in ids]
    return Neighbours(
        ids=ids,
        scores=[row[here].tolist() for row, here in zip(scores, found)],
        payloads=payloads,
    )


def status_of(error: RunError) -> int:
    """507 when an error began with a full disk (or quota), 503 otherwise."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return 507
        if os.strerror(errno.ENOSPC) in str(cause):
            return 507
        cause = cause.__cause__
    return 503


async def answer_error(request: object, error: Exception) -> JSONResponse:
    """What the caller can change is 422; what the service cannot do now is 503 or 507."""
    if isinstance(error, RequestValidationError):
        return problem(422, first(error))
    if isinstance(error, RunError):
        return problem(status_of(error), str(error))
    return problem(422, str(error))


def first(error: RequestValidationError) -> str:
    """The first thing that a model found wrong, and how many more there are."""
    found = error.errors()
    where = ".".join(str(part) for part in found[0]["loc"])
    given = found[0].get("input") or found[0].get("ctx", {}).get("error")  # of broken JSON
    shown = "" if isinstance(given, list | dict) or given is None else f": {given!r:.60}"
    more = f" ({len(found) - 1} more such problems)" if len(found) > 1 else ""
    return f"{where}: {found[0]['msg']}{shown}{more}"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every route answers it."""
    return JSONResponse({"detail": detail}, status, headers)
