"""The gateway over HTTP: answers, refusals, the experiment, shadows, restarts, and a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from capstone import bundle
from capstone.bundle import OPTIONAL, PARTS
from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
from capstone.fallback import DependencyDown
from capstone.feed import DEADLINES_MS
from capstone.gateway import create_app
from capstone.gateway_config import GatewayConfig
from capstone.loaded_bundle import Mismatch
from capstone.reranking import RerankConfig
from capstone.serving import archive_rankers, gateway_process, live
from common.errors import InputError
from common.ports import free_port
from labs.lab4_model_serving import json_logs
from tests.capstone import tiny_bundle
from tests.capstone.test_event_log import full_disk

TOKEN, ADMIN = "token-of-a-client-0", "token-of-the-admin-0"
SLOW = dict.fromkeys(DEADLINES_MS, 10_000.0)
"""Deadlines that a busy machine does not miss."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users, and bundles: two good ones, one mixed, one unjudged, one changed after its gates."""
    folder = tmp_path_factory.mktemp("made")
    plain = RerankConfig()
    tiny_bundle.build(folder / "bundles" / "one", seed=1, rerank=plain)
    tiny_bundle.build(folder / "bundles" / "two", seed=2, rerank=plain)
    tiny_bundle.build(folder / "bundles" / "mixed", seed=3, index_of="another checkpoint")
    tiny_bundle.build(folder / "bundles" / "unjudged", seed=5, figures=None)
    two = tiny_bundle.build(folder / "reranked-from", seed=6)
    parts = {name: two.folder / file for name, file in (PARTS | OPTIONAL).items()}
    bundle.assemble(
        folder / "bundles" / "reranked",
        {name: path for name, path in parts.items() if path.exists()},
        replace(two.facts, rerank={**two.rerank, "exploration_slots": 0}),
    )
    tiny_bundle.build(folder / "outside", seed=4)
    tiny_bundle.write_users(folder / "users.json")
    return folder


def config(made: Path, folder: Path, **changes: Any) -> GatewayConfig:
    fields: dict[str, Any] = {
        "bundles": [str(made / "bundles" / "one")],
        "users": str(made / "users.json"),
        "log": str(folder / "events"),
        "port": 1,
        "deadlines_ms": SLOW,
    }
    return GatewayConfig(**fields | changes)


Client = httpx.AsyncClient


@asynccontextmanager
async def running(settings: GatewayConfig) -> AsyncIterator[tuple[Client, Client]]:
    """A gateway in this process: a client's and an administrator's connection to it."""
    app = create_app(settings, token=TOKEN, admin_token=ADMIN)
    service = app.service  # type: ignore[attr-defined]
    await service.start()
    transport = httpx.ASGITransport(app)
    made = [
        httpx.AsyncClient(
            transport=transport, base_url="http://gateway",
            headers={"Authorization": f"Bearer {token}"},
        )
        for token in (TOKEN, ADMIN)
    ]  # fmt: skip
    made[0].service = service  # type: ignore[attr-defined]
    try:
        yield made[0], made[1]
    finally:
        for client in made:
            await client.aclose()
        await service.close()


def asked(settings: GatewayConfig, talk: Callable[[Client, Client], Awaitable[Any]]) -> Any:
    """What a conversation with a new gateway returns."""

    async def main() -> Any:
        async with running(settings) as (client, admin):
            return await talk(client, admin)

    return asyncio.run(main())


def reaction(feed: dict[str, Any], name: str = "e1", **changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": name, "request_id": feed["request_id"], "user_id": feed["user_id"],
        "item_id": feed["items"][0]["item_id"], "reaction": "like",
    }  # fmt: skip
    return fields | changes


async def counted(client: Client, line: str) -> float:
    """The value of one line of the metrics; 0 without it."""
    for each in (await client.get("/metrics")).text.splitlines():
        if each.startswith(f"{line} "):
            return float(each.rsplit(" ", 1)[1])
    return 0.0


def test_a_reaction_changes_the_next_feed_and_is_in_the_log(made: Path, tmp_path: Path) -> None:
    """The loop that a feed lives from: shown, reacted, learnt."""

    async def talk(client: Client, admin: Client) -> None:
        feed = (await client.post("/feed", json={"user_id": 3, "k": 5})).json()
        answer = await client.post("/events", json=reaction(feed))
        assert (answer.status_code, answer.json()["duplicate"]) == (200, False)
        again = (await client.post("/feed", json={"user_id": 3, "k": 5})).json()
        assert feed["items"][0]["item_id"] not in [item["item_id"] for item in again["items"]]
        assert again["request_id"] != feed["request_id"]
        people = {person["user_id"]: person for person in (await client.get("/users")).json()}
        assert people[3]["recent"][0] == feed["items"][0]["title"]

    asked(config(made, tmp_path), talk)
    tables = FeedTables(tmp_path / "events")
    (row,) = tables.read(REACTIONS).to_pylist()
    shown = tables.read(EXPOSURES).to_pylist()
    assert (row["unit_id"], row["position"], row["reaction"]) == ("3", 0, "like")
    assert row["request_id"] == shown[0]["request_id"]
    assert [len(each["items"]) for each in shown] == [5, 5]


def test_an_answer_says_why_each_item_is_there(made: Path, tmp_path: Path) -> None:
    async def talk(client: Client, admin: Client) -> dict[str, Any]:
        answers = [
            (await client.post("/feed", json={"user_id": user, "k": 50})).json()
            for user in [*range(1, 21), 3]
        ]
        return {"answer": answers[-1], "timings": [each["timings_ms"] for each in answers]}

    found = asked(config(made, tmp_path), talk)
    answer = found["answer"]
    values = [item["value"] for item in answer["items"]]
    assert values == sorted(values, reverse=True)
    assert [item["position"] for item in answer["items"]] == list(range(len(values)))
    assert {name for item in answer["items"] for name in item["sources"]} >= {"nearest", "popular"}
    for item in answer["items"]:
        assert set(item["heads"]) == {"engage", "like", "love", "dislike"}
        assert item["propensity"] == 1.0
    timings = dict(answer["timings_ms"])
    total = timings.pop("total")
    assert set(timings) == {"admit", "hydrate", "source", "filter", "score", "select", "log"}
    assert sum(timings.values()) <= 1.001 * total
    # The median of 21: a pause of another process falls into one request, not into most of them.
    shares = [(sum(each.values()) - each["total"]) / each["total"] for each in found["timings"]]
    assert sorted(shares)[10] == pytest.approx(1, abs=0.05)


def test_an_unknown_user_gets_a_cold_start_feed(made: Path, tmp_path: Path) -> None:
    async def talk(client: Client, admin: Client) -> None:
        answer = (await client.post("/feed", json={"user_id": 5000})).json()
        assert answer["cold_start"]
        assert len(answer["items"]) == 10
        assert await counted(client, "feed_cold_start_total") == 1

    asked(config(made, tmp_path), talk)


def test_bad_input_gets_the_right_status_is_counted_and_changes_nothing(
    made: Path, tmp_path: Path
) -> None:
    """A client's mistake has a 4xx with a message; none of it reaches a history or the log."""

    async def talk(client: Client, admin: Client) -> None:
        feed = (await client.post("/feed", json={"user_id": 3, "k": 5})).json()
        good = reaction(feed)
        shown = {item["item_id"] for item in feed["items"]}
        other = next(item for item in range(10, 59) if item not in shown)
        js = {"Content-Type": "application/json"}
        bad: list[tuple[int, str, dict[str, Any]]] = [
            (422, "/feed", {"json": {"user_id": 0}}),
            (422, "/feed", {"json": {"user_id": 1, "k": 0}}),
            (422, "/feed", {"json": {"user_id": 1, "k": 10**6}}),
            (422, "/feed", {"json": {"user_id": "x"}}),
            (422, "/feed", {"json": {"user_id": True}}),
            (422, "/feed", {"json": {}}),
            (422, "/feed", {"json": [1]}),
            (422, "/feed", {"json": {"user_id": 1, "more": 1}}),
            (422, "/feed", {"json": {"user_id": 1, "unit_id": "a b"}}),
            (422, "/feed", {"json": {"user_id": 1, "variant": 16}}),
            (403, "/feed", {"json": {"user_id": 1, "variant": 0}}),
            (400, "/feed", {"content": b'{"user_id": 1', "headers": js}),
            (400, "/feed", {"content": b"", "headers": js}),
            (400, "/feed", {"content": b"\xff", "headers": js}),
            (415, "/feed", {"content": b'{"user_id": 1}'}),
            (413, "/feed", {"content": b" " * 20_000, "headers": js}),
            (413, "/experiment", {"content": b" " * 20_000, "headers": js}),
            (401, "/feed", {"json": {"user_id": 1}, "headers": {"Authorization": "Bearer no"}}),
            (401, "/feed", {"json": {"user_id": 1}, "headers": {"Authorization": ""}}),
            (403, "/events", {"json": good | {"request_id": "made-up.0123456789abcdef"}}),
            (403, "/events", {"json": good | {"user_id": 4}}),
            (404, "/events", {"json": good | {"item_id": 61}}),
            (409, "/events", {"json": good | {"item_id": other}}),
            (422, "/events", {"json": good | {"reaction": "buy"}}),
            (422, "/events", {"json": good | {"event_id": "x" * 65}}),
            (422, "/events", {"json": good | {"event_id": "x'; DROP TABLE"}}),
            (404, "/nothing", {"json": {}}),
            (405, "/users", {"json": {}}),
        ]
        for status, path, sent in bad:
            answer = await client.post(path, **sent)
            assert answer.status_code == status, (path, sent, answer.text)
            assert answer.json()["detail"], (path, sent)
        assert await counted(client, 'feed_requests_total{route="/feed",status="422"}') == 10
        assert await counted(client, 'feed_events_total{outcome="forged",reaction="like"}') == 2
        unknown = 'feed_events_total{outcome="unknown_item",reaction="like"}'
        assert await counted(client, unknown) == 1
        assert await counted(client, 'feed_requests_total{route="other",status="404"}') == 1
        people = {person["user_id"]: person for person in (await client.get("/users")).json()}
        assert people[3]["watched"] == 6

    asked(config(made, tmp_path), talk)
    assert FeedTables(tmp_path / "events").read(REACTIONS).num_rows == 0


def test_a_replayed_event_changes_nothing_also_after_a_restart(made: Path, tmp_path: Path) -> None:
    """A client that saw no answer sends again; the first try may have been on disk by then."""
    settings = config(made, tmp_path)

    async def first(client: Client, admin: Client) -> dict[str, Any]:
        feed = (await client.post("/feed", json={"user_id": 3, "k": 5})).json()
        await client.post("/events", json=reaction(feed))
        event = reaction(feed)
        assert (await client.post("/events", json=event)).json()["duplicate"]
        answer = await client.post("/events", json=event | {"reaction": "hide"})
        assert answer.status_code == 409
        return event

    async def second(client: Client, admin: Client) -> None:
        answer = await client.post("/events", json=event)
        assert (answer.status_code, answer.json()["duplicate"]) == (200, True)
        people = {person["user_id"]: person for person in (await client.get("/users")).json()}
        assert people[3]["watched"] == 7

    event = asked(settings, first)
    for path in (tmp_path / "events").glob("state.sqlite*"):
        path.unlink()  # the state is a view of the log
    asked(settings, second)
    assert FeedTables(tmp_path / "events").read(REACTIONS).num_rows == 1


def test_a_full_disk_refuses_reactions_and_no_feed(made: Path, tmp_path: Path) -> None:
    """An event that is not on disk is not acknowledged; a feed needs no disk."""

    async def talk(client: Client, admin: Client) -> None:
        feed = (await client.post("/feed", json={"user_id": 3})).json()
        with full_disk(1):
            answer = await client.post("/events", json=reaction(feed))
            assert (answer.status_code, answer.headers["retry-after"]) == (507, "1")
            assert (await client.post("/feed", json={"user_id": 4})).status_code == 200
            change = {"weights": [1.0]}
            assert (await admin.put("/experiment", json=change)).status_code == 507
        again = await client.post("/events", json=reaction(feed))
        assert (again.status_code, again.json()["duplicate"]) == (200, False)
        assert await counted(client, 'feed_event_log_errors_total{kind="reactions"}') == 1

    asked(config(made, tmp_path), talk)


def test_only_the_admin_changes_the_experiment_and_a_restart_keeps_it(
    made: Path, tmp_path: Path
) -> None:
    """An arm that was taken back must not return because a process was started again."""
    settings = config(
        made, tmp_path, weights=(0.5, 0.5),
        bundles=[str(made / "bundles" / name) for name in ("one", "two")],
    )  # fmt: skip

    async def first(client: Client, admin: Client) -> None:
        arms = [
            (await client.post("/feed", json={"user_id": user})).json()["variant"]
            for user in range(1, 31)
        ]
        assert set(arms) == {0, 1}
        change = {"weights": [1.0, 0.0]}
        assert (await client.put("/experiment", json=change)).status_code == 403
        for refused in ([1.0], [0.9, 0.2], [2.0, -1.0]):
            answer = await admin.put("/experiment", json={"weights": refused})
            assert answer.status_code == 422, refused
        assert (await admin.put("/experiment", json=change | {"shadow": 2})).status_code == 422
        answer = await admin.put("/experiment", json=change)
        assert [arm["weight"] for arm in answer.json()["arms"]] == [1.0, 0.0]
        assert await counted(client, 'feed_arm_weight{arm="treatment"}') == 0

    async def second(client: Client, admin: Client) -> None:
        arms = (await client.get("/experiment")).json()["arms"]
        assert [(arm["name"], arm["weight"]) for arm in arms] == [
            ("control", 1.0), ("treatment", 0.0)
        ]  # fmt: skip
        for user in range(1, 31):
            answer = (await client.post("/feed", json={"user_id": user})).json()
            assert (answer["variant"], answer["arm"]) == (0, "control")

    asked(settings, first)
    asked(settings, second)


def test_units_outside_the_coverage_and_variants_asked_for_expose_nobody(
    made: Path, tmp_path: Path
) -> None:
    """They would be counted as randomised and were not: the sample ratio would be off."""
    settings = config(
        made, tmp_path, weights=(0.5, 0.5), coverage=0.0,
        bundles=[str(made / "bundles" / name) for name in ("one", "two")],
    )  # fmt: skip

    async def talk(client: Client, admin: Client) -> None:
        await client.post("/feed", json={"user_id": 1})
        asked_for = {"user_id": 1, "variant": 1}
        refused = await client.post("/feed", json=asked_for)
        assert refused.status_code == 403
        assert "admin's token" in refused.json()["detail"]
        assert (await admin.post("/feed", json=asked_for)).json()["variant"] == 1
        await admin.put("/experiment", json={"weights": [0.0, 1.0], "coverage": 1.0})
        await client.post("/feed", json={"user_id": 1, "unit_id": "someone"})

    asked(settings, talk)
    rows = FeedTables(tmp_path / "events").read(EXPOSURES).to_pylist()
    assert [(row["in_experiment"], row["variant"], row["unit_id"]) for row in rows] == [
        (False, 0, "1"), (False, 1, "1"), (True, 1, "someone")
    ]  # fmt: skip


def test_a_shadow_is_compared_and_never_served_or_logged(made: Path, tmp_path: Path) -> None:
    """It may be as wrong as it likes: it costs nobody anything but a count."""
    settings = config(
        made, tmp_path, weights=(1.0, 0.0),
        bundles=[str(made / "bundles" / name) for name in ("one", "two")],
    )  # fmt: skip

    async def talk(client: Client, admin: Client) -> None:
        before = (await client.post("/feed", json={"user_id": 3})).json()["items"]
        change = {"weights": [1.0, 0.0], "shadow": 1, "shadow_share": 1.0}
        assert (await admin.put("/experiment", json=change)).status_code == 200
        during = (await client.post("/feed", json={"user_id": 3})).json()["items"]
        assert during == before
        for _ in range(100):
            shadow = (await client.get("/experiment")).json()["shadow"]
            if shadow["same"] + shadow["other"]:
                break
            await asyncio.sleep(0.01)
        assert shadow["arm"] == "treatment"
        assert (shadow["same"] + shadow["other"], shadow["failed"]) == (1, 0)

    asked(settings, talk)
    rows = FeedTables(tmp_path / "events").read(EXPOSURES).to_pylist()
    assert [row["variant"] for row in rows] == [0, 0]


def test_an_arm_that_was_taken_back_raises_no_alarm_any_more(made: Path, tmp_path: Path) -> None:
    """Nobody asks its ranker again, so its breaker stays open; the alert must not."""
    settings = config(
        made, tmp_path, weights=(0.0, 1.0), breaker_failures=1, breaker_cooldown_s=60.0,
        bundles=[str(made / "bundles" / name) for name in ("one", "two")],
    )  # fmt: skip

    class Gone:
        async def score(self, asked: Any) -> Any:
            raise DependencyDown("the ranker is gone")

    async def talk(client: Client, admin: Client) -> list[tuple[str, float]]:
        service = client.service  # type: ignore[attr-defined]
        service.arms[1].pipeline.score.scorer = Gone()
        fed = (await client.post("/feed", json={"user_id": 1})).json()
        assert fed["fallback"] == "score"
        told = []
        for weights in ([0.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
            await admin.put("/experiment", json={"weights": weights})
            scorer = (await client.get("/ready")).json()["scorer"]
            told.append((scorer, await counted(client, "feed_scorer_breaker_open")))
        return told

    assert asked(settings, talk) == [("failing", 1.0), ("ok", 0.0), ("failing", 1.0)]


def test_an_interleaved_arm_gives_up_as_late_as_the_arms_it_drafts_from(
    made: Path, tmp_path: Path
) -> None:
    """With a breaker quicker than theirs it would fall back where neither of them does."""
    settings = config(
        made, tmp_path, weights=(0.5, 0.5), breaker_failures=7,
        bundles=[str(made / "bundles" / name) for name in ("one", "two")],
    )  # fmt: skip

    async def talk(client: Client, admin: Client) -> list[int]:
        assert (await admin.post("/interleaved", json={"variants": [0, 1]})).status_code == 200
        arms = client.service.arms.arms  # type: ignore[attr-defined]
        return [arm.pipeline.score.breaker.failures for arm in arms]

    assert asked(settings, talk) == [7, 7, 7]


def test_a_bundle_is_added_while_the_gateway_runs_if_it_fits_together(
    made: Path, tmp_path: Path
) -> None:
    settings = config(made, tmp_path, bundle_root=str(made / "bundles"))

    async def talk(client: Client, admin: Client) -> None:
        assert (await client.post("/bundles", json={"folder": "two"})).status_code == 403
        mixed = await admin.post("/bundles", json={"folder": "mixed"})
        assert mixed.status_code == 409
        assert "another checkpoint" in mixed.json()["detail"]
        assert await counted(client, 'feed_bundle_mismatch_total{part="index"}') == 1
        unjudged = await admin.post("/bundles", json={"folder": "unjudged"})
        assert unjudged.status_code == 409
        assert "never judged" in unjudged.json()["detail"]
        reranked = await admin.post("/bundles", json={"folder": "reranked"})
        assert reranked.status_code == 409
        assert "fairness_gate.json is of another rerank" in reranked.json()["detail"]
        assert await counted(client, 'feed_bundle_mismatch_total{part="gates"}') == 2
        assert (await admin.post("/bundles", json={"folder": "absent"})).status_code == 409
        for escape in ("../outside", ".", "two/../.."):
            assert (await admin.post("/bundles", json={"folder": escape})).status_code == 403
        for no_path in ("/etc", "a\x00", "x" * 201):
            assert (await admin.post("/bundles", json={"folder": no_path})).status_code == 422
        added = await admin.post("/bundles", json={"folder": "two", "arm": "candidate"})
        assert (added.json()["name"], added.json()["weight"]) == ("candidate", 0.0)
        twice = await admin.post("/bundles", json={"folder": "two", "arm": "candidate"})
        assert twice.status_code == 409
        answer = (await admin.post("/feed", json={"user_id": 3, "variant": 1})).json()
        assert (answer["arm"], answer["version"]) == ("candidate", added.json()["version"])
        assert len((await client.get("/experiment")).json()["arms"]) == 2

    asked(settings, talk)
    off = config(made, tmp_path / "off")
    refused = asked(off, lambda client, admin: admin.post("/bundles", json={"folder": "two"}))
    assert refused.status_code == 403


def test_a_gateway_does_not_start_on_a_bundle_that_does_not_fit_together(
    made: Path, tmp_path: Path
) -> None:
    mixed = config(made, tmp_path, bundles=[str(made / "bundles" / "mixed")])
    with pytest.raises(Mismatch, match="another checkpoint"):
        create_app(mixed, token=TOKEN, admin_token=ADMIN)
    with pytest.raises(InputError, match="FEED_TOKEN"):
        create_app(config(made, tmp_path), token="short", admin_token=ADMIN)


def test_withdrawn_items_are_in_no_feed_from_the_next_request_on(
    made: Path, tmp_path: Path
) -> None:
    async def talk(client: Client, admin: Client) -> None:
        first = (await client.post("/feed", json={"user_id": 3, "k": 3})).json()["items"]
        items = [item["item_id"] for item in first]
        assert (await client.put("/withdrawn", json={"items": items})).status_code == 403
        assert (await admin.put("/withdrawn", json={"items": items})).status_code == 200
        after = (await client.post("/feed", json={"user_id": 3, "k": 3})).json()["items"]
        assert len(after) == 3
        assert not {item["item_id"] for item in after} & set(items)

    asked(config(made, tmp_path), talk)


def test_beyond_the_declared_number_of_requests_the_answer_is_503_at_once(
    made: Path, tmp_path: Path
) -> None:
    """A line that only grows answers everybody too late."""

    async def talk(client: Client, admin: Client) -> None:
        answers = await asyncio.gather(
            *(client.post("/feed", json={"user_id": 3}) for _ in range(6))
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert 1 <= len(refused) <= 4
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert (await client.post("/feed", json={"user_id": 3})).status_code == 200

    asked(config(made, tmp_path, most_in_flight=2), talk)


def test_a_draining_gateway_is_not_ready_and_answers_still(made: Path, tmp_path: Path) -> None:
    """A load balancer needs time to see it; what it sends meanwhile must not be refused."""

    async def talk(client: Client, admin: Client) -> None:
        assert (await client.get("/ready")).json()["ready"]
        client.service.drain()  # type: ignore[attr-defined]
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["draining"]) == (503, True)
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/feed", json={"user_id": 3})).status_code == 200
        assert await counted(client, "feed_ready") == 0

    asked(config(made, tmp_path), talk)


def test_the_openapi_describes_bodies_answers_and_the_token(made: Path, tmp_path: Path) -> None:
    found = asked(config(made, tmp_path), lambda client, admin: client.get("/openapi.json")).json()
    feed = found["paths"]["/feed"]["post"]
    body = feed["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
    assert found["components"]["schemas"][body]["properties"]["k"]["maximum"] == 50
    assert {"200", "400", "401", "413", "415", "422", "503"} <= set(feed["responses"])
    assert found["security"] == [{"token": []}]
    assert found["paths"]["/health"]["get"]["security"] == []


def test_the_access_log_has_the_clients_trace_and_no_secret(made: Path, tmp_path: Path) -> None:
    """One id through all services; a log is read by many, so no token is in it."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    settings = config(
        made, tmp_path, access_log=str(tmp_path / "access.jsonl"), access_sample=1.0
    )  # fmt: skip
    app = create_app(settings, token=TOKEN, admin_token=ADMIN)

    async def main() -> None:
        service = app.service  # type: ignore[attr-defined]
        await service.start()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway"
        ) as client:
            headers = {
                "Authorization": f"Bearer {TOKEN}", "traceparent": f"00-{trace}-b7ad6b7169203331-01"
            }  # fmt: skip
            answer = await client.post("/feed", json={"user_id": 3}, headers=headers)
            assert answer.headers["x-trace-id"] == trace
            await client.post("/feed", json={"user_id": 0}, headers={"traceparent": "nonsense"})
        await service.close()
        app._access.close()  # type: ignore[union-attr]

    asyncio.run(main())
    rows = json_logs.read(tmp_path / "access.jsonl")
    assert rows["trace_id"].tolist()[0] == trace
    assert rows["status"].tolist() == [200, 401]
    assert rows["score_ms"][0] > 0
    assert TOKEN not in (tmp_path / "access.jsonl").read_text()


@pytest.fixture(scope="module")
def process(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A gateway in a process of its own, as it is deployed, scoring for itself."""
    folder = tmp_path_factory.mktemp("process")
    port = free_port()
    settings = config(made, folder, port=port, drain_s=0.3)
    with gateway_process(settings, folder, token=TOKEN, admin_token=ADMIN) as child:
        yield {"url": f"http://127.0.0.1:{port}", "child": child, "folder": folder}


@pytest.mark.slow
def test_sigterm_ends_what_is_under_way_and_writes_the_logs(process: dict[str, Any]) -> None:
    """A deployment replaces gateways all day; none of it may cost a feed or an event."""
    url, child = process["url"], process["child"]
    modules = httpx.get(f"{url}/health").json()
    assert modules["status"] == "ok"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        feed = client.post("/feed", json={"user_id": 3}).json()
        assert client.post("/events", json=reaction(feed)).status_code == 200
        import psutil

        (gateway,) = psutil.Process(child.pid).children()
        os.kill(gateway.pid, signal.SIGTERM)
        statuses = set()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                statuses.add(client.get("/ready").status_code)
                assert client.post("/feed", json={"user_id": 4}).status_code == 200
            except httpx.TransportError:
                break
    assert statuses >= {503}, "it must say that it is not ready before it goes"
    assert child.wait(10) == 0
    tables = FeedTables(process["folder"] / "events")
    assert [row["event_id"] for row in tables.read(REACTIONS).to_pylist()] == ["e1"]
    assert len(tables.files(EXPOSURES)) == 1, "everything was moved to Parquet"


@pytest.mark.slow
def test_the_live_system_scores_with_torchserve_and_outlives_it(made: Path, tmp_path: Path) -> None:
    """Killed, its feeds fall back; started again with another token, it is used again."""
    champion = bundle.load(made / "bundles" / "one")
    archive_rankers([champion], tmp_path / "store")
    with live(
        [champion], tmp_path / "store", made / "users.json", folder=tmp_path / "live",
        deadlines_ms=SLOW, workers=2,
    ) as service:  # fmt: skip
        assert len(service.torchserve.worker_pids()) == 2
        told = GatewayConfig.read(tmp_path / "live" / "gateway.json")
        assert told.posts_under_way == 3, "one a worker, and one that is ready"
        feed = service.feed(3)
        assert feed["fallback"] is None, service.gateway.tail()
        assert feed["items"][0]["heads"]["engage"] > 0
        assert not service.react(reaction(feed))["duplicate"]
        service.torchserve.child.stop()
        fallen = [service.feed(3)["fallback"] for _ in range(12)]
        assert fallen == ["score"] * 12
        assert 'feed_fallbacks_total{reason="open",stage="score"}' in service.metrics()
        service.restart_torchserve()
        until = time.monotonic() + 20
        while service.feed(3)["fallback"] and time.monotonic() < until:
            time.sleep(0.1)
        assert service.feed(3)["fallback"] is None, service.gateway.tail()
        assert 'route="/feed",status="5' not in service.metrics()
    assert not (tmp_path / "live" / "scorer-token").exists()
