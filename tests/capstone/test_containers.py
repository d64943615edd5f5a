"""What the containers run, without containers: processes that find each other by address."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from aiohttp import ClientSession, web

from capstone import bundle
from capstone.containers import Gateway, Paths, Scorer, gateway, main
from capstone.monitor import write_groups
from capstone.release import Source, publish
from capstone.score_codec import CONTENT_TYPE, ScoreRequest, encode
from capstone.scorer_server import proxy
from capstone.serving import archive_rankers
from common.errors import InputError
from common.ports import LOOPBACK, free_port
from common.process import Child, supervised
from tests.capstone import tiny_bundle
from tests.capstone.scrape import names_in

ROOT = Path(__file__).parents[2]
SECRETS = {"feed_token": "f" * 24, "admin_token": "a" * 24, "scorer_token": "s" * 24}
AUTHORISED = {"Authorization": f"Bearer {SECRETS['feed_token']}"}


# --- the proxy --------------------------------------------------------------------------------


@dataclass
class Behind:
    """A server that answers what it was sent, with the token it saw."""

    url: str = ""
    token: str = "torchserve-token"
    up: bool = True

    def alive(self) -> bool:
        return self.up

    def metrics(self) -> str:
        return "ts_inference_requests_total 1\n"


async def _through(behind: Behind, calls) -> list[tuple[int, bytes]]:
    """Answers (status, body) of calls (method, path, headers, body) to the proxy."""

    async def echo(request: web.Request) -> web.Response:
        seen = request.headers["Authorization"].encode() + b" " + await request.read()
        return web.Response(body=seen, headers={"Content-Type": "application/x-scores"})

    upstream = web.Application()
    upstream.add_routes([web.post("/predictions/ranker/{version}", echo)])
    answers = []
    runners = [web.AppRunner(upstream), web.AppRunner(proxy(behind, SECRETS["scorer_token"]))]
    ports = [free_port(), free_port()]
    behind.url = f"http://{LOOPBACK}:{ports[0]}"
    for runner, port in zip(runners, ports):
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
    async with ClientSession() as client:
        for method, path, headers, body in calls:
            url = f"http://{LOOPBACK}:{ports[1]}{path}"
            async with client.request(method, url, headers=headers, data=body) as answer:
                answers.append((answer.status, await answer.read()))
                if path.startswith("/predictions") and answer.status == 200:
                    assert answer.headers["Content-Type"] == "application/x-scores"
    for runner in runners:
        await runner.cleanup()
    return answers


def test_the_proxy_changes_the_token_and_nothing_else() -> None:
    """TorchServe sees its own token, the client never does."""
    ours = {"Authorization": f"Bearer {SECRETS['scorer_token']}", "Content-Type": "x/y"}
    body = bytes(range(256))
    (found,) = asyncio.run(_through(Behind(), [("POST", "/predictions/ranker/v1", ours, body)]))
    assert found == (200, b"Bearer torchserve-token " + body)


def test_the_proxy_knows_four_routes_and_one_token() -> None:
    """No management API, no other model, no path that climbs, no request without our token."""
    ours = {"Authorization": f"Bearer {SECRETS['scorer_token']}"}
    wrong = {"Authorization": "Bearer torchserve-token"}
    calls = [
        ("POST", "/predictions/ranker/v1", wrong, b""),
        ("POST", "/predictions/ranker/v1", {}, b""),
        ("GET", "/models", ours, None),
        ("POST", "/predictions/other/v1", ours, b""),
        ("POST", "/predictions/ranker/%2e%2e%2f%2e%2e%2fmodels", ours, b""),
        ("GET", "/health", {}, None),
        ("GET", "/metrics", {}, None),
    ]
    statuses = [status for status, _ in asyncio.run(_through(Behind(), calls))]
    assert statuses == [401, 401, 404, 404, 404, 200, 200]


def test_the_proxy_says_when_torchserve_has_gone() -> None:
    """Readiness takes the replica out; a request is answered 503, not left hanging."""
    behind = Behind(up=False)
    calls = [("GET", "/ready", {}, None)]
    assert asyncio.run(_through(behind, calls))[0][0] == 503

    async def gone() -> int:
        port = free_port()
        runner = web.AppRunner(proxy(Behind(f"http://{LOOPBACK}:{free_port()}"), "s" * 24))
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        url = f"http://{LOOPBACK}:{port}/predictions/ranker/v1"
        headers = {"Authorization": f"Bearer {'s' * 24}"}
        async with ClientSession() as client, client.post(url, headers=headers) as answer:
            status = answer.status
        await runner.cleanup()
        return status

    assert asyncio.run(gone()) == 503


# --- options and secrets ----------------------------------------------------------------------


def test_what_is_missing_is_named_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and status 2, before anything listens."""
    monkeypatch.setattr(sys, "argv", ["containers", "gateway", "--release", str(tmp_path)])
    assert main() == 2
    assert "no champion in" in capsys.readouterr().err
    paths = Paths(secrets=tmp_path)
    with pytest.raises(InputError, match="openssl rand"):
        paths.secret("feed_token")
    (tmp_path / "feed_token").write_text("short\n", encoding="utf-8")
    with pytest.raises(InputError, match="length of the secret feed_token = 5"):
        paths.secret("feed_token")
    with pytest.raises(InputError, match="must be from 1 to 64"):
        Scorer(workers=0)
    with pytest.raises(InputError, match="must name at least one"):
        gateway(Gateway(Paths(release=tmp_path, bundles=())))


# --- all of it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the volumes would hold: a release, with the champion before it, and secrets."""
    folder = tmp_path_factory.mktemp("data")
    made = folder / "made"
    bundles = {
        name: tiny_bundle.build(made / name, seed=seed)
        for seed, name in enumerate(("champion", "previous"))
    }
    archive_rankers(list(bundles.values()), made / "store")
    tiny_bundle.write_users(made / "users.json")
    users = np.arange(1, tiny_bundle.N_USERS + 1)
    write_groups({"parity": users % 2}, users, made / "groups.json")
    publish(Source(bundles, made), folder / "release")
    (folder / "secrets").mkdir()
    for name, value in SECRETS.items():
        (folder / "secrets" / name).write_text(value, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ports(data: Path) -> Iterator[dict[str, int]]:
    """Scorer, gateway and monitor, each as its container starts it."""
    found = {name: free_port() for name in ("scorer", "gateway", "monitor")}
    current = data / "release" / "current"
    common = ["--release", str(data / "release"), "--secrets", str(data / "secrets")]
    commands = {
        "scorer": [*common],
        "gateway": [
            *common, "--scorer-url", f"http://{LOOPBACK}:{found['scorer']}",
            "--events", str(data / "events"), "--drain-s", "0",
        ],
        "monitor": [
            "--events", str(data / "events"), "--interval-s", "0.3",
            "--references", str(data / "references.json"), "--groups", f"{current}/groups.json",
        ],
    }  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with ExitStack() as running:
        children = {
            name: running.enter_context(
                supervised(
                    [
                        sys.executable,
                        "-m",
                        "capstone.containers",
                        name,
                        "--host",
                        LOOPBACK,
                        "--port",
                        str(found[name]),
                        *options,
                    ],
                    log=data / f"{name}.log",
                    env=env,
                    name=name,
                )
            )
            for name, options in commands.items()
        }
        for name, path in (("scorer", "/ready"), ("gateway", "/ready"), ("monitor", "/metrics")):
            _wait(f"http://{LOOPBACK}:{found[name]}{path}", children[name])
        yield found


def _wait(url: str, child: Child) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert child.poll() is None, child.tail()
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} was not ready:\n{child.tail()}")


@pytest.mark.slow
def test_a_feed_goes_through_every_container(ports: dict[str, int]) -> None:
    """Gateway, proxy and TorchServe answer together, and the monitor reads what was logged."""
    url = f"http://{LOOPBACK}:{ports['gateway']}"
    with httpx.Client(headers=AUTHORISED, trust_env=False, timeout=10) as client:
        answers = [client.post(f"{url}/feed", json={"user_id": n, "k": 5}) for n in range(1, 21)]
        assert {answer.status_code for answer in answers} == {200}
        ranked = [answer.json() for answer in answers if answer.json()["fallback"] is None]
        assert len(ranked) >= 15, [answer.json()["fallback"] for answer in answers]
        first = ranked[0]
        event = {
            "event_id": "e1", "request_id": first["request_id"], "user_id": first["user_id"],
            "item_id": first["items"][0]["item_id"], "reaction": "like",
        }  # fmt: skip
        assert client.post(f"{url}/events", json=event).status_code == 200
    deadline = time.monotonic() + 20
    text = ""
    while "feed_logged_reactions 1.0" not in text and time.monotonic() < deadline:
        text = httpx.get(f"http://{LOOPBACK}:{ports['monitor']}/metrics", trust_env=False).text
        time.sleep(0.2)
    assert "feed_logged_feeds 20.0" in text
    assert "feed_logged_reactions 1.0" in text
    assert 'feed_group_engaged_share{attribute="parity",group="0"}' in text, "the groups came too"


@pytest.mark.slow
def test_the_champion_before_this_one_is_answered_still(ports: dict[str, int], data: Path) -> None:
    """Scorers are restarted first; gateways that were not yet must not fall back meanwhile."""
    url = f"http://{LOOPBACK}:{ports['scorer']}/predictions/ranker"
    asked = ScoreRequest(np.array([1]), np.array([5]), np.array([2, 3]))
    headers = {"Authorization": f"Bearer {SECRETS['scorer_token']}"} | {
        "Content-Type": CONTENT_TYPE
    }
    for name in ("champion", "previous"):
        version = bundle.load(data / "release" / "current" / name).version
        answer = httpx.post(
            f"{url}/{version}", content=encode([asked]), headers=headers, trust_env=False
        )
        assert answer.status_code == 200, (name, answer.text)


@pytest.mark.slow
def test_the_gateway_itself_exposes_what_rules_and_panels_ask_for(ports: dict[str, int]) -> None:
    """The registry is in the gateway's own answer, not only in a class."""
    from capstone import alerts

    names = set()
    for name in ("gateway", "monitor"):
        url = f"http://{LOOPBACK}:{ports[name]}/metrics"
        names |= names_in(httpx.get(url, trust_env=False).text)
    names |= {each.record for each in alerts.recordings()} | {"up"}
    for expression in alerts.expressions():
        assert alerts.metrics_of(expression) <= names, expression
