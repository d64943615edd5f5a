"""The experiment and the rollout on a real gateway process with two small bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from capstone.event_tables import EXPOSURES, FeedTables
from capstone.experiment import load_experiment, run_experiment
from capstone.experiment_requests import ask, logged_agreement
from capstone.gateway_config import GatewayConfig
from capstone.gateway_traffic import GatewayTraffic
from capstone.interleaved import logged_preference
from capstone.live_rollout import main
from capstone.off_policy import estimate_slots
from capstone.rollout import Controller, Plan
from capstone.rollout_decision import Limits, Step
from capstone.served_off_policy import agrees, draw_served, read_slots
from capstone.serving import gateway_process
from capstone.simulated_people import SimulatedPeople
from common.errors import InputError
from common.ports import free_port
from tests.capstone import tiny_bundle
from tests.capstone.small_world import small_world

pytestmark = pytest.mark.slow
ARMS = ("champion", "reference")
TOKEN, ADMIN = "client-token-of-the-test", "admin-token-of-the-test-x"
PLAN = Plan(
    "live",
    (Step("shadow", 0.0, feeds=8, looks=20), Step("50 %", 0.5, feeds=110, looks=5)),
    Limits(slow_ms=1000.0),
    look_every_s=0.01,
)


@dataclass(frozen=True)
class Live:
    url: str
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    bundles = [
        tiny_bundle.build(folder / name, seed=seed, checkpoint=name)
        for seed, name in enumerate(ARMS)
    ]
    config = GatewayConfig(
        bundles=[str(made.folder) for made in bundles],
        users=str(tiny_bundle.write_users(folder / "users.json")),
        log=str(folder / "events"),
        port=free_port(),
        experiment=load_experiment().name,
        arms=ARMS,
        weights=(0.5, 0.5),
        deadlines_ms={
            "hydrate": 500, "source": 500, "filter": 500, "score": 500, "select": 500
        },
    )  # fmt: skip
    with gateway_process(config, folder, token=TOKEN, admin_token=ADMIN):
        yield Live(f"http://127.0.0.1:{config.port}", Path(config.log))


def test_the_gateway_assigns_logs_and_is_analysed(service: Live, tmp_path: Path) -> None:
    """The whole way of the A/B test: assignment, feeds and the log are the service's."""
    found = run_experiment(
        service, small_world(), load_experiment(), users=200, seed=1, folder=tmp_path,
        n_people=tiny_bundle.N_USERS, react=True,
    )  # fmt: skip
    assert found.success is not None, found.analysis.failed_checks
    assert found.posted > 0
    assert found.exposed.explored.any(), "each bundle explores one slot"
    assert (found.exposed.propensity[found.exposed.explored] < 1).all()
    assert logged_agreement(found.exposed, ARMS, service.log) == 1.0


def people_ask(service: Live, number: int, *, react: bool) -> None:
    """60 units ask; with ``react`` the champion is clicked and the candidate hidden."""
    bodies = [
        {"user_id": 1 + unit % tiny_bundle.N_USERS, "k": 10, "unit_id": f"live-{number}-{unit}"}
        for unit in range(60)
    ]
    answers = ask(service, "/feed", bodies, what="people")
    if not react:
        return
    events = [
        {
            "event_id": f"{body['unit_id']}-e", "request_id": answer["request_id"],
            "user_id": body["user_id"], "item_id": answer["items"][0]["item_id"],
            "reaction": "hide" if answer["variant"] == 1 else "click",
        }
        for body, answer in zip(bodies, answers, strict=True)
        if answer["items"]
    ]  # fmt: skip
    ask(service, "/events", events, what="reactions")


@pytest.mark.parametrize(("react", "why"), [(False, "given up"), (True, "hides")])
def test_a_candidate_that_people_hide_loses_its_users(
    service: Live, tmp_path: Path, react: bool, why: str
) -> None:
    """From shadow to weight 0 on a live gateway; one of which nothing is known is sent back too."""
    plan = replace(PLAN, name=f"live-{react}")
    traffic = GatewayTraffic(service.url, ADMIN, service.log, slow_ms=1000.0, settle_s=-1.0)
    controller = Controller(plan, traffic, tmp_path / "rollout.json")
    seen = {controller.state}
    for number in range(60):
        if controller.tick() != "running":
            break
        people_ask(service, 1000 * react + number, react=react)
        seen.add(controller.state)
    traffic.close()
    experiment = httpx.get(f"{service.url}/experiment", headers=service.headers).json()
    assert seen >= {"shadow", "50 %"}, (seen, controller.trace[-1:])
    assert controller.status == "rolled_back", controller.trace[-1]
    assert why in controller.reason, controller.reason
    assert [arm["weight"] for arm in experiment["arms"]] == [1.0, 0.0]
    assert experiment["shadow"] is None


def test_a_candidate_is_led_to_everybody_by_the_command(
    service: Live,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What an operator types; every answer names its version, and no switch fails a request."""
    weights = {"weights": [1.0, 0.0]}
    httpx.put(f"{service.url}/experiment", json=weights, headers=service.admin_headers)
    monkeypatch.setenv("FEED_ADMIN_TOKEN", ADMIN)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'name = "promotion"\nlook_every_s = 0.1\n[limits]\nslow_ms = 5000.0\nslow_rate = 0.4\n'
        "error_rate = 0.4\nfallback_rate = 0.4\nhide_margin = 200.0\nsuccess_margin = 50.0\n"
        '[[steps]]\nname = "shadow"\nweight = 0.0\nfeeds = 3\nlooks = 200\n'
        '[[steps]]\nname = "50 %"\nweight = 0.5\nfeeds = 100\nlooks = 300\n'
    )
    arguments = ["--candidate", "reference", "--log", str(service.log), "--url", service.url,
                 "--plan", str(plan)]  # fmt: skip
    versions = [
        arm["version"]
        for arm in httpx.get(f"{service.url}/experiment", headers=service.headers).json()["arms"]
    ]
    with SimulatedPeople(
        service, small_world(), name="led", n_people=tiny_bundle.N_USERS, seed=3
    ) as people:
        status = main(arguments)
        people.wait_for(20)  # those that were under way at the switch
        after = people.wait_for(20)
    said = capsys.readouterr()
    assert status == 0, said
    assert "promoted: all guardrails safe" in said.out
    assert people.failures == []
    assert set(people.feeds) == set(versions), "both versions were met, and nothing else"
    assert set(after) == {versions[1]}, (after, versions)
    assert main(arguments) == 0, "typed again, it has nothing left to do"
    assert main([*arguments, "--registry", str(tmp_path / "none.db")]) == 2
    assert main(["--candidate", "reference", "--log", str(tmp_path / "none")]) == 2


def test_an_interleaved_arm_serves_a_draft_and_the_log_has_its_credit(service: Live) -> None:
    """Each item remembers who picked it, so clicks that all go to one arm prefer that arm."""

    def post(token: dict[str, str], *variants: int) -> int:
        body = {"variants": variants}
        return httpx.post(f"{service.url}/interleaved", json=body, headers=token).status_code

    admin = service.admin_headers
    assert post(service.headers, 0, 1) == 403
    assert (post(admin, 0, 0), post(admin, 0, 9)) == (409, 422)
    assert post(admin, 0, 1) == 200
    assert post(admin, 0, 2) == 409, "an interleaved arm is not interleaved again"
    httpx.put(f"{service.url}/experiment", json={"weights": [0, 0, 1]}, headers=admin)
    bodies = [
        # New users: the others have watched most of the sixty films by now.
        {"user_id": 500 + unit, "k": 10, "unit_id": f"drafted-{unit}"}
        for unit in range(60)
    ]
    answers = ask(service, "/feed", bodies, what="people")
    for answer in answers:
        teams = [item["team"] for item in answer["items"]]
        assert answer["version"].count("+") == 1
        assert len(teams) == 10
        assert all(sorted(teams[at : at + 2]) == [0, 1] for at in range(0, 10, 2)), teams
        assert {item["propensity"] for item in answer["items"]} == {None}
        assert "exploration" not in {item["slot"] for item in answer["items"]}
    events = [
        {
            "event_id": f"{body['unit_id']}-{item['position']}",
            "request_id": answer["request_id"], "user_id": body["user_id"],
            "item_id": item["item_id"], "reaction": "click",
        }
        for unit, (body, answer) in enumerate(zip(bodies, answers, strict=True))
        for item in answer["items"][: 2 + unit % 5]
        if item["team"] == 1
    ]  # fmt: skip
    ask(service, "/events", events, what="clicks")
    found = logged_preference(service.log, second=1)
    assert found.n_sessions == 60
    assert found.effect == pytest.approx(len(events) / 60), "every click was for variant 1"
    assert logged_preference(service.log, second=0).effect == pytest.approx(-found.effect)


def test_the_log_alone_says_what_another_draw_would_have_done(service: Live) -> None:
    """Pool, values and propensities fit together, and the estimators take them as they are."""
    found = read_slots(service.log, 0, sharpness=4.0)
    rows = found.rows
    assert found.misfit < 1e-6, "the logged propensity is that of the logged pool"
    assert found.slots == 1
    assert np.allclose(rows.logged, 1 / rows.pool.shape[1]), "one slot, drawn uniformly"
    assert np.allclose(rows.target.sum(axis=1), 1)
    assert (rows.item == rows.pool[np.arange(len(rows.item)), rows.action]).all()
    weights = rows.chosen / rows.logged
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(len(weights)), weights.mean()
    same = read_slots(service.log, 0, sharpness=0.0)
    served = draw_served(service.log, 0)
    assert np.allclose(same.rows.chosen, same.rows.logged), "the logger against itself"
    assert same.rows.reward.mean() == pytest.approx(served.value), "and that is what was served"
    for each in estimate_slots(rows, found.k, tiny_bundle.N_ITEMS)[:3]:
        assert agrees(replace(each, value=served.value), served)
        assert not agrees(replace(each, value=served.value + 5.0, se=0.1), served)
    with pytest.raises(InputError, match="no feed with an exploration slot"):
        read_slots(service.log, 2, sharpness=4.0)


def test_files_of_before_the_pool_was_logged_are_read(service: Live, tmp_path: Path) -> None:
    """A log that is kept over an update has both kinds of files."""
    tables = FeedTables(service.log)
    rows = tables.read(EXPOSURES).slice(0, 3)
    old = rows.drop_columns(["pool", "pool_values", "sharpness", "teams"])
    folder = tmp_path / EXPOSURES
    folder.mkdir()
    pq.write_table(old, folder / f"{1:020d}-{3:020d}.parquet")
    found = FeedTables(tmp_path).read(EXPOSURES)
    assert found.schema.names == rows.schema.names
    assert found["pool"].null_count == 3
