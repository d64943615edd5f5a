"""Real servers under load: canaries end as they should, and no switch loses a request."""

import json
import shutil
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest

from common.errors import RunError
from labs.lab4_model_serving import canary_run
from labs.lab4_model_serving.canary_run import STORIES, canaries, metrics, write_versions
from labs.lab4_model_serving.figures_rollout import draw_canaries
from labs.lab4_model_serving.management_client import ManagementClient
from labs.lab4_model_serving.rollout import Rollout, Step
from labs.lab4_model_serving.rollout_load import Request, mixed_up, moved_back
from labs.lab4_model_serving.rollout_policy import Guardrails
from labs.lab4_model_serving.server import serve_bundle
from labs.lab4_model_serving.version_switch import expected_labels, switch_by_weight
from labs.lab4_model_serving.versions import BatchSettings
from tests.lab4_model_serving.conftest import make_bundle

WORDS = ["money", "alarm", "euro", "wake", "balance", "word", "meeting", "yen", "clock", "card"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]
PATIENT = BatchSettings(slo_s=30, deadline_s=30, max_queue=4096)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Three rollouts on one server; the truth is what version 1.0 says."""
    folder = tmp_path_factory.mktemp("canary")
    live, good = make_bundle(folder), make_bundle(folder, version="2.0")
    labels = expected_labels([live.folder], TEXTS)["1.0"]
    rollout = Rollout(
        model="intents",
        old="1.0",
        new="2.0",
        salt="test",
        steps=(Step(0.1, 40), Step(0.8, 100)),
        guardrails=Guardrails(p99_ms=400, error_rate=0.02, accuracy_margin=0.2),
        look_every_s=0.1,
        give_up_after_s=60,
    )
    return canaries(
        live.folder, good.folder, TEXTS, labels, rollout, folder=folder, rate=200, shadow_s=0.3
    )


@pytest.mark.slow
def test_the_good_version_is_promoted_and_the_bad_ones_go_back(found):
    """The whole way: windows, labels over HTTP, decision, weights. The reason names the fault."""
    assert [canary.story for canary in found] == list(STORIES)
    for canary in found:
        assert canary.as_expected, f"{canary.story}: {canary.status}: {canary.reason}"
    good, slow, wrong = found
    assert slow.reason.startswith("p99: harm"), slow.reason
    assert wrong.reason.startswith("accuracy: harm"), wrong.reason
    assert (good.old, slow.old, wrong.old) == ("1.0", "2.0", "2.0"), "the promoted one is to beat"


@pytest.mark.slow
def test_no_request_is_lost_or_mixed_up_and_no_user_goes_back_and_forth(found):
    """Loading, changing weights, rolling back and unloading under load: nobody is failed by it."""
    for canary in found:
        assert canary.requests > 100
        assert canary.failed == 0, f"{canary.story}: {canary.failures} of {canary.requests}"
        assert canary.mixed_up == 0, f"{canary.story}: answers of another version than they name"
        assert canary.moved_back == 0, f"{canary.story}: users moved from new to old and on"
        if canary.status == "rolled_back":
            assert canary.by_new_after == 0
            assert canary.by_new < canary.requests / 2


@pytest.mark.slow
def test_the_shadow_compared_before_the_canary(found):
    """The good version is the live one under another number: they agree on everything."""
    shadow = found[0].shadow
    assert shadow["compared"] > 0
    assert shadow["agreement"] == 1.0
    assert shadow["failed"] == 0


@pytest.mark.slow
def test_the_run_has_numbers_and_a_figure(found):
    """What the report shows comes from the same trace."""
    numbers = metrics(found)
    assert numbers["rollout.failed_requests"] == 0
    assert numbers["rollout.as_expected"] == 3
    assert numbers["rollout.slow_seconds_to_roll_back"] > 0
    assert len(draw_canaries(found).axes) >= 3


@pytest.fixture(scope="module")
def served(tiny_bundles, tmp_path_factory):
    """Version 1.0 live, 2.0 in the store; a client of the management routes."""
    folder = tmp_path_factory.mktemp("served")
    for bundle in tiny_bundles:
        shutil.copytree(bundle.folder, folder / "store" / bundle.version)
    with serve_bundle(
        folder / "store" / "1.0", folder=folder, model_store=folder / "store", settings=PATIENT
    ) as server:
        client = ManagementClient(server.url, server.name, server.management_token)
        yield server, client
        client.close()


@pytest.mark.slow
def test_versions_come_and_go_under_load_and_nothing_is_lost(served, tiny_bundles):
    """Load, half, all, unload, and back: no request fails, each answer is its version's."""
    server, client = served
    expected = expected_labels([bundle.folder for bundle in tiny_bundles], TEXTS)
    found = switch_by_weight(
        server.prediction_url(),
        server.headers,
        client,
        {"1.0": "1.0", "2.0": "2.0"},
        TEXTS,
        expected,
        rate=300,
    )
    assert found.failed == 0, found.failures
    assert found.mixed_up == 0
    assert set(found.by_version) == {"1.0", "2.0"}
    assert list(client.state()["versions"]) == ["1.0"], "there and back again"


@pytest.mark.slow
def test_every_answer_names_its_version_and_a_user_keeps_theirs(served):
    """Header and body agree; X-User decides, not the request; a named version is obeyed."""
    server, client = served
    client.load("2.0")
    client.set_weights({"1.0": 0.5, "2.0": 0.5}, salt="users")
    try:
        with httpx.Client(headers=server.headers, trust_env=False) as http:
            seen = {}
            for i in range(120):
                user = f"user-{i % 40}"
                answer = http.post(
                    server.prediction_url(), json={"text": "wake me"}, headers={"X-User": user}
                )
                version = answer.json()["version"]
                assert answer.headers["X-Model-Version"] == version
                seen.setdefault(user, set()).add(version)
            named = http.post(server.prediction_url("2.0"), json={"text": "wake me"})
            unknown = http.post(server.prediction_url("9.9"), json={"text": "wake me"})
        assert all(len(versions) == 1 for versions in seen.values()), "a user met both versions"
        assert Counter(next(iter(v)) for v in seen.values())["2.0"] in range(8, 33)
        assert named.json()["version"] == "2.0"
        assert unknown.status_code == 404
    finally:
        client.set_weights({"1.0": 1})
        client.unload("2.0")


@pytest.mark.slow
def test_labels_and_weights_need_the_management_token(served):
    """Who may ask may not decide: wrong labels from a user would roll a good version back."""
    server, _ = served
    for method, path in (("POST", "/feedback"), ("PUT", f"/models/{server.name}")):
        answer = httpx.request(
            method, server.url + path, json={}, headers=server.headers, trust_env=False
        )
        assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"


class Child:
    """A server's process that is there until it is told to be dead."""

    dead = False

    def poll(self):
        return 1 if self.dead else None

    def tail(self, lines):
        return "its last words"


class Operator:
    """A management client whose server knows nothing of it; ``unloaded`` is when it was asked."""

    unloaded = None

    def load(self, bundle):
        pass

    def feedback(self, labels):
        pass

    def unload(self, version):
        self.gone, self.unloaded = version, time.perf_counter()


@pytest.fixture
def answering():
    """A server of version 1.0 that notes when it was asked, and whether to answer 503."""
    asked, refuses = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(time.perf_counter())
            refused = bool(refuses) and refuses[0]()
            content = {"error": {"message": "gone"}} if refused else {"version": "1.0", "label": ""}
            body = json.dumps(content).encode()
            self.send_response(503 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}/"
        server = SimpleNamespace(prediction_url=lambda: url, headers={}, child=Child())
        yield SimpleNamespace(server=server, asked=asked, refuses=refuses)
        http.shutdown()
        thread.join()


def one_canary(answering, client, folder):
    rollout = Rollout("m", "1.0", "2.0", "s", (Step(0.1, 40),), look_every_s=30)
    candidate = SimpleNamespace(folder=folder / "2.0", version="2.0")
    return canary_run.run_canary(
        answering.server, client, "slow", candidate, rollout, ["a"], ["b"], folder=folder, rate=100
    )


def test_a_version_is_unloaded_while_users_ask(answering, tmp_path, monkeypatch):
    """Half a second of load follows, and who is failed by the unloading counts as failed."""
    client = Operator()
    decided = SimpleNamespace(run=lambda: None, trace=[], status="rolled_back", reason="made up")
    monkeypatch.setattr(canary_run, "Controller", lambda *_, **__: decided)
    answering.refuses.append(
        lambda: client.unloaded is not None and time.perf_counter() < client.unloaded + 0.25
    )
    canary = one_canary(answering, client, tmp_path)
    assert client.gone == "2.0", "what was rolled back leaves"
    assert answering.asked[-1] - client.unloaded >= 0.4
    assert 0 < canary.failed < canary.requests / 2, canary.failures
    assert set(canary.failures) == {"503 gone"}


def test_a_rollout_whose_server_dies_ends_at_once(answering, tmp_path):
    """It looks every 30 s and gives up after 600; it is over as soon as the process is."""

    class Unreachable(Operator):
        def set_weights(self, weights, *, salt=None):
            if answering.server.child.dead:
                raise AssertionError("asked again although the server is dead")
            threading.Timer(0.3, setattr, (answering.server.child, "dead", True)).start()
            raise RunError("the server cannot be reached")

    began = time.perf_counter()
    with pytest.raises(RunError, match="died during the rollout:\nits last words"):
        one_canary(answering, Unreachable(), tmp_path)
    assert time.perf_counter() - began < 10


def test_users_that_are_moved_back_are_counted():
    """From new to old is back; from old to new is the rollout; later requests do not count."""

    def requests(*versions):
        return [Request(float(i), "u", 0, 200, 0.01, version) for i, version in enumerate(versions)]

    assert moved_back(requests("1", "1", "2", "2"), "1", "2", 10) == 0
    assert moved_back(requests("1", "2", "1", "2", "1"), "1", "2", 10) == 1
    assert moved_back(requests("1", "2", "1"), "1", "2", 1.5) == 0
    assert moved_back(requests("2", "", "1"), "1", "2", 10) == 1


def test_an_answer_of_another_version_is_seen():
    """By its label, or by a header that says otherwise than the body."""
    expected = {"1": ["a", "b"], "2": ["c", "d"]}
    right = Request(0.0, "u", 1, 200, 0.01, "2", "d", "2")
    wrong = Request(0.0, "u", 1, 200, 0.01, "2", "b", "2")
    header = Request(0.0, "u", 1, 200, 0.01, "2", "d", "1")
    failed = Request(0.0, "u", 1, 503, 0.01)
    assert mixed_up([right, wrong, header, failed], expected) == 2


def test_the_store_holds_sealed_bundles_of_each_story(tmp_path):
    """The wrong one differs by its labels alone: nothing that a seal or a format could find."""
    live, good = make_bundle(tmp_path / "b"), make_bundle(tmp_path / "b", version="2.0")
    versions = write_versions(live.folder, good.folder, tmp_path / "store")
    wrong = versions.candidates["wrong"]
    assert set(wrong.labels) == set(good.labels)
    assert all(a != b for a, b in zip(wrong.labels, good.labels, strict=True))
    names = {each.version for each in (versions.live, *versions.candidates.values())}
    assert names == {"1.0", "2.0", "2.0-slow", "2.0-wrong"}
    assert {each.name for each in (tmp_path / "store").iterdir()} == names
