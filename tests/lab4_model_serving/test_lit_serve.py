"""The bundle behind LitServe keeps the lab's contract."""

import json

import httpx
import numpy as np
import psutil
import pytest

from common.errors import InputError
from labs.lab4_model_serving.lit_serve import lit_serve
from labs.lab4_model_serving.load_generator import load_http
from labs.lab4_model_serving.predictor import Predictor
from tests.lab4_model_serving.conftest import BAD_REQUESTS

pytestmark = pytest.mark.slow
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lit")
    with lit_serve(tiny_bundle, folder=folder, max_batch=8, max_queued=4) as running:
        yield running


def post(server, content=b'{"text": "pay"}', version="", **headers):
    return httpx.post(
        server.prediction_url(version),
        content=content,
        headers={**server.headers, **JSON, **headers},
        trust_env=False,
    )


def test_it_answers_as_the_predictor_does(server, tiny_bundle):
    answer = post(server, json.dumps({"text": "when is it"}), "1.0", **{"X-Request-Id": "mine"})
    expected = Predictor(tiny_bundle).predict(["when is it"])[0]
    assert answer.json() == {
        "label": expected.label,
        "probability": pytest.approx(expected.probability, abs=1e-6),
        "version": "1.0",
    }
    assert (answer.headers["X-Model-Version"], answer.headers["X-Request-Id"]) == ("1.0", "mine")


@pytest.mark.parametrize(("content", "headers", "version", "status"), BAD_REQUESTS)
def test_bad_requests_are_refused_in_one_format(server, content, headers, version, status):
    answer = post(server, content, version, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert answer.json()["error"]["request_id"] == answer.headers["X-Request-Id"]
    assert httpx.get(server.prediction_url(), trust_env=False).status_code == 405


def test_a_full_queue_is_refused_at_once_and_every_port_is_loopback(server):
    """LitServe has no bound of its own; the middleware counts who is inside."""
    url, body = server.prediction_url(), b'{"text": "pay"}'
    result = load_http(url, [body], np.zeros(64), headers=server.headers, timeout=30)
    assert result.errors.keys() == {"HTTP 503"}, result.errors
    assert result.n - result.failed >= 4
    assert post(server).status_code == 200
    below = psutil.Process(server.child.pid).children(recursive=True)
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in below
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_what_cannot_be_served_is_refused_before_a_process_starts(tiny_bundle, tmp_path):
    for options, says in (({"max_batch": 0}, "max_batch = 0"), ({"workers": 0}, "workers = 0")):
        with (
            pytest.raises(InputError, match=says),
            lit_serve(tiny_bundle, folder=tmp_path, **options),
        ):
            pytest.fail("it started")
