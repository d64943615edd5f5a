"""The lab's server as a process: routes, versions, drain, and what its clients are told."""

import asyncio
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from common._guard import descendants
from common.errors import InputError, RunError
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.server import main, serve_bundle
from labs.lab4_model_serving.versions import BatchSettings

pytestmark = pytest.mark.slow

PATIENT = BatchSettings(slo_s=20, deadline_s=30, max_queue=4096)


@pytest.fixture(scope="module")
def server(tiny_bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    paths = [bundle.folder for bundle in tiny_bundles]
    with serve_bundle(paths, folder=folder, settings=PATIENT, log_sample=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as session:
        yield session


def waiting(client):
    """Requests in the queue, by the metrics; 0 while there are none."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(x.split()[1]) for x in lines if x.startswith("serving_queue_depth{"))


def ask(client, server, text="what is my balance", *, version="", **headers):
    sent = {**server.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.post(server.prediction_url(version), json={"text": text}, headers=sent)


def test_an_answer_is_that_of_the_predictor(client, server, tiny_bundle):
    """Label, probability, version, and the request's own id: nothing else decides on the way."""
    (known,) = Predictor(tiny_bundle).predict(["set an alarm"])
    found = ask(client, server, "set an alarm", x_request_id="mine-1")
    assert found.status_code == 200, found.text
    assert found.json() == {
        "label": known.label,
        "probability": pytest.approx(known.probability, abs=1e-5),
        "version": "1.0",
    }
    assert found.headers["x-model-version"] == "1.0"
    assert found.headers["x-request-id"] == "mine-1"
    assert found.headers["content-type"] == "application/json"


def test_a_version_can_be_asked_for_and_weights_choose_otherwise(client, server):
    """/2.0 is answered by 2.0 without any weight; with all the weight it answers everybody."""
    assert ask(client, server, version="2.0").json()["version"] == "2.0"
    assert ask(client, server, version="3.0").status_code == 404
    try:
        server.set_weights({"2.0": 1})
        assert {ask(client, server).json()["version"] for _ in range(5)} == {"2.0"}
        with pytest.raises(InputError, match="no version 9"):
            server.set_weights({"9": 1})
    finally:
        server.set_weights({"1.0": 1})
    assert ask(client, server).json()["version"] == "1.0"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predictions/intents", 405),
        ("HEAD", "/predictions/intents", 405),
        ("OPTIONS", "/predictions/intents", 204),
        ("DELETE", "/ping", 405),
        ("HEAD", "/ping", 200),
        ("OPTIONS", "/ready", 204),
        ("GET", "/", 404),
        ("POST", "/predictions/other", 404),
        ("POST", "/predictions/intents/1.0/more", 404),
        ("POST", "/predictions/%69ntents", 200),
        ("POST", "/predictions/intents%2F1.0", 404),
        ("POST", "/predictions/%ff", 400),
    ],
)
def test_every_path_and_method_has_its_status(client, server, method, path, status):
    """405 names what is allowed; HEAD has no body; escapes are read once."""
    content = b'{"text": "hello"}' if method == "POST" else None
    headers = {**server.headers, "Content-Type": "application/json"}
    found = client.request(method, path, content=content, headers=headers)
    assert found.status_code == status, found.text
    if status in (204, 405):
        assert found.headers["allow"]
    if method == "HEAD":
        assert found.content == b""
    elif status >= 400:
        error = found.json()["error"]
        assert error["code"] == status
        assert error["request_id"] == found.headers["x-request-id"]


def test_predictions_and_management_have_tokens_of_their_own(client, server):
    """401 without, with a wrong one, and with the other one's; probes and metrics need none."""
    content = {"text": "hello"}
    for token in ("", "Bearer wrong", f"Bearer {server.management_token}", "Basic x"):
        headers = {"Authorization": token} if token else {}
        found = client.post("/predictions/intents", json=content, headers=headers)
        assert found.status_code == 401
        assert found.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/models/intents", headers=server.headers).status_code == 401
    assert [client.get(path).status_code for path in ("/ping", "/ready", "/metrics")] == [200] * 3


def test_metrics_and_the_log_tell_what_happened(client, server):
    """An answer and a refusal are counted by status, and each has its line, without the text."""
    ask(client, server, "a very secret text", x_request_id="for-the-log", x_client="me")
    client.post(server.prediction_url(), content=b"no", headers=server.headers)
    metrics = client.get("/metrics").text
    assert 'serving_request_seconds_count{model="intents",status="200",version="1.0"}' in metrics
    assert 'status="415"' in metrics
    assert 'serving_batch_size_count{model="intents",version="1.0"}' in metrics
    log = server.log.with_name("access.log")
    deadline = time.monotonic() + 10
    while "for-the-log" not in (text := log.read_text()) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    (line,) = [json.loads(each) for each in text.splitlines() if "for-the-log" in each]
    assert (line["status"], line["version"], line["client"]) == (200, "1.0", "me")
    assert line["total_ms"] >= line["queue_ms"] >= 0
    assert "secret" not in text


def test_many_clients_at_once_each_get_their_own_answer(server, tiny_bundle):
    """100 different texts over 20 connections, mixed in batches: no answer goes to another."""
    texts = [f"alarm {i} money {i % 7}" for i in range(100)]
    known = [answer.label for answer in Predictor(tiny_bundle).predict(texts)]

    async def all_of_them():
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as session:

            async def one(text):
                url, sent = server.prediction_url(), {"text": text}
                return (await session.post(url, json=sent, headers=server.headers)).json()["label"]

            return await asyncio.gather(*(one(text) for text in texts))

    assert asyncio.run(all_of_them()) == known


def test_sigterm_loses_no_accepted_request(tiny_bundle, tmp_path):
    """Eight requests are being served when SIGTERM comes: all get their 200.

    Meanwhile a new request is told 503, when to come back, and that the connection ends; /ready
    says no. Then the process ends by itself, with status 0.
    """
    settings = BatchSettings(max_batch=2, slo_s=20, deadline_s=20)
    options = ["--drain-s", "0.5"]
    with (
        serve_bundle(
            tiny_bundle.folder,
            folder=tmp_path,
            settings=settings,
            delays={"1.0": 0.25},
            options=options,
        ) as server,
        ThreadPoolExecutor(8) as threads,
    ):
        new = httpx.Client(base_url=server.url, trust_env=False, timeout=30)
        with httpx.Client(trust_env=False, timeout=30) as session:
            pending = [threads.submit(ask, session, server, f"text {i}") for i in range(8)]
            while waiting(new) < 4:
                assert not all(each.done() for each in pending)
            for pid in descendants(server.child.pid):
                os.kill(pid, signal.SIGTERM)
            while new.get("/ready").status_code == 200:
                pass
            refused = ask(new, server)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["connection"] == "close"
            assert [each.result().status_code for each in pending] == [200] * 8
        assert server.child.wait(15) == 0
        new.close()


def test_an_expired_token_is_told_apart(tiny_bundle, tmp_path):
    """401 says that it has expired: renew it, do not look for a typing error."""
    with serve_bundle(tiny_bundle.folder, folder=tmp_path, token_lifetime_s=0) as server:
        found = ask(httpx.Client(trust_env=False), server)
    assert found.status_code == 401
    assert "expired" in found.json()["error"]["message"]
    assert "expired" in found.headers["www-authenticate"]


def test_what_it_cannot_start_with_is_named(tiny_bundle, tmp_path, capsys):
    """No such setting, a value out of range, a folder without a bundle: status 2, one line."""
    bundle = str(tiny_bundle.folder)
    for arguments, named in (
        (["--bundle", str(tmp_path)], "bundle"),
        (["--bundle", bundle, "--settings", '{"batch": 1}'], "batch"),
        (["--bundle", bundle, "--settings", '{"max_batch": 0}'], "max_batch"),
        (["--bundle", bundle, "--connections", '{"idle": 1}'], "idle"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
    with (
        pytest.raises(RunError, match="max_batch"),
        serve_bundle(tiny_bundle.folder, folder=tmp_path, settings=BatchSettings(max_batch=-1)),
    ):
        pass
