"""Bad input over real HTTP: the right status, a message that helps, counted, nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from capstone.gateway import create_app
from capstone.gateway_config import GatewayConfig
from capstone.loaded_bundle import Mismatch
from tests.capstone import tiny_bundle
from tests.capstone.local_gateway import ADMIN_TOKEN, TOKEN, Gateway, local_gateway

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
NOT_RANGE = "greater than or equal to 1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Beside its bundle lie one of another checkpoint's index, a damaged one, and a way out."""
    folder = tmp_path_factory.mktemp("bad")
    root = folder / "root"
    bundle = tiny_bundle.build(root / "bundle")
    tiny_bundle.build(root / "mismatched", index_of="another-checkpoint")
    shutil.copytree(root / "bundle", root / "damaged")
    with (root / "damaged" / "ranker.onnx").open("r+b") as stream:
        stream.seek(200)
        stream.write(b"\0\0\0\0")
    tiny_bundle.build(folder / "outside")
    (root / "link").symlink_to(folder / "outside")
    with local_gateway(folder, bundle, bundle_root=str(root)) as running:
        yield running


@dataclass(frozen=True)
class State:
    """All that bad input could corrupt: histories, the log of reactions, the experiment."""

    people: Any
    reactions: dict[str, bytes]
    experiment: Any
    settings: bytes
    accepted: float


def state_of(gateway: Gateway) -> State:
    logs = sorted(gateway.log.glob("reactions*/*"))
    settings = gateway.log / "experiment.json"
    return State(
        gateway.client.get("/users").json(),
        {path.name: path.read_bytes() for path in logs},
        gateway.client.get("/experiment").json(),
        settings.read_bytes() if settings.exists() else b"",
        gateway.count("feed_events_total", outcome="accepted"),
    )


def refused(gateway: Gateway, status: int, words: str, send: Callable[[], httpx.Response]) -> None:
    """Send something bad: its status, its message, its place in the metrics, and no change."""
    before, counted = state_of(gateway), gateway.count("feed_requests_total", status=str(status))
    answer = send()
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"detail"}
    assert words in answer.json()["detail"]
    assert len(answer.content) < 1500
    assert gateway.count("feed_requests_total", status=str(status)) == counted + 1
    assert state_of(gateway) == before


def event_of(feed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A reaction to a feed's first item."""
    return {
        "event_id": f"event-{feed['request_id']}",
        "request_id": feed["request_id"],
        "user_id": feed["user_id"],
        "item_id": feed["items"][0]["item_id"],
        "reaction": "like",
        **changes,
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"user_id": 1, "k": 51}, "k = 51: Input should be less than or equal to 50"),
        ({"user_id": 1, "k": 10**30}, "less than or equal to 50"),
        ({"user_id": 1, "k": 0}, f"k = 0: Input should be {NOT_RANGE}"),
        ({"user_id": 1, "k": 2.5}, "k = 2.5: Input should be a valid integer"),
        ({"user_id": 1, "k": "10"}, "k = '10': Input should be a number"),
        ({"user_id": True}, "user_id = True: Input should be a number"),
        ({"user_id": -1}, f"user_id = -1: Input should be {NOT_RANGE}"),
        ({"user_id": 2**31}, "user_id = 2147483648: Input should be less than or equal to"),
        ({"user_id": None}, "user_id: Input should be a valid integer"),
        ({}, "user_id: Field required"),
        ({"user_id": 1, "limit": 5}, "limit: Extra inputs are not permitted"),
        ({"user_id": 1, "unit_id": "Ünit"}, "unit_id = 'Ünit': String should match"),
        ({"user_id": 1, "unit_id": "a\n"}, "String should match"),
        ({"user_id": 1, "unit_id": "x" * 65}, "at most 64 characters"),
        ({"user_id": 1, "variant": 99}, "variant = 99: Input should be less than or equal to 15"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(
    gateway: Gateway, query: dict[str, Any], words: str
) -> None:
    """The message names the field, the value and its limit: the client can mend it."""
    refused(gateway, 422, words, lambda: gateway.client.post("/feed", json=query))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no JSON"),
        (b'{"user_id": ', 400, "EOF while parsing"),
        (b'{"user_id": 1} x', 400, "trailing characters"),
        (b"\xef\xbb\xbf{}", 400, "line 1 column 1"),
        (b'{"user_id": 1, "unit_id": "\xff"}', 400, "invalid unicode"),
        (b'{"user_id": 1, "unit_id": "\\ud800"}', 400, "no JSON"),
        (b"[" * 8000, 400, "recursion limit exceeded"),
        (b'{"user_id": 1, "x": ' + b"[" * 4000 + b"]" * 4000 + b"}", 400, "recursion limit"),
        (b'{"user_id": ' + b"9" * 5000 + b"}", 400, "number out of range"),
        (b'{"user_id": ' + b"9" * 4300 + b"}", 422, "less than or equal to 2147483647"),
        (b'{"user_id": NaN}', 422, "user_id = nan: Input should be a finite number"),
        (b'{"user_id": 1, "k": Infinity}', 422, "k = inf: Input should be a finite number"),
        (b'{"user_id": 1e400}', 422, "finite number"),
        (b"[1]", 422, "body: Input should be an object"),
        (b"null", 422, "body: Input should be an object"),
        (b" " * 16_385, 413, "at most 16384 bytes"),
    ],
)
def test_a_body_that_is_no_query_is_refused(
    gateway: Gateway, body: bytes, status: int, words: str
) -> None:
    """400 for what is no JSON, 422 for other JSON, 413 for too much of it; never 500."""
    send = lambda: gateway.client.post("/feed", content=body, headers=JSON)  # noqa: E731
    refused(gateway, status, words, send)


@pytest.mark.parametrize("path", ["/feed", "/events", "/experiment"])
@pytest.mark.parametrize("pieces", [1, 6])
def test_a_body_without_a_length_has_the_same_limit(
    gateway: Gateway, path: str, pieces: int
) -> None:
    """In chunks nobody says beforehand how much will come, and one chunk may be all of it."""

    def send() -> httpx.Response:
        chunks = iter([b" " * (60_000 // pieces)] * pieces)
        method = "PUT" if path == "/experiment" else "POST"
        return gateway.admin.request(method, path, content=chunks, headers=JSON)

    refused(gateway, 413, "at most 16384 bytes", send)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonp", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/events", "/bundles"])
def test_another_content_type_is_refused(gateway: Gateway, path: str, kind: str) -> None:
    """A form of another site can send text/plain without asking, JSON it cannot."""
    headers = {"Content-Type": kind}
    send = lambda: gateway.admin.post(path, content=b"{}", headers=headers)  # noqa: E731
    refused(gateway, 415, "must be application/json", send)


WRONG_TOKENS = (
    ("", "a token is needed: Authorization: Bearer"),
    ("Bearer", "a token is needed"),
    ("Bearer wrong", "the token is not valid"),
    (f"Bearer {TOKEN}x", "the token is not valid"),
    (f"Bearer {TOKEN[:-1]}", "the token is not valid"),
    (f"Basic {TOKEN}", "the token is not valid"),
    ("Bearer " + "x" * 5000, "the token is not valid"),
)


@pytest.mark.parametrize("path", ["/feed", "/users", "/openapi.json", "/nowhere"])
def test_without_the_token_nothing_is_told(gateway: Gateway, path: str) -> None:
    """Not even which routes there are; and the body is not read first."""
    method = "POST" if path == "/feed" else "GET"
    with httpx.Client(base_url=gateway.url, trust_env=False) as nobody:
        for given, words in WRONG_TOKENS if path == "/feed" else WRONG_TOKENS[:3]:
            headers = {"Authorization": given} if given else {}
            send = lambda headers=headers: nobody.request(  # noqa: E731
                method, path, headers=headers
            )
            refused(gateway, 401, words, send)


@pytest.mark.parametrize(
    ("changes", "status", "outcome", "words"),
    [
        ({"item_id": 61}, 404, "unknown_item", "item_id = 61 is not in the catalogue, which ends"),
        ({"item_id": 2**31 - 1}, 404, "unknown_item", "which ends at 60"),
        ({"item_id": 60}, 409, "not_shown", "item_id = 60 was not in feed"),
        ({"request_id": "made-up"}, 403, "forged", "is of no feed of this user"),
        ({"request_id": "a.b"}, 403, "forged", "is of no feed of this user"),
        ({"user_id": 2}, 403, "forged", "is of no feed of this user; send the feed's own"),
        ({"item_id": 0}, 422, "", f"item_id = 0: Input should be {NOT_RANGE}"),
        ({"event_id": "événement"}, 422, "", "event_id = 'événement': String should match"),
        ({"event_id": "a b"}, 422, "", "event_id = 'a b': String should match"),
        ({"event_id": ""}, 422, "", "event_id = '': String should have at least 1 character"),
        ({"reaction": "love"}, 422, "", "'love': Input should be 'click', 'like', 'share' or"),
        ({"at": 1}, 422, "", "at: Extra inputs are not permitted"),
        ({"position": 0}, 422, "", "position: Extra inputs are not permitted"),
    ],
)
def test_a_reaction_to_something_else_is_refused(
    gateway: Gateway, changes: dict[str, Any], status: int, outcome: str, words: str
) -> None:
    """Unknown items, forged and borrowed request ids; counted by outcome, in no history."""
    event = event_of(gateway.feed(1), **changes)
    counted = gateway.count("feed_events_total", outcome=outcome)
    refused(gateway, status, words, lambda: gateway.client.post("/events", json=event))
    if outcome:
        assert gateway.count("feed_events_total", outcome=outcome) == counted + 1


def test_a_changed_request_id_is_forged(gateway: Gateway) -> None:
    """One character: the number of another request, or the end of the signature."""
    feed = gateway.feed(1)
    given = feed["request_id"]
    number, mac = given.split(".")
    last = "0" if mac[-1] != "0" else "1"
    for forged in (f"{number}0.{mac}", f"{number}.{mac[:-1]}{last}", f"{number}.{mac[:8]}"):
        event = event_of(feed, request_id=forged)
        send = lambda event=event: gateway.client.post("/events", json=event)  # noqa: E731
        refused(gateway, 403, "request_id is of no feed of this user", send)


def test_missing_fields_are_all_named(gateway: Gateway) -> None:
    """One round trip tells everything that is missing."""
    send = lambda: gateway.client.post("/events", json={"event_id": "e"})  # noqa: E731
    told = "; ".join(f"{name}: Field required" for name in ("request_id", "user_id", "item_id"))
    refused(gateway, 422, told, send)


def test_a_replayed_event_is_acknowledged_and_changes_nothing(gateway: Gateway) -> None:
    """A client that heard no answer sends it again: it must be safe, and told apart."""
    event = event_of(gateway.feed(3))
    first = gateway.client.post("/events", json=event)
    assert first.json() == {"event_id": event["event_id"], "duplicate": False}
    after = state_of(gateway)
    assert gateway.watched(3) == 7
    for _ in range(3):
        again = gateway.client.post("/events", json=event)
        assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert state_of(gateway) == after
    assert gateway.count("feed_events_total", outcome="duplicate") >= 3


def test_an_event_sent_eight_times_at_once_counts_once(gateway: Gateway) -> None:
    """The copies come while the first is being written: it is in no table yet."""
    event = event_of(gateway.feed(4))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.client.post("/events", json=event), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sorted(answer.json()["duplicate"] for answer in answers) == [False] + [True] * 7
    assert gateway.watched(4) == 7


@pytest.mark.parametrize("change", ["reaction", "item_id", "request_id"])
def test_an_event_id_with_other_content_is_refused(gateway: Gateway, change: str) -> None:
    """Silently dropping the second would lose a reaction; taking it would change history."""
    feed, other = gateway.feed(5), gateway.feed(5)
    event = event_of(feed, event_id=f"reused-{change}")
    gateway.client.post("/events", json=event).raise_for_status()
    value = {
        "reaction": "hide", "item_id": feed["items"][1]["item_id"],
        "request_id": other["request_id"],
    }[change]  # fmt: skip
    if change == "request_id":
        event["item_id"] = other["items"][0]["item_id"]
    changed = {**event, change: value}
    words = f"event_id = 'reused-{change}' was used for another event; make a new id"
    refused(gateway, 409, words, lambda: gateway.client.post("/events", json=changed))


def test_an_unknown_user_is_a_cold_start_and_no_error(gateway: Gateway) -> None:
    """Everybody is new once: popular and fresh items, counted, and no history made by looking."""
    before = state_of(gateway)
    counted = gateway.count("feed_cold_start_total")
    answer = gateway.feed(2_000_000_000)
    assert answer["cold_start"] is True
    assert len(answer["items"]) == 10
    assert {name for item in answer["items"] for name in item["sources"]} <= {
        "popular", "fresh", "fallback"
    }  # fmt: skip
    assert gateway.count("feed_cold_start_total") == counted + 1
    assert state_of(gateway) == before


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/experiment"), ("POST", "/bundles"), ("PUT", "/withdrawn")]
)
def test_a_client_is_no_administrator(gateway: Gateway, method: str, path: str) -> None:
    """Refused by the token, before anybody looks at the body."""
    send = lambda: gateway.client.request(method, path, json={"items": [1]})  # noqa: E731
    refused(gateway, 403, "this needs the admin's token, not a client's", send)


def test_a_client_does_not_choose_its_arm(gateway: Gateway) -> None:
    """Whoever may choose is not assigned; an administrator may, and exposes nobody."""
    body = {"user_id": 1, "variant": 0}
    refused(gateway, 403, "variant needs the admin's token",
            lambda: gateway.client.post("/feed", json=body))  # fmt: skip
    body = {"user_id": 1, "variant": 1}
    refused(gateway, 422, "variant = 1 must be below 1",
            lambda: gateway.admin.post("/feed", json=body))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": [0.5]}, "weights = [0.5] must sum to 1, not 0.5; divide each by their sum"),
        ({"weights": [0.5, 0.5]}, "weights = (0.5, 0.5) must have 1, one an arm"),
        ({"weights": [-1, 2]}, "weights.0 = -1: Input should be greater than or equal to 0"),
        ({"weights": [0.0625] * 17}, "at most 16 items"),
        ({"weights": []}, "at least 1 item"),
        ({"weights": [True]}, "weights.0 = True: Input should be a number"),
        ({"weights": ["1"]}, "weights.0 = '1': Input should be a number"),
        ({"weights": [1], "coverage": 1.5}, "coverage = 1.5: Input should be less than or equal"),
        ({"weights": [1], "shadow": 3}, "shadow = 3 must be below 1, a variant"),
        ({"weights": [1], "shadow_share": 0}, "shadow_share = 0: Input should be greater than 0"),
        ({"weights": [1], "arms": 2}, "arms: Extra inputs are not permitted"),
    ],
)
def test_an_experiment_that_does_not_fit_leaves_the_running_one(
    gateway: Gateway, settings: dict[str, Any], words: str
) -> None:
    """Half of a change would be the worst: weights and file are those of before."""
    refused(gateway, 422, words, lambda: gateway.admin.put("/experiment", json=settings))


def test_a_weight_that_is_no_number_is_refused(gateway: Gateway) -> None:
    """NaN compares with nothing: a check that is written as ``w < 0`` lets it through."""
    for text in (b"NaN", b"-Infinity", b"1e999"):
        body = b'{"weights": [' + text + b"]}"
        send = lambda body=body: gateway.admin.put(  # noqa: E731
            "/experiment", content=body, headers=JSON
        )
        refused(gateway, 422, "weights.0", send)


@pytest.mark.parametrize(
    ("folder", "status", "words"),
    [
        ("..", 403, "folder must be below the gateway's bundle root"),
        ("../outside", 403, "below the gateway's bundle root"),
        ("bundle/../../outside", 403, "below the gateway's bundle root"),
        ("link", 403, "below the gateway's bundle root"),
        (".", 403, "below the gateway's bundle root"),
        ("/etc", 422, "folder = '/etc': String should match"),
        ("%2e%2e/outside", 422, "String should match"),
        ("a\0b", 422, "String should match"),
        ("x" * 300, 422, "at most 200 characters"),
        ("nowhere", 409, "manifest.json is missing"),
    ],
)
def test_a_bundle_comes_from_below_the_root_only(
    gateway: Gateway, folder: str, status: int, words: str
) -> None:
    """Whoever names a folder must not choose what this process reads, through a link neither."""
    refused(gateway, status, words, lambda: gateway.admin.post("/bundles", json={"folder": folder}))


@pytest.mark.parametrize(
    ("folder", "part", "words"),
    [
        ("mismatched", "index", "the index is of version 'another-checkpoint', expected"),
        ("damaged", "files", "ranker.onnx"),
    ],
)
def test_a_bundle_that_does_not_fit_together_is_refused(
    gateway: Gateway, folder: str, part: str, words: str
) -> None:
    """It would answer 200 with the neighbours of other vectors; the part is counted."""
    counted = gateway.count("feed_bundle_mismatch_total", part=part)
    refused(gateway, 409, words, lambda: gateway.admin.post("/bundles", json={"folder": folder}))
    assert gateway.count("feed_bundle_mismatch_total", part=part) == counted + 1


def test_a_gateway_does_not_start_with_a_mismatched_bundle(tmp_path: Path) -> None:
    """Better no new process than one that serves nonsense."""
    bundle = tiny_bundle.build(tmp_path / "bundle", index_of="another-checkpoint")
    users = tiny_bundle.write_users(tmp_path / "users.json")
    config = GatewayConfig([str(bundle.folder)], str(users), str(tmp_path / "log"), port=1)
    with pytest.raises(Mismatch, match="another-checkpoint"):
        create_app(config, token=TOKEN, admin_token=ADMIN_TOKEN)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("items", [[0], [1.5], ["1"], [2**31], list(range(1, 1002)), None])
def test_a_withdrawal_that_does_not_fit_withdraws_nothing(gateway: Gateway, items: Any) -> None:
    """All or nothing: a feed has as many items as before."""
    send = lambda: gateway.admin.put("/withdrawn", json={"items": items})  # noqa: E731
    refused(gateway, 422, "items", send)
    assert len(gateway.feed(6)["items"]) == 10


@pytest.mark.parametrize(
    "given",
    ["", "x", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
     "00-" + "g" * 32, "x" * 8000, f"00-{'a' * 32}-{'b' * 16}-01;DROP"],
)  # fmt: skip
def test_a_garbage_traceparent_begins_a_new_trace(gateway: Gateway, given: str) -> None:
    """The standard says so (W3C Trace Context): it neither fails the request nor gets into logs."""
    headers = {"traceparent": given}
    answer = gateway.client.post("/feed", json={"user_id": 1}, headers=headers)
    assert answer.status_code == 200
    trace = answer.headers["x-trace-id"]
    assert len(trace) == 32
    assert set(trace) <= set("0123456789abcdef")
    assert trace not in given


def test_a_good_traceparent_is_kept(gateway: Gateway) -> None:
    """So that a request can be followed through the services."""
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    answer = gateway.client.post("/feed", json={"user_id": 1}, headers=headers)
    assert answer.headers["x-trace-id"] == "a" * 32


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/feed", 405, "the method of /feed must be POST, not GET"),
        ("PATCH", "/experiment", 405, "must be GET, PUT, not PATCH"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/static/%2e%2e/gateway.py", 404, "Not Found"),
        ("GET", "/docs", 404, "Not Found"),
    ],
)
def test_another_route_or_method_is_refused(
    gateway: Gateway, method: str, path: str, status: int, words: str
) -> None:
    """And no path reaches out of the page's folder."""
    refused(gateway, status, words, lambda: gateway.client.request(method, path))


def test_paths_that_clients_make_up_are_one_label(gateway: Gateway) -> None:
    """A label a path would let anybody fill the memory of Prometheus."""
    for number in range(20):
        gateway.client.get(f"/made-up-{number}")
    assert gateway.count("feed_requests_total", route="other", status="404") >= 20
    assert "made-up" not in gateway.client.get("/metrics").text
