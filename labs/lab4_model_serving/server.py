"""The lab's own model server: HTTP, one queue a version, batches, answers that say their version.

One thread reads requests, decides and writes answers; ONNX Runtime runs batches on others, without
the interpreter's lock. Start a server with :func:`serve_bundle`, or by hand:
``python -m labs.lab4_model_serving.server --bundle FOLDER``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.errors import InputError, RunError
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised
from labs.lab4_model_serving.batch_choice import check_settings
from labs.lab4_model_serving.batcher import Batcher
from labs.lab4_model_serving.bundle import read_bundle
from labs.lab4_model_serving.http_connection import Connection, ConnectionLimits, Site
from labs.lab4_model_serving.json_logs import AccessLog
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.protocol import Token
from labs.lab4_model_serving.server_app import ModelServer
from labs.lab4_model_serving.serving_metrics import SLO_S
from labs.lab4_model_serving.versions import BatchSettings, LiveModel, Timed

TOKEN = "SERVING_TOKEN"
MANAGEMENT_TOKEN = "SERVING_MANAGEMENT_TOKEN"
SWITCH_S = 0.0005
REPOSITORY = Path(__file__).resolve().parents[2]


async def serve(
    app: ModelServer,
    port: int,
    *,
    limits: ConnectionLimits | None = None,
    drain_s: float = 0.2,
    grace_s: float = 8.0,
) -> None:
    """Serve on 127.0.0.1 until SIGTERM or Ctrl-C, then drain.

    While it drains it listens on: new requests get 503, ``Retry-After`` and ``Connection: close``,
    and ``/ready`` says no. It ends when all that was accepted is answered and ``drain_s`` is over
    (a balancer needs time to see ``/ready``), after ``grace_s`` in any case.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    site = Site(app.handle, limits or ConnectionLimits())
    listener = await loop.create_server(lambda: Connection(site), LOOPBACK, port, backlog=1024)

    async def tick() -> None:
        while True:
            await asyncio.sleep(min(1.0, site.limits.head_s / 4))
            site.tick()

    clock = loop.create_task(tick())
    await stopping.wait()
    began = loop.time()
    site.draining = True
    drained = loop.create_task(app.drain())
    await asyncio.wait([drained], timeout=grace_s)
    while site.in_flight and loop.time() - began < grace_s:
        await asyncio.sleep(0.01)
    await asyncio.sleep(max(0.0, drain_s - (loop.time() - began)))
    listener.close()
    for connection in list(site.connections):
        connection.timed_out()
    # What was written last must leave before the process does.
    while site.connections and loop.time() - began < grace_s + 1:
        await asyncio.sleep(0.01)
    clock.cancel()


@dataclass(frozen=True)
class Server:
    """A running server. Made by :func:`serve_bundle`."""

    url: str
    name: str
    token: str
    management_token: str
    child: Child
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        """What a prediction must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    def prediction_url(self, version: str = "") -> str:
        return f"{self.url}/predictions/{self.name}" + (f"/{version}" if version else "")

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Change the share of requests that each version gets."""
        answer = httpx.put(
            f"{self.url}/models/{self.name}",
            json={"weights": dict(weights)},
            headers={"Authorization": f"Bearer {self.management_token}"},
            trust_env=False,
        )
        if answer.is_client_error:
            raise InputError(answer.json()["error"]["message"])
        answer.raise_for_status()


@contextmanager
def serve_bundle(
    bundles: Path | Sequence[Path],
    *,
    folder: Path,
    port: int | None = None,
    device: str = "cpu",
    threads: int = 1,
    settings: BatchSettings | None = None,
    model_store: Path | None = None,
    delays: Mapping[str, float] | None = None,
    log_sample: float = 0.0,
    token_lifetime_s: float = math.inf,
    options: Sequence[str] = (),
    start_timeout: float = 60,
) -> Iterator[Server]:
    """Serve bundles of one model (several versions) until the block ends.

    The first bundle gets all requests that name no version.

    Parameters
    ----------
    folder
        Receives ``server.log``.
    port
        On 127.0.0.1; None picks a free one.
    model_store
        Folder that bundles may be loaded from while the server runs; None switches that off.
    delays
        Version to seconds that each of its runs is delayed by, a fault put in on purpose.
    log_sample
        Share of the ordinary requests in ``access.log`` in ``folder``; 0 for no such file.
    token_lifetime_s
        The token for predictions expires so long after the start (s).
    options
        More arguments of ``python -m labs.lab4_model_serving.server``.

    Raises
    ------
    InputError
        A broken bundle, bundles of different models, a port in use.
    RunError
        The server did not start.
    """
    paths = [bundles] if isinstance(bundles, Path) else list(bundles)
    names = {read_bundle(path).name for path in paths}
    if len(names) != 1:
        raise InputError(f"one server serves one model; the bundles are of {sorted(names)}")
    if port:
        require_port_free(port, "the model server")
    port = port or free_port()
    settings = settings or BatchSettings()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    token, management_token = secrets.token_hex(16), secrets.token_hex(16)
    command = [sys.executable, "-m", "labs.lab4_model_serving.server", "--port", str(port)]
    command += ["--device", device, "--threads", str(threads)]
    command += ["--settings", json.dumps(vars(settings))]
    for path in paths:
        command += ["--bundle", str(path.resolve())]
    if model_store:
        command += ["--model-store", str(model_store.resolve())]
    for version, seconds in (delays or {}).items():
        command += ["--delay", f"{version}={seconds}"]
    if log_sample:
        command += ["--access-log", str(folder / "access.log"), "--log-sample", str(log_sample)]
    if token_lifetime_s < math.inf:
        command += ["--token-lifetime-s", str(token_lifetime_s)]
    command += options
    env = {**os.environ, TOKEN: token, MANAGEMENT_TOKEN: management_token}
    env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with supervised(command, log=log, env=env, name="model server") as child:
        server = Server(
            f"http://{LOOPBACK}:{port}", names.pop(), token, management_token, child, log
        )
        _wait_until_it_answers(server, start_timeout)
        yield server


def _wait_until_it_answers(server: Server, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            if httpx.get(f"{server.url}/ready", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        if server.child.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"the model server did not start:\n{server.child.tail(20)}")
        time.sleep(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import gc

    import uvloop

    parser = argparse.ArgumentParser(prog="python -m labs.lab4_model_serving.server")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--model-store", type=Path, help="allow loading bundles from this folder")
    parser.add_argument(
        "--delay", action="append", default=[], metavar="VERSION=SECONDS", help="inject a fault"
    )
    parser.add_argument("--access-log", type=Path, help="JSON lines, one a request")
    parser.add_argument("--log-sample", type=float, default=1.0)
    parser.add_argument("--token-lifetime-s", type=float, default=math.inf)
    parser.add_argument("--connections", type=json.loads, default={}, help="ConnectionLimits, JSON")
    parser.add_argument("--drain-s", type=float, default=0.2, help="refuse so long before the end")
    options = parser.parse_args(arguments)
    # One thread runs batches. A tokenizer with a thread a core would take the event loop's.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        model = _loaded(options)
        limits = ConnectionLimits(**options.connections)
    except (InputError, TypeError) as error:  # TypeError: a name in --settings that is none
        print(f"error: {error}", file=sys.stderr)
        return 2
    token = os.environ.get(TOKEN) or secrets.token_hex(16)
    management = os.environ.get(MANAGEMENT_TOKEN) or secrets.token_hex(16)
    if TOKEN not in os.environ:
        print(f"token: {token}\nmanagement token: {management}", flush=True)
    log = None
    if options.access_log:
        log = AccessLog(options.access_log, sample=options.log_sample, slow_ms=1000 * SLO_S)
    app = ModelServer(
        model,
        token=Token(token, expires=time.time() + options.token_lifetime_s),
        management_token=Token(management),
        log=log,
    )
    gc.collect()
    gc.freeze()  # what lives as long as the server is not looked at by every collection
    # A batch that comes back from ONNX Runtime asks for the interpreter's lock, and waits this long
    # for it while the event loop is busy: 5 ms by default, several times a batch.
    sys.setswitchinterval(SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(app, options.port, limits=limits, drain_s=options.drain_s))
    except OSError as error:
        print(f"error: port {options.port}: {error}; choose another --port", file=sys.stderr)
        return 2
    finally:
        if log:
            log.close()
    return 0


def _loaded(options: argparse.Namespace) -> LiveModel:
    """Every bundle read, warm and live; the first one gets the traffic."""
    settings = BatchSettings(**options.settings)
    check_settings(settings.max_batch, settings.max_delay_s, settings.max_queue)
    predictors = [
        Predictor(folder, device=options.device, threads=options.threads)
        for folder in options.bundle
    ]
    model = LiveModel(
        predictors[0].bundle.name,
        settings=settings,
        store=options.model_store,
        delays={each.partition("=")[0]: float(each.partition("=")[2]) for each in options.delay},
        device=options.device,
        threads=options.threads,
    )
    for i, predictor in enumerate(predictors):
        model.add(predictor, settings, weight=1.0 if i == 0 else 0.0)
        _warm_up(predictor, model.versions[predictor.version].batcher)
    return model


def _warm_up(predictor: Predictor, batcher: Batcher[str, Timed]) -> None:
    """The first runs are slow: not at a user's expense. The next ones teach what batches take."""
    text = "how long does a text of about this length take"
    for n in (batcher.max_batch, 1) * 2:
        predictor.predict([text] * n)
    for n in (1, batcher.max_batch, 2, batcher.max_batch // 2 + 1):
        start = time.perf_counter()
        predictor.predict([text] * n)
        batcher.admission.ran(n, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
