"""The HTTP service: feeds, reactions, the experiment, the page, and what operators look at.

It listens on loopback unless told otherwise. ``python -m capstone.gateway CONFIG`` is started by
:mod:`capstone.serving`; the secrets come through the environment, never through the command line.

=================  ======  =========================================================
``POST /feed``     client  a feed (:class:`capstone.api.FeedQuery`)
``POST /events``   client  a reaction (:class:`capstone.api.EventIn`)
``GET /users``     client  some people for the page
``GET /stages``    client  latency by stage over the last requests
``GET /experiment``  client  arms, weights, shadow
``PUT /experiment``  admin   change them
``POST /bundles``  admin   load a bundle as a new arm of weight 0
``POST /interleaved``  admin   a new arm of weight 0 that drafts its feeds from two others
``PUT /withdrawn``  admin   items that nobody may be shown any more
``GET /health``    open    the process answers
``GET /ready``     open    send traffic (200) or not (503)
``GET /metrics``   open    Prometheus
=================  ======  =========================================================
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.routing import Match

from capstone import api
from capstone.feed_service import FeedService
from capstone.gateway_config import GatewayConfig
from capstone.gateway_http import Exchange, Gate, parsed, require_json
from common.errors import EXIT_BAD_INPUT, InputError
from labs.lab4_model_serving.json_logs import AccessLog
from labs.lab4_model_serving.protocol import HttpError

PAGE = Path(__file__).with_name("page")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""A title is text of somebody else: should the page ever take it for markup, nothing of it runs."""
MIN_TOKEN = 16
DESCRIPTIONS = {
    400: "The body is no JSON",
    401: "No token, or not this service's",
    403: "Not allowed with this token, or a forged request id",
    404: "No such item",
    409: "In conflict with what is there",
    413: "The body is too long",
    415: "The content type is not application/json",
    422: "JSON that does not fit; the message names the fields",
    503: "Too much at once, or a disk that fails; see Retry-After",
    507: "No room on disk",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": api.Problem, "description": DESCRIPTIONS[status]} for status in statuses
    }


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def create_app(
    config: GatewayConfig, *, token: str, admin_token: str, scorer_token: str = ""
) -> Gate:
    """The ASGI application; its service is ``app.service``.

    Raises
    ------
    InputError
        A token that is too short, or what :class:`capstone.feed_service.FeedService` refuses.
    """
    for name, value in (("FEED_TOKEN", token), ("FEED_ADMIN_TOKEN", admin_token)):
        if len(value) < MIN_TOKEN:
            raise InputError(f"{name} has {len(value)} characters, at least {MIN_TOKEN} are needed")
    # Not the clients' own token: with that they could sign an id for anybody.
    service = FeedService(config, secret=admin_token, scorer_token=scorer_token)
    access = None
    if config.access_log:
        access = AccessLog(Path(config.access_log), sample=config.access_sample, slow_ms=50.0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()
            if access is not None:
                access.close()

    async def feed(body: bytes, exchange: Exchange) -> bytes:
        query = parsed(api.FeedQuery, body)
        if query.variant is not None and not exchange.admin:
            # Who may choose an arm is not assigned to one: the comparison would be theirs.
            raise HttpError(403, "variant needs the admin's token; leave it out to be assigned one")
        answer, request = await service.feed(query, exchange.began)
        if access is not None:
            exchange.fields |= {
                "request_id": request.request_id,
                "user_id": request.user_id,
                "variant": request.variant,
                "fallback": request.missed[0] if request.missed else None,
                "items": len(request.shown.items) if request.shown else 0,
                **{f"{stage}_ms": ms for stage, ms in request.timings_ms.items()},
            }
            exchange.fields.pop("total_ms")
        return answer

    async def events(body: bytes, exchange: Exchange) -> bytes:
        event = parsed(api.EventIn, body)
        exchange.fields |= {"event_id": event.event_id, "user_id": event.user_id}
        return (await service.react(event)).model_dump_json().encode()

    app = _routes(service, config, lifespan)
    gate = Gate(
        {("POST", "/feed"): feed, ("POST", "/events"): events},
        app, token=token, admin_token=admin_token, metrics=service.metrics, access=access,
    )  # fmt: skip
    gate.service = service  # type: ignore[attr-defined]
    gate.openapi = app.openapi  # type: ignore[attr-defined]
    return gate


def _routes(service: FeedService, config: GatewayConfig, lifespan: Any) -> FastAPI:
    app = FastAPI(
        title="Feed",
        description="A feed-ranking service over MovieLens 100K; its creators are simulated.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_problems(401, 413),
    )
    bearer = HTTPBearer(auto_error=False)

    @app.exception_handler(HttpError)
    async def refused(request: Request, error: HttpError) -> Response:
        return JSONResponse({"detail": error.message}, error.status, dict(error.headers))

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(str(fault["msg"]) for fault in error.errors())
        return JSONResponse({"detail": told[:1000]}, 422)

    @app.exception_handler(405)
    async def wrong_method(request: Request, error: Exception) -> Response:
        # Starlette tells of the first route of a path only: PUT would be missing here and there.
        allowed: set[str] = set()
        for route in app.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                allowed |= getattr(route, "methods", None) or set()
        allow = ", ".join(sorted(allowed))
        detail = f"the method of {request.url.path} must be {allow}, not {request.method}"
        return JSONResponse({"detail": detail}, 405, {"Allow": allow})

    async def answered_before(request: Request) -> Response:
        raise HttpError(404, "this route is answered before the application")

    # The gate answers these two; here they are for OpenAPI.
    for path, takes, gives, problems in (
        ("/feed", api.FeedQuery, api.FeedAnswer, (400, 403, 415, 422, 503)),
        ("/events", api.EventIn, api.EventAnswer, (400, 403, 404, 409, 415, 422, 503, 507)),
    ):
        app.post(
            path, responses=_problems(*problems) | {200: {"model": gives}},
            response_model=None, openapi_extra=_takes(takes), name=path[1:],
        )(answered_before)  # fmt: skip

    async def body_of(request: Request, model: type[Any]) -> Any:
        require_json(request.headers.get("content-type", ""))
        return parsed(model, await request.body())

    @app.get("/users")
    async def users() -> list[api.Person]:
        return await service.people()

    @app.get("/stages")
    async def stages() -> list[api.StageLatency]:
        return service.stages()

    @app.get("/experiment")
    async def experiment() -> api.Experiment:
        return service.experiment()

    refusals = _problems(400, 403, 415, 422)

    @app.put(
        "/experiment", responses=refusals | _problems(507), openapi_extra=_takes(api.ExperimentIn)
    )
    async def change_experiment(request: Request) -> api.Experiment:
        return service.set_experiment(await body_of(request, api.ExperimentIn))

    @app.post(
        "/bundles", responses=refusals | _problems(409), openapi_extra=_takes(api.BundleIn)
    )  # fmt: skip
    async def add_bundle(request: Request) -> api.Arm:
        return await service.add_bundle(await body_of(request, api.BundleIn))

    @app.post(
        "/interleaved", responses=refusals | _problems(409), openapi_extra=_takes(api.InterleavedIn)
    )  # fmt: skip
    async def interleave(request: Request) -> api.Arm:
        return service.interleave(await body_of(request, api.InterleavedIn))

    @app.put("/withdrawn", responses=refusals, openapi_extra=_takes(api.WithdrawnIn))
    async def withdraw(request: Request) -> api.WithdrawnIn:
        asked: api.WithdrawnIn = await body_of(request, api.WithdrawnIn)
        service.withdrawn.replace(asked.items)
        return asked

    @app.get("/health")
    async def health() -> api.Health:
        return api.Health(status="ok", versions=[arm.version for arm in service.arms.described()])

    @app.get("/ready", responses={503: {"model": api.Readiness, "description": "Not ready"}})
    async def ready(response: Response) -> api.Readiness:
        found = service.readiness()
        response.status_code = 200 if found.ready else 503
        return found

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        service.tell()
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4")

    page = Path(config.page) if config.page else PAGE
    if (page / "index.html").is_file():
        app.mount("/static", _PageFiles(directory=page))

        @app.get("/", include_in_schema=False)
        async def index() -> Response:
            return FileResponse(page / "index.html", headers=PAGE_HEADERS)

    _describe(app, bearer)
    return app


class _PageFiles(StaticFiles):
    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(PAGE_HEADERS)
        return response


def _describe(app: FastAPI, bearer: HTTPBearer) -> None:
    """Add to the OpenAPI what the gate does: the token, and the models it parses itself."""
    plain = app.openapi
    models = (
        api.FeedQuery, api.EventIn, api.ExperimentIn, api.BundleIn, api.InterleavedIn,
        api.WithdrawnIn,
    )  # fmt: skip

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schemas = schema["components"]["schemas"]
            for model in models:
                made = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= made.pop("$defs", {})
                schemas[model.__name__] = made
            schema["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": bearer.model.scheme}  # type: ignore[attr-defined]
            }
            schema["security"] = [{"token": []}]
            for path in ("/health", "/ready", "/metrics"):
                schema["paths"][path]["get"]["security"] = []
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


class DrainingServer(uvicorn.Server):
    """Says "not ready" at the first signal, serves on for ``drain_s``, and then ends in order.

    A load balancer takes some seconds to see that a server is not ready. One that stops at once
    refuses what is sent meanwhile.
    """

    def __init__(self, config: uvicorn.Config, service: FeedService, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self._service.draining
        self._service.drain()
        if again or self._drain_s == 0:
            self.should_exit = True  # requests under way are answered, the logs written
        else:
            timer = threading.Timer(self._drain_s, setattr, (self, "should_exit", True))
            timer.daemon = True
            timer.start()


def main(path: str) -> int:
    """Serve until a signal comes."""
    try:
        config = GatewayConfig.read(Path(path))
        app = create_app(
            config,
            token=os.environ.get("FEED_TOKEN", ""),
            admin_token=os.environ.get("FEED_ADMIN_TOKEN", ""),
            scorer_token=os.environ.get("SCORER_TOKEN", ""),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    options = uvicorn.Config(
        app, host=config.host, port=config.port, log_level="warning", access_log=False,
        loop="uvloop", http="httptools", lifespan="on", timeout_graceful_shutdown=5,
        timeout_keep_alive=75, backlog=2048,
    )  # fmt: skip
    # What is loaded now stays: collections need not look at it again. And there are fewer of them,
    # since a feed leaves nothing behind that refers to itself.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    DrainingServer(options, app.service, config.drain_s).run()  # type: ignore[attr-defined]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
