"""nginx in front of replicas: what it retries, whom it ejects, and how a replica leaves."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from common.errors import InputError, RunError
from labs.lab4_model_serving import nginx as nginx_module
from labs.lab4_model_serving.load_generator import poisson_schedule
from labs.lab4_model_serving.nginx import (
    Balancing,
    Nginx,
    Upstream,
    nginx,
    nginx_config,
    read_access_log,
)
from labs.lab4_model_serving.outages import load_with_outage
from labs.lab4_model_serving.replicas import Fleet, bodies_of, echo_replica, replicas

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") is None,
    reason="nginx is not installed: apt-get install nginx",
)
PATH = "/predictions/echo"


def config(**options: object) -> str:
    return nginx_config([Upstream(9001), Upstream(9002, down=True)], 8080, Balancing(**options))


# --- the configuration ------------------------------------------------------------------------


def test_nginx_listens_on_loopback_in_the_foreground_and_keeps_connections() -> None:
    """Nothing leaves the machine, the guard can stop it, and a request needs no new connection."""
    text = config()
    assert "listen 127.0.0.1:8080;" in text
    assert "daemon off;" in text
    assert 'proxy_set_header Connection "";' in text
    assert "least_conn;" in text


def test_a_post_is_tried_again_only_when_it_is_allowed() -> None:
    """nginx never repeats a POST by itself; that a prediction changes nothing, it must be told."""
    assert "proxy_next_upstream error timeout http_502 http_503 non_idempotent;" in config()
    assert "proxy_next_upstream error timeout http_502 http_503;" in config(retry_posts=False)


def test_a_drained_replica_is_down_and_the_others_are_ejected_after_failures() -> None:
    """``down`` keeps the line, so that the order of the rest does not change."""
    text = config(max_fails=5, fail_timeout_s=7)
    assert "server 127.0.0.1:9001 max_fails=5 fail_timeout=7s;" in text
    assert "server 127.0.0.1:9002 down;" in text


@pytest.mark.parametrize("ports", [[], [9001, 9001]])
def test_no_replicas_or_one_twice_are_refused(ports: list[int]) -> None:
    """nginx would take the second as a replica with twice the weight."""
    with pytest.raises(InputError, match="upstreams"):
        nginx_config([Upstream(port) for port in ports], 8080, Balancing())


def test_a_machine_without_nginx_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line instead of a FileNotFoundError from deep inside."""
    monkeypatch.setattr(nginx_module.shutil, "which", lambda name, path: None)
    with pytest.raises(InputError, match="apt-get install nginx"):
        nginx_module.nginx_binary()


def test_the_access_log_is_read_back(tmp_path: Path) -> None:
    """One try, two tries, and no replica to try."""
    path = tmp_path / "access.log"
    path.write_text(
        "10.5 200 127.0.0.1:9001 200 0.004 abc\n"
        "11.0 200 127.0.0.1:9001, 127.0.0.1:9002 502, 200 0.010 abd\n"
        "12.0 503 replicas 502 0.000 abe\n",
        encoding="utf-8",
    )
    found = read_access_log(path)
    assert [each.ports for each in found] == [(9001,), (9001, 9002), ()]
    assert [each.status for each in found] == [200, 200, 503]
    assert found[1].seconds == 0.010


# --- the real one -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Fleet]]:
    folder = tmp_path_factory.mktemp("nginx")
    spec = echo_replica(service_ms=20, concurrency=20)
    with (
        replicas(spec, 2, folder=folder) as fleet,
        nginx(fleet.ports, folder=folder / "nginx", balancing=Balancing(log_requests=True)) as it,
    ):
        yield it, fleet


def post(balancer: Nginx, **headers: str) -> httpx.Response:
    return httpx.post(
        balancer.url + PATH, json={"text": "a"}, headers=headers, trust_env=False, timeout=10
    )


@needs_nginx
@pytest.mark.slow
def test_every_replica_gets_its_share_and_the_request_id_passes(
    running: tuple[Nginx, Fleet],
) -> None:
    """The id of the client comes back; without one, nginx makes one that the replica sees."""
    balancer, fleet = running
    assert post(balancer, **{"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = post(balancer).headers["x-request-id"]
    assert len(made) == 32, made
    served = Counter(post(balancer).headers["x-replica"] for _ in range(10))
    assert set(served) == {str(port) for port in fleet.ports}, served


@needs_nginx
@pytest.mark.slow
def test_a_drained_replica_gets_nothing_and_no_request_is_lost(
    running: tuple[Nginx, Fleet],
) -> None:
    """Drain, stop, start, restore under load: a rolling update that nobody notices."""
    balancer, fleet = running

    def take_away() -> None:
        balancer.drain(fleet.ports[0])
        fleet.stop(0)
        assert {post(balancer).headers["x-replica"] for _ in range(4)} == {str(fleet.ports[1])}

    def bring_back() -> None:
        fleet.start(0)
        balancer.restore(fleet.ports[0])

    outage = load_with_outage(
        balancer.url + PATH,
        bodies_of(["a"]),
        poisson_schedule(100, 2.5, seed=0),
        headers={},
        take_away=take_away,
        bring_back=bring_back,
        down_s=0.3,
        up_s=0.8,
    )
    assert outage.lost == 0, outage.load.errors
    served = {post(balancer).headers["x-replica"] for _ in range(6)}
    assert served == {str(port) for port in fleet.ports}


@needs_nginx
@pytest.mark.slow
def test_without_replicas_the_answer_is_503_with_retry_after(
    running: tuple[Nginx, Fleet],
) -> None:
    """In the wire format and with the request's id, and not nginx's page in HTML."""
    balancer, fleet = running
    for port in fleet.ports:
        balancer.drain(port)
    answer = post(balancer, **{"X-Request-Id": "lost-1"})
    for port in fleet.ports:
        balancer.restore(port)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"] == {
        "code": 503,
        "message": "no replica answers",
        "request_id": "lost-1",
    }
    assert post(balancer).status_code == 200


@needs_nginx
@pytest.mark.slow
def test_a_replicas_own_503_is_passed_on(tmp_path: Path) -> None:
    """Both queues are full: the client hears the replica's own Retry-After, after two tries."""
    spec = echo_replica(service_ms=400, concurrency=1, queue=0)
    with (
        replicas(spec, 1, folder=tmp_path) as fleet,
        nginx(fleet.ports, folder=tmp_path / "nginx") as balancer,
    ):
        outage = load_with_outage(
            balancer.url + PATH,
            bodies_of(["a"]),
            np.array([0.0, 0.1, 0.15]),
            headers={},
            take_away=lambda: None,
            bring_back=lambda: None,
            down_s=0.0,
            up_s=0.01,
        )
        assert outage.load.errors == {"HTTP 503": 2}
        (master,) = [int((balancer.folder / "nginx.pid").read_text())]
    assert not psutil.pid_exists(master), "nginx outlived its block"


@needs_nginx
@pytest.mark.slow
def test_a_configuration_that_nginx_refuses_is_an_error_and_changes_nothing(
    running: tuple[Nginx, Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nginx -t`` looks at it before it replaces the one in force."""
    balancer, _ = running
    monkeypatch.setattr(nginx_module, "nginx_config", lambda *a, **k: "nonsense;")
    with pytest.raises(RunError, match="nonsense"):
        balancer.write()
    monkeypatch.undo()
    assert post(balancer).status_code == 200
