"""The bundle behind Ray Serve keeps the lab's contract, on loopback, and leaves nothing behind."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from common.errors import InputError
from labs.lab4_model_serving.load_generator import load_http
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.ray_serve import ray_serve
from tests.lab4_model_serving.conftest import BAD_REQUESTS

pytestmark = pytest.mark.slow
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def owner(tiny_bundle, tmp_path_factory):
    """A process that serves until it is killed; the last test kills it."""
    folder = tmp_path_factory.mktemp("ray")
    code = f"""
        import json, time
        from pathlib import Path
        from labs.lab4_model_serving.ray_serve import ray_serve

        bundle, folder = Path({str(tiny_bundle.folder)!r}), Path({str(folder)!r})
        with ray_serve(bundle, folder=folder, max_batch=4, max_ongoing=4, max_queued=2) as server:
            print(json.dumps([server.prediction_url(), server.token]), flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, *json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def post(owner, content=b'{"text": "pay"}', path="", **headers):
    _, url, token = owner
    sent = {"Authorization": f"Bearer {token}", **JSON, **headers}
    return httpx.post(url + path, content=content, headers=sent, trust_env=False)


def test_it_answers_as_the_predictor_does(owner, tiny_bundle):
    answer = post(owner, json.dumps({"text": "when is it"}), "/1.0", **{"X-Request-Id": "mine"})
    expected = Predictor(tiny_bundle).predict(["when is it"])[0]
    assert answer.json() == {
        "label": expected.label,
        "probability": pytest.approx(expected.probability, abs=1e-6),
        "version": "1.0",
    }
    assert (answer.headers["X-Model-Version"], answer.headers["X-Request-Id"]) == ("1.0", "mine")


@pytest.mark.parametrize(("content", "headers", "version", "status"), BAD_REQUESTS)
def test_bad_requests_are_refused_in_one_format(owner, content, headers, version, status):
    answer = post(owner, content, version and f"/{version}", **headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert answer.json()["error"]["request_id"] == answer.headers["X-Request-Id"]
    assert httpx.get(owner[1], trust_env=False).status_code == 405


def test_overload_is_answered_503_and_the_service_goes_on(owner):
    """Four in the replica, two in the proxy; the proxy refuses the rest, and says when to ask.

    How many of the four get in depends on how fast the proxy hands them on; its two always do.
    """
    _, url, token = owner
    refused = []

    def remember(i, status, headers, body):
        if status == 503:
            refused.append(headers.get("retry-after"))

    result = load_http(
        url,
        [b'{"text": "pay"}'],
        np.zeros(64),
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
        on_answer=remember,
    )
    assert result.errors.keys() == {"HTTP 503"}, result.errors
    assert set(refused) == {"1"}
    assert 2 <= result.n - result.failed < result.n
    assert post(owner).status_code == 200


def test_every_port_is_loopback_and_kill_9_leaves_no_process(owner):
    """A replica opens a port for its proxies, on every network unless it is told otherwise."""
    process, *_ = owner
    below = psutil.Process(process.pid).children(recursive=True)
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for each in below
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert any("ServeReplica" in each.name() for each in below), [each.name() for each in below]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive, [each.cmdline()[:3] for each in alive]


def test_what_cannot_be_served_is_refused_before_a_process_starts(tiny_bundle, tmp_path):
    cases = (
        ({"replicas": 0}, "replicas = 0"),
        ({"max_batch": 64, "max_ongoing": 32}, "max_ongoing = 32 must be >= max_batch = 64"),
        ({"max_queued": 0}, "max_queued = 0"),
    )
    for options, says in cases:
        with (
            pytest.raises(InputError, match=says),
            ray_serve(tiny_bundle, folder=tmp_path, **options),
        ):
            pytest.fail("it started")
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(InputError, match=r"bundle\.json"), ray_serve(broken, folder=tmp_path):
        pytest.fail("it started")
    assert list(Path(tmp_path).iterdir()) == [broken]
