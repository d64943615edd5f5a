"""The bundle as a Ray Serve application: what runs inside the replicas.

Started by ``ray_serve.py`` in a process of its own: Ray reads its settings when it is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labs.lab4_model_serving import protocol
from labs.lab4_model_serving.bundle_server import TOKEN


def application(options: dict[str, Any]) -> Any:
    """The Ray Serve application of a bundle; ``options`` are those of ``ray_serve``."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    from labs.lab4_model_serving.length_runs import predict_in_runs
    from labs.lab4_model_serving.predictor import Predictor

    scaling: dict[str, Any] = {"num_replicas": options["replicas"]}
    if options["max_replicas"] > options["replicas"]:
        scaling = {
            "autoscaling_config": {
                "min_replicas": options["replicas"],
                "max_replicas": options["max_replicas"],
                "target_ongoing_requests": options["target_ongoing_requests"],
                "upscale_delay_s": options["upscale_delay_s"],
                "downscale_delay_s": options["downscale_delay_s"],
            }
        }

    class BundleDeployment:
        """One replica: a process with a model, and a queue that fills its batches."""

        def __init__(self, folder: str, name: str, token: str) -> None:
            _bind_to_loopback()
            self.predictor = Predictor(Path(folder))
            self.name, self.token = name, token
            self.limits = protocol.Limits()
            self.predictor.predict(["the first run is slow: not at a user's expense"])

        @serve.batch(
            max_batch_size=options["max_batch"],
            batch_wait_timeout_s=options["max_batch_delay_ms"] / 1000,
            max_concurrent_batches=1,
        )
        async def predict(self, texts: list[str]) -> list[bytes]:
            """Answers of a batch, as JSON. On a thread: the loop goes on reading requests."""
            answers = await asyncio.to_thread(predict_in_runs, self.predictor, texts)
            return [protocol.answer_body(each, self.predictor.version) for each in answers]

        async def __call__(self, request: Request) -> Response:
            # The proxy makes an id where the client sent none, and puts it into the answer.
            request_id = request.headers.get("x-request-id", "")[:64]
            headers = {"X-Model-Version": self.predictor.version}
            try:
                text = protocol.text_of(
                    await self._body(request),
                    request.headers.get("content-type", ""),
                    self.limits,
                )
                content, status = await self.predict(text), 200
            except protocol.HttpError as error:
                content, status = protocol.error_body(error, request_id), error.status
                headers |= error.headers
            return Response(content, status, headers, protocol.JSON)

        async def _body(self, request: Request) -> bytes:
            """What may be read of a request that may be served; else HttpError."""
            path = "/" + request.url.path.lstrip("/")
            route = protocol.route_of(path)
            if route is None:
                raise protocol.HttpError(404, f"nothing is at {path[:100]!r}")
            if request.method != "POST":
                raise protocol.HttpError(405, "POST is needed here", {"Allow": "POST"})
            protocol.check_token(request.headers.get("authorization", ""), self.token)
            if route.model != self.name or route.version not in ("", self.predictor.version):
                raise protocol.HttpError(404, f"no model at {path[:100]!r}")
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.limits.body_bytes:
                    raise protocol.too_large(self.limits)
            return bytes(body)

    deployment = serve.deployment(
        **scaling,
        max_ongoing_requests=options["max_ongoing"],
        max_queued_requests=options["max_queued"],
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        ray_actor_options={"num_cpus": options["cpus_per_replica"]},
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.1,
    )(BundleDeployment)
    return deployment.bind(  # type: ignore[attr-defined]
        options["bundle"], options["name"], os.environ[TOKEN]
    )


def _bind_to_loopback() -> None:
    # A replica of Ray Serve 2.60 opens a gRPC port on every network for its proxies, and unpickles
    # what comes in. It does so after the deployment's constructor, by this name.
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> Any:
        return bind(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = on_loopback


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM: ``python -m labs.lab4_model_serving.ray_app OPTIONS`` (JSON)."""
    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.ray_app")
    parser.add_argument("options", type=json.loads)
    options = parser.parse_args(arguments).options
    import ray
    from ray import serve

    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    ray.init(
        num_cpus=options["cpus"],
        include_dashboard=False,
        object_store_memory=options["object_store_bytes"],
        _node_ip_address="127.0.0.1",
        _temp_dir=options["folder"],
        logging_level=logging.WARNING,
        log_to_driver=True,
    )
    quiet = {"encoding": "TEXT", "log_level": "WARNING", "enable_access_log": False}
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": options["port"]},
        logging_config=quiet,
    )
    signal.signal(signal.SIGTERM, stop)
    serve.run(application(options), name=options["name"], route_prefix="/", logging_config=quiet)
    print("ready", flush=True)
    while not stopped:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
