"""The HTTP service: ``POST /feed`` returns a user's feed. FastAPI, token required.

It listens on loopback unless told otherwise. ``python -m capstone.gateway CONFIG`` is started by
:mod:`capstone.serving`; the secrets come through the environment, never through the command line.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import aiohttp
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, Field

from capstone import bundle
from capstone.feed import Request, ScorerDown, Stage, UserStore, build_stages, execute_stages
from common.ports import LOOPBACK
from labs.lab6_online_eval.assignment import assign

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class GatewayConfig:
    """What the gateway serves. Bundle ``i`` is variant ``i`` of the experiment."""

    bundles: list[str]
    users: str
    exposures: str
    scorer_url: str
    port: int
    host: str = LOOPBACK
    experiment: str = "feed"
    weights: tuple[float, ...] = (1.0,)

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> GatewayConfig:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class FeedQuery(BaseModel):
    """``unit_id`` is what an experiment randomises; it is the user unless given."""

    user_id: int = Field(ge=1)
    k: int = Field(default=10, ge=1, le=50)
    unit_id: str | None = Field(default=None, max_length=64)
    variant: int | None = Field(default=None, ge=0)


class Metrics:
    """Request and stage latency as histograms, so that a p99 can be aggregated."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stage = Histogram(
            "feed_stage_seconds",
            "Seconds in each stage of a feed request.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.requests = Counter(
            "feed_requests_total",
            "Feed requests by bundle version and status.",
            ["version", "status"],
            registry=self.registry,
        )

    def observe(self, stage: str, seconds: float) -> None:
        self.stage.labels(stage).observe(seconds)


def create_app(config: GatewayConfig, *, token: str, scorer_token: str) -> FastAPI:
    """The application. ``token`` is what clients must send as ``Authorization: Bearer``."""
    bundles = [bundle.load(Path(folder)) for folder in config.bundles]
    users = UserStore(Path(config.users))
    metrics = Metrics()
    variants: list[list[Stage]] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with Path(config.exposures).open("a", encoding="utf-8", buffering=1) as exposures:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=256), trust_env=False
            ) as client:
                variants.extend(
                    build_stages(
                        one,
                        users,
                        client,
                        scorer_url=f"{config.scorer_url}/predictions/ranker/{one.version}",
                        scorer_headers={"Authorization": f"Bearer {scorer_token}"},
                        write=lambda line: print(line, file=exposures),
                    )
                    for one in bundles
                )
                yield

    app = FastAPI(title="Feed", lifespan=lifespan, docs_url=None, redoc_url=None)

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "send the gateway's token as Authorization: Bearer <token>")

    @app.post("/feed", dependencies=[Depends(authorised)])
    async def feed(query: FeedQuery) -> dict[str, Any]:
        unit = query.unit_id or str(query.user_id)
        variant = query.variant
        if variant is None:
            variant = assign(unit, config.experiment, config.weights) or 0
        if variant >= len(bundles):
            raise HTTPException(422, f"variant {variant}: there are {len(bundles)}")
        if query.user_id not in users.histories:
            raise HTTPException(404, f"user {query.user_id} is not known")
        request = Request(query.user_id, unit, query.k, variant)
        version = bundles[variant].version
        try:
            await execute_stages(variants[variant], request, metrics.observe)
        except ScorerDown as error:
            metrics.requests.labels(version, "503").inc()
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
        metrics.requests.labels(version, "200").inc()
        return {
            "user_id": query.user_id,
            "variant": variant,
            "version": version,
            "items": request.items,
            "timings_ms": request.timings_ms,
        }

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "versions": [one.version for one in bundles]}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return app


def main(path: str) -> None:
    import uvicorn

    config = GatewayConfig.read(Path(path))
    app = create_app(
        config, token=os.environ["FEED_TOKEN"], scorer_token=os.environ["SCORER_TOKEN"]
    )
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1])
