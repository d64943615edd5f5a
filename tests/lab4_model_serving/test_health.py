"""Alive and ready are two questions, and both work with tokens on."""

import socket

import pytest

from common.errors import InputError
from common.ports import LOOPBACK, free_port
from labs.lab4_model_serving import health
from labs.lab4_model_serving.archive import archive_bundle
from labs.lab4_model_serving.health import Health, probe
from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

PREDICT = ("/predictions/intents", {"text": "pay"})


def test_a_port_without_a_server_is_neither():
    url = f"http://{LOOPBACK}:{free_port()}"
    found = probe(url, {})
    assert (found.alive, found.ready) == (False, False)
    assert url in found.detail
    assert health.main(["alive", "--url", url]) == 1


def test_a_server_that_does_not_answer_is_neither():
    """It accepts the connection, as a process does that hangs."""
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        url = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        found = probe(url, {}, timeout=0.1)
    assert found == Health(False, False, f"no answer from {url} in 0.1 s")


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    """Its tokens end after three seconds, which is before it is ready."""
    folder = tmp_path_factory.mktemp("served")
    archive = archive_bundle(tiny_bundle, folder / "store")
    spec = ModelSpec(tiny_bundle.name, archive, tiny_bundle.version)
    with torchserve(folder / "store", [spec], folder=folder, token_expiration_min=0.05) as running:
        yield running


@pytest.mark.slow
def test_an_expired_token_is_refused_until_it_is_renewed(server):
    """TorchServe answers 400; the server is alive all the time, and must not be restarted."""
    old = dict(server.headers)
    while probe(server.url, old).ready:
        pass  # a fast machine is ready before three seconds are over
    with pytest.raises(InputError, match="expired"):
        server.predict("intents", PREDICT[1])
    found = probe(server.url, old, predict=PREDICT)
    assert (found.alive, found.ready) == (True, False)
    assert "token" in found.detail
    server.renew_token()
    assert server.headers != old
    assert probe(server.url, server.headers, predict=PREDICT) == Health(True, True, "")


@pytest.mark.slow
def test_without_workers_ping_is_healthy_and_a_prediction_tells(server):
    """``/ping`` counts failed workers; a model that has none answers nobody and fails none."""
    server.scale_workers("intents", "1.0", 0)
    server.renew_token()
    assert probe(server.url, server.headers).ready
    found = probe(server.url, server.headers, predict=PREDICT)
    assert (found.alive, found.ready) == (True, False)
    assert "503" in found.detail


@pytest.mark.slow
def test_the_command_answers_by_its_exit_status(server, monkeypatch, capsys):
    server.scale_workers("intents", "1.0", 1)
    server.renew_token()
    monkeypatch.setenv(health.TOKEN, server.token)
    arguments = ["--url", server.url, "--model", "intents"]
    assert health.main(["ready", *arguments]) == 0
    monkeypatch.delenv(health.TOKEN)
    assert health.main(["ready", *arguments]) == 1
    assert "token" in capsys.readouterr().err
    assert health.main(["alive", *arguments]) == 0
