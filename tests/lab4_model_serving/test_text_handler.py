"""The bundle behind TorchServe: what a worker answers, and what real clients send."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from ts.context import Context, RequestProcessor

from common.errors import InputError
from labs.lab4_model_serving.archive import archive_bundle
from labs.lab4_model_serving.length_runs import RUN_SIZE
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.text_handler import TextHandler
from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

JSON = {"content-type": "application/json"}
TEXTS = [f"{word} " * n + "please" for n in range(1, 9) for word in ("pay", "when is", "what")]


def context_of(folder, requests):
    context = Context("intents", str(folder), None, 8, None, "0.12.0")
    context.request_processor = [RequestProcessor({"body": JSON}) for _ in range(requests)]
    context.request_ids = {index: f"id-{index}" for index in range(requests)}
    return context


@pytest.fixture(scope="module")
def handler(tiny_bundle):
    made = TextHandler()
    made.initialize(context_of(tiny_bundle.folder, 0))
    return made


def test_a_batch_of_all_lengths_is_answered_in_order(handler, tiny_bundle):
    """The batch is sorted by length and cut into runs; nobody may notice."""
    expected = [Predictor(tiny_bundle).predict([text])[0] for text in TEXTS]
    context = context_of(tiny_bundle.folder, len(TEXTS))
    order = np.random.default_rng(0).permutation(len(TEXTS))
    bodies = [{"body": json.dumps({"text": TEXTS[row]}).encode()} for row in order]
    answers = [json.loads(answer) for answer in handler.handle(bodies, context)]
    assert len(TEXTS) > RUN_SIZE["cpu"]
    assert [answer["label"] for answer in answers] == [expected[row].label for row in order]
    probabilities = [answer["probability"] for answer in answers]
    assert np.allclose(probabilities, [expected[row].probability for row in order], atol=1e-6)
    assert {answer["version"] for answer in answers} == {"1.0"}
    assert context.get_response_headers(0)["X-Model-Version"] == "1.0"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b"[" * 100_000, 413, "above"),
        (b"[" * 10_000, 400, "not JSON"),
        (b'"text"', 400, "expected"),
        (b'{"text": 3}', 400, "expected"),
        (b'{"text": ""}', 400, "empty"),
        (b'{"text": " "}', 400, "empty"),
        (b'{"text": "\\ud800"}', 400, "surrogate"),
        (json.dumps({"text": "x" * 4001}).encode(), 413, "4001 characters"),
        ({"text": 3}, 400, "expected"),
    ],
)
def test_a_bad_text_gets_its_own_refusal(handler, tiny_bundle, body, status, says):
    """Also one that the worker has parsed already (``TS_DECODE_INPUT_REQUEST=true``)."""
    context = context_of(tiny_bundle.folder, 3)
    good = {"body": b'{"text": "pay"}'}
    answers = handler.handle([good, {"body": body}, good], context)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, status, 200]
    assert says in answers[1]["error"]["message"]
    assert answers[1]["error"]["request_id"] == "id-1"
    assert answers[0] == answers[2]
    assert json.loads(answers[0])["version"] == "1.0"


def test_another_content_type_is_refused(handler, tiny_bundle):
    context = context_of(tiny_bundle.folder, 1)
    context.request_processor = [RequestProcessor({"body": {"content-type": "text/csv"}})]
    handler.handle([{"body": b'{"text": "pay"}'}], context)
    assert context.get_response_status(0)[0] == 415


def test_an_archive_without_a_whole_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"bundle\.json"):
        TextHandler().initialize(context_of(tmp_path, 0))


@pytest.fixture(scope="module")
def server(tiny_bundles, tmp_path_factory):
    """Versions 1.0 (default) and 2.0 behind a real TorchServe, with a queue of eight."""
    folder = tmp_path_factory.mktemp("served")
    specs = [
        ModelSpec(
            bundle.name,
            archive_bundle(bundle, folder / "store"),
            bundle.version,
            batch_size=8,
            max_batch_delay_ms=1,
            default=bundle.version == "1.0",
        )
        for bundle in tiny_bundles
    ]
    with torchserve(folder / "store", specs, folder=folder, queue_size=8) as running:
        yield running


def post(server, content, version=None, **headers):
    sent = {**server.headers, **JSON, **headers}
    url = server.prediction_url("intents", version)
    return httpx.post(url, content=content, headers=sent, trust_env=False)


@pytest.mark.slow
def test_each_version_says_which_it_is(server, tiny_bundles):
    for bundle in tiny_bundles:
        answer = post(server, json.dumps({"text": TEXTS[0]}), bundle.version)
        label = Predictor(bundle).predict([TEXTS[0]])[0].label
        assert (answer.json()["label"], answer.json()["version"]) == (label, bundle.version)
        assert answer.headers["X-Model-Version"] == bundle.version
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Request-Id"]
    assert post(server, b'{"text": "pay"}').json()["version"] == "1.0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "headers", "version", "status"),
    [
        (b"", {}, None, 400),
        (b"{", {}, None, 400),
        (b"\xff", {}, None, 400),
        (b'{"text": 3}', {}, None, 400),
        (b'{"text": "pay"}', {"content-type": "text/csv"}, None, 415),
        (b'{"text": "' + b"x" * 5000 + b'"}', {}, None, 413),
        (b"x" * (7 << 20), {}, None, 413),
        (b'{"text": "pay"}', {}, "9.9", 404),
        (b'{"text": "pay"}', {"Authorization": ""}, None, 400),
        (b'{"text": "pay"}', {"Authorization": "Bearer no"}, None, 400),
    ],
)
def test_bad_requests_over_http(server, content, headers, version, status):
    """Through the JVM: it answers 400, not 401, for a token that is missing or wrong."""
    assert post(server, content, version, **headers).status_code == status
    assert post(server, b'{"text": "pay"}').status_code == 200


@pytest.mark.slow
def test_overload_is_refused_at_once_and_the_queue_can_be_read(server):
    """A worker that stands still: eight wait, the rest get 503 before anything is run."""
    import psutil

    from labs.lab4_model_serving.load_generator import load_http

    (pid,) = [
        worker["pid"]
        for version in server.describe("intents")
        if version["modelVersion"] == "1.0"
        for worker in version["workers"]
    ]
    worker = psutil.Process(int(pid))
    assert server.queue_depth("intents", "1.0") == 0
    worker.suspend()
    try:
        with ThreadPoolExecutor(1) as pool:
            url = server.prediction_url("intents")
            schedule = np.linspace(0, 0.4, 40)
            running = pool.submit(
                load_http, url, [b'{"text": "pay"}'], schedule, headers=server.headers, timeout=30
            )
            refused = None
            for _ in range(200):
                if server.queue_depth("intents") == 8:
                    refused = post(server, b'{"text": "pay"}')
                    break
            assert refused is not None, f"the queue never filled: {server.queue_depth('intents')}"
            assert refused.status_code == 503
            worker.resume()
            result = running.result()
    finally:
        worker.resume()
    assert result.errors.keys() == {"HTTP 503"}
    assert result.n - result.failed >= 8
    assert server.queue_depth("intents") == 0
    with pytest.raises(InputError, match=r"no version '9\.9'"):
        server.queue_depth("intents", "9.9")


@pytest.mark.slow
def test_workers_are_added_and_taken_away(server):
    """And the answers go on."""
    server.scale_workers("intents", "2.0", 2)
    assert len(server.worker_pids("intents")) == 3
    assert post(server, b'{"text": "pay"}', "2.0").status_code == 200
    server.scale_workers("intents", "2.0", 1)
    assert len(server.worker_pids("intents")) == 2
    with pytest.raises(InputError, match=r"9\.9"):
        server.scale_workers("intents", "9.9", 1)
    with pytest.raises(InputError, match="n = -1"):
        server.scale_workers("intents", "2.0", -1)
