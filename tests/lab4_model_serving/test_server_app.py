"""The routes without sockets: what is counted under which name, and what the program sets up."""

import asyncio
import gc
import json
import sys

import pytest

from labs.lab4_model_serving import server
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.protocol import Request, Token
from labs.lab4_model_serving.server_app import ModelServer
from labs.lab4_model_serving.serving_metrics import MOST_VERSIONS, OTHER
from labs.lab4_model_serving.versions import BatchSettings, LiveModel

SETTINGS = BatchSettings(max_delay_s=0.0, slo_s=30, deadline_s=30)


class Slot:
    """Keeps the answer."""

    def __init__(self):
        self.response, self.pending = None, None

    def reply(self, response):
        self.response = response


@pytest.fixture(scope="module")
def predictors(tiny_bundles):
    return [Predictor(bundle) for bundle in tiny_bundles]


def app_of(predictors):
    model = LiveModel("intents", settings=SETTINGS)
    for i, predictor in enumerate(predictors):
        model.add(predictor, SETTINGS, weight=1.0 if i == 0 else 0.0)
    return ModelServer(model, token=Token("secret"), management_token=Token("other"))


def send(app, version="", *, token="secret"):
    """The slot of one prediction, which may still be waiting."""
    headers = {
        b"authorization": b"Bearer " + token.encode(),
        b"content-type": b"application/json",
    }
    path = b"/predictions/intents" + (b"/" + version.encode() if version else b"")
    slot = Slot()
    app.handle(Request("POST", path, headers, b'{"text": "wake me"}'), slot)
    return slot


async def answered(app, version=""):
    """One prediction and its answer's status."""
    slot = send(app, version)
    await asyncio.wait([slot.pending])
    await asyncio.sleep(0)
    return slot.response.status


def scrape(app):
    slot = Slot()
    app.handle(Request("GET", b"/metrics", {}, b""), slot)
    return slot.response.body.decode()


def test_a_stranger_cannot_take_the_names_of_versions(predictors):
    """More made-up names than there are labels, without a token: one label, and 1.0 keeps its own.

    The log of what was refused is the place for the name; a metric's label is not.
    """
    app = app_of(predictors[:1])
    statuses = {
        send(app, f"made-up-{i}", token="wrong").response.status for i in range(2 * MOST_VERSIONS)
    }
    assert statuses == {401}
    send(app, "1.0", token="wrong")
    text = scrape(app)
    assert "made-up" not in text
    refused = 'serving_refused_total{{model="intents",status="401",version="{}"}} {}'
    assert refused.format(OTHER, 64.0) in text
    assert refused.format("1.0", 1.0) in text


def test_a_client_that_leaves_is_counted_under_its_version(predictors):
    """499 is in the metrics, since a version that hangs gives nothing else."""

    async def main():
        app = app_of(predictors)
        send(app, "2.0").pending.cancel()
        await asyncio.sleep(0)
        await app.drain()
        return scrape(app)

    counted = 'serving_requests_total{model="intents",status="499",version="2.0"} 1.0'
    assert counted in asyncio.run(main())


def test_a_version_that_was_unloaded_is_no_longer_shown_as_loaded(predictors):
    """Its queue and its info go with the next scrape; what it answered stays counted."""

    async def main():
        app = app_of(predictors)
        assert await answered(app, "2.0") == 200
        before = scrape(app)
        await app.model.remove("2.0")
        after = scrape(app)
        await app.drain()
        return before, after

    before, after = asyncio.run(main())
    for name in ("serving_queue_depth", "serving_queue_limit"):
        series = name + '{model="intents",version="2.0"}'
        assert series in before
        assert series not in after, f"{series} is still shown"
    assert 'serving_model_info{model="intents",precision="fp32",sha256="",version="2.0"}' in before
    assert 'sha256="",version="2.0"' not in after
    assert 'serving_requests_total{model="intents",status="200",version="2.0"} 1.0' in after


@pytest.mark.parametrize("scraped", [True, False])
def test_a_version_that_comes_back_is_measured_again(predictors, scraped):
    """Unloaded and loaded between two scrapes, or across one: its batches count from the first."""

    async def main():
        app = app_of(predictors)
        assert await answered(app, "2.0") == 200
        await app.model.remove("2.0")
        if scraped:
            scrape(app)
        app.model.add(predictors[1], SETTINGS)
        assert await answered(app, "2.0") == 200
        text = scrape(app)
        await app.drain()
        return text

    text = asyncio.run(main())
    assert 'serving_batch_size_count{model="intents",version="2.0"} 2.0' in text
    assert 'serving_queue_limit{model="intents",version="2.0"}' in text


def test_a_sampled_log_keeps_every_slow_request(tiny_bundle, tmp_path, monkeypatch):
    """--log-sample thins what is ordinary; whoever missed the 50 ms is what the log is read for."""

    async def serve(app, port, **_):
        for i in range(200):
            app._log.write(request_id=f"slow-{i}", status=200, total_ms=51.0)
            app._log.write(request_id=f"fast-{i}", status=200, total_ms=49.0)

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # of the process that runs the tests
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    monkeypatch.setenv(server.TOKEN, "secret")
    log = tmp_path / "access.log"
    arguments = ["--bundle", str(tiny_bundle.folder), "--access-log", str(log)]
    assert server.main([*arguments, "--log-sample", "0.02"]) == 0
    kept = [json.loads(line)["request_id"] for line in log.read_text().splitlines()]
    slow = sum(each.startswith("slow") for each in kept)
    assert slow == 200, f"{slow} of 200 slow requests were kept"
    assert len(kept) - slow < 40, "the fast ones were not thinned"
