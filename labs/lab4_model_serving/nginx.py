"""A real nginx in front of several replicas: loopback, its own folder, gone with its block.

What a load balancer for predictions must be told, and usually is not: that a prediction may be sent
twice although it is a POST, that a full queue is no dead server, and how a replica leaves without
losing a request.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from common.errors import InputError, RunError, require
from common.ports import LOOPBACK, free_port, require_port_free
from common.process import Child, supervised

CONFIG = """\
daemon off;
pid nginx.pid;
error_log error.log warn;
worker_processes {workers};
worker_shutdown_timeout {drain_s}s;
events {{ worker_connections 2048; }}
http {{
    log_format replicas '$msec $status $upstream_addr $upstream_status $request_time $rid';
    access_log {access_log};
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    client_max_body_size 64k;
    client_body_buffer_size 64k;  # a body that fits in memory can be sent again
    keepalive_requests 1000000;
    keepalive_timeout 75s;

    map $http_x_request_id $rid {{ default $http_x_request_id; "" $request_id; }}

    upstream replicas {{
        zone replicas 64k;  # one count of connections for all worker processes
        least_conn;
{servers}
        keepalive 64;
    }}

    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";  # keeps connections to the replicas open
            proxy_set_header X-Request-Id $rid;
            proxy_connect_timeout 500ms;
            proxy_read_timeout {read_timeout_s}s;
            # A prediction changes nothing, so asking twice is harmless: non_idempotent lets nginx
            # do so for POST. Without it a request that a replica took and died with is lost.
            proxy_next_upstream error timeout http_502 http_503{posts};
            proxy_next_upstream_tries {tries};
            proxy_next_upstream_timeout {read_timeout_s}s;
            error_page 502 504 = @unavailable;
        }}
        location @unavailable {{
            internal;
            default_type application/json;
            add_header Retry-After 1 always;
            add_header X-Request-Id $rid always;
            return 503 '{{"error": {{"code": 503, "message": "no replica answers", "request_id": "$rid"}}}}';
        }}
        location = /balancer/generation {{ access_log off; return 200 "{generation}"; }}
    }}
}}
"""  # noqa: E501


@dataclass(frozen=True)
class Balancing:
    """How nginx treats its replicas."""

    max_fails: int = 3
    """Failed tries within ``fail_timeout_s`` after which a replica gets nothing for that long.

    With ``http_503`` among the reasons to try the next one, a full queue is a failed try as well:
    a value of 1 throws out whoever is busy, and the others inherit the load."""
    fail_timeout_s: int = 1
    tries: int = 2
    """Replicas that one request is sent to, at most: more would multiply an overload."""
    read_timeout_s: int = 5
    drain_s: int = 30
    """How long old worker processes may go on with their requests after a reload."""
    workers: int = 1
    retry_posts: bool = True
    """Try the next replica for POST too, when one died with the request."""
    log_requests: bool = False
    """Write ``access.log``: one line a request with the replicas that were tried."""

    def __post_init__(self) -> None:
        require(self.max_fails >= 0, "max_fails", self.max_fails, "must be >= 0", "0 never ejects")
        for name in ("fail_timeout_s", "tries", "read_timeout_s", "drain_s", "workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be >= 1")


@dataclass(frozen=True)
class Upstream:
    """A replica's port on 127.0.0.1; one that is ``down`` gets no new requests."""

    port: int
    down: bool = False


def nginx_config(
    upstreams: Sequence[Upstream], port: int, balancing: Balancing, *, generation: int = 1
) -> str:
    """The configuration file.

    Parameters
    ----------
    upstreams
        At least one. All may be ``down``: then every request is answered 503.
    generation
        Answered at ``/balancer/generation``, which tells when a reload is in force.

    Raises
    ------
    InputError
        No replicas, or one twice.
    """
    ports = [upstream.port for upstream in upstreams]
    require(len(ports) > 0, "upstreams", ports, "must name at least one replica")
    require(len(set(ports)) == len(ports), "upstreams", ports, "must be different ports")
    each = f"max_fails={balancing.max_fails} fail_timeout={balancing.fail_timeout_s}s"
    servers = "\n".join(
        f"        server {LOOPBACK}:{upstream.port} {'down' if upstream.down else each};"
        for upstream in upstreams
    )
    return CONFIG.format(
        servers=servers,
        host=LOOPBACK,
        port=port,
        workers=balancing.workers,
        tries=balancing.tries,
        read_timeout_s=balancing.read_timeout_s,
        drain_s=balancing.drain_s,
        access_log="access.log replicas buffer=64k flush=1s" if balancing.log_requests else "off",
        posts=" non_idempotent" if balancing.retry_posts else "",
        generation=generation,
    )


def nginx_binary() -> str:
    """Path of nginx.

    Raises
    ------
    InputError
        It is not installed.
    """
    found = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise InputError(
            "nginx is not installed; on Debian or Ubuntu: apt-get install nginx "
            "(its own service may be disabled, the lab starts its own)"
        )
    return found


@dataclass(frozen=True)
class Request:
    """A line of the access log: when it was answered (Unix time, s), how, and who was tried."""

    time_s: float
    status: int
    ports: tuple[int, ...]
    """Replicas in the order of the tries; empty when none was there to be tried."""
    seconds: float


def read_access_log(path: Path) -> list[Request]:
    """The requests of ``access.log`` (``Balancing.log_requests``), written at most 1 s late."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # Several tries are written "127.0.0.1:9001, 127.0.0.1:9002".
        first, *tried, _last_status, seconds, _rid = line.replace(", ", ",").split(" ")
        addresses = tried[1].split(",")
        ports = tuple(int(a.rpartition(":")[2]) for a in addresses if ":" in a)
        found.append(Request(float(first), int(tried[0]), ports, float(seconds)))
    return found


class Nginx:
    """A running nginx. Made by :func:`nginx`."""

    def __init__(
        self, folder: Path, port: int, upstreams: Sequence[Upstream], balancing: Balancing
    ) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://{LOOPBACK}:{port}"
        self.upstreams = tuple(upstreams)
        self.balancing = balancing
        self.generation = 1
        self._command = [nginx_binary(), "-p", f"{folder}/", "-c", "nginx.conf"]
        # Before its configuration is read, nginx would log to a path of the system.
        self._command += ["-e", "error.log"]
        self.write()

    @property
    def command(self) -> list[str]:
        """Starts it in the foreground."""
        return list(self._command)

    def write(self) -> None:
        """Write the configuration, whole or not at all, and have nginx check it."""
        text = nginx_config(self.upstreams, self.port, self.balancing, generation=self.generation)
        partial = self.folder / "nginx.conf.partial"
        partial.write_text(text, encoding="utf-8")
        check = [*self._command[:-4], "-c", partial.name, *self._command[-2:], "-t"]
        answer = subprocess.run(check, capture_output=True, text=True)
        if answer.returncode:
            raise RunError(f"nginx refuses its configuration {partial}:\n{answer.stderr.strip()}")
        os.rename(partial, self.folder / "nginx.conf")

    def drain(self, port: int, timeout: float = 30) -> None:
        """Send no new requests to a replica, and return when it has answered those it had.

        nginx starts new worker processes with the new configuration; the old ones answer what they
        have and end. When they are gone, nothing is connected to the replica: it may be stopped.

        Raises
        ------
        InputError
            No such replica.
        RunError
            Requests were still unanswered after ``timeout`` seconds.
        """
        self._set(port, down=True)
        self.reload(timeout)

    def restore(self, port: int, timeout: float = 30) -> None:
        """Let a drained replica have requests again."""
        self._set(port, down=False)
        self.reload(timeout)

    def reload(self, timeout: float = 30) -> None:
        """``nginx -s reload``; return when the new configuration is in force and the old gone."""
        self.generation += 1
        self.write()
        old = self.worker_pids()
        subprocess.run([*self._command, "-s", "reload"], check=True, capture_output=True)
        deadline = time.monotonic() + timeout
        while self._answered() != self.generation or any(psutil.pid_exists(pid) for pid in old):
            if time.monotonic() > deadline:
                raise RunError(
                    f"the reload of nginx was not complete in {timeout:g} s: old processes still "
                    f"answer requests; log {self.folder / 'error.log'}"
                )
            time.sleep(0.01)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that answer requests now."""
        master = int((self.folder / "nginx.pid").read_text(encoding="utf-8"))
        return [each.pid for each in psutil.Process(master).children()]

    def wait_ready(self, child: Child, timeout: float = 10) -> None:
        """Return when it answers.

        Raises
        ------
        RunError
            It ended, or the time was up.
        """
        deadline = time.monotonic() + timeout
        while self._answered() != self.generation:
            if child.poll() is not None or time.monotonic() > deadline:
                log = self.folder / "error.log"
                text = log.read_text(encoding="utf-8") if log.exists() else ""
                raise RunError(f"nginx did not start:\n{text}{child.tail(20)}")
            time.sleep(0.02)

    def _set(self, port: int, *, down: bool) -> None:
        ports = [upstream.port for upstream in self.upstreams]
        require(port in ports, "port", port, f"must be one of the replicas' {ports}")
        self.upstreams = tuple(
            replace(each, down=down) if each.port == port else each for each in self.upstreams
        )

    def _answered(self) -> int:
        try:
            # A new connection each time: a kept one would stay with the old process.
            answer = httpx.get(f"{self.url}/balancer/generation", trust_env=False, timeout=5)
        except httpx.TransportError:
            return 0
        return int(answer.text) if answer.is_success else 0


@contextmanager
def nginx(
    ports: Sequence[int],
    *,
    folder: Path,
    port: int | None = None,
    balancing: Balancing | None = None,
) -> Iterator[Nginx]:
    """Balance over replicas on 127.0.0.1 until the block ends.

    Parameters
    ----------
    ports
        Of the replicas.
    folder
        nginx's prefix: configuration, pid file and logs.
    port
        Where to listen; None picks a free one.

    Raises
    ------
    InputError
        nginx is not installed, a port in use, no replicas.
    RunError
        It did not start.
    """
    if port:
        require_port_free(port, "nginx")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    balancer = Nginx(
        folder, port or free_port(), [Upstream(each) for each in ports], balancing or Balancing()
    )
    log = folder / "nginx.log"
    with supervised(balancer.command, log=log, name="nginx", grace_s=5) as child:
        balancer.wait_ready(child)
        yield balancer
