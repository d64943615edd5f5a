"""The experiment and the rollout on a real gateway process with two small bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from capstone.experiment import load_experiment, run_experiment
from capstone.experiment_requests import ask, logged_agreement
from capstone.gateway_config import GatewayConfig
from capstone.gateway_traffic import GatewayTraffic
from capstone.rollout import Controller, Plan
from capstone.rollout_decision import Limits, Step
from capstone.serving import gateway_process
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
