"""The A/B test: what is asked of the service, what is logged, and what lab 6 makes of it."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from capstone.experiment import Outcome, load_experiment, run_experiment
from capstone.experiment_log import Exposed, before_sessions, respond, write_log
from capstone.experiment_requests import (
    exposed_units,
    logged_agreement,
    reaction_events,
)
from capstone.world import Responses
from common.errors import InputError, RunError
from labs.lab6_online_eval.assignment import assign
from labs.lab6_online_eval.exposure_log import open_log
from labs.lab6_online_eval.ship_rule import Decision
from tests.capstone.small_world import PEOPLE, small_world, two_arms

EXPERIMENT = load_experiment()
K = 10
USERS = 800


def fake_feed(body: dict[str, Any], lists: np.ndarray, weights: tuple[float, ...]) -> Any:
    """The answer of a gateway that serves these lists [arms, people, K]."""
    unit = body.get("unit_id", str(body["user_id"]))
    variant = body.get("variant")
    if variant is None:
        variant = assign(unit, EXPERIMENT.name, weights) or 0
    items = lists[variant, body["user_id"] - 1].tolist()
    return {
        "request_id": f"r-{unit}",
        "variant": variant,
        "fallback": None,
        "timings_ms": {"score": 3.0 + zlib.crc32(unit.encode()) % 100 / 50, "total": 9.0},
        "items": [
            {"item_id": item, "slot": "ranked", "propensity": 1.0, "position": place}
            for place, item in enumerate(items)
        ],
    }


@dataclass(frozen=True)
class FakeService:
    url: str
    headers: dict[str, str]
    admin_headers: dict[str, str]
    events: list[dict[str, Any]]
    settings: dict[str, Any]


@pytest.fixture(scope="module")
def service() -> Iterator[FakeService]:
    arms = two_arms()
    lists = np.stack([arms.ranked(arms.champion, K), arms.ranked(arms.candidate, K)])
    events: list[dict[str, Any]] = []
    settings = {"lists": lists, "weights": (0.5, 0.5), "fail": "never"}

    async def feed(request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("unit_id", "").endswith(settings["fail"]):
            return web.json_response({"detail": "away"}, status=503)
        return web.json_response(fake_feed(body, lists, settings["weights"]))

    async def react(request: web.Request) -> web.Response:
        events.append(await request.json())
        return web.json_response({"event_id": events[-1]["event_id"], "duplicate": False})

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.add_routes([web.post("/feed", feed), web.post("/events", react)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    loop = asyncio.new_event_loop()
    runner, port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield FakeService(f"http://127.0.0.1:{port}", {}, {}, events, settings)
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(service: FakeService, folder: Path, *, users: int, seed: int, **more: Any) -> Outcome:
    return run_experiment(
        service, small_world(), EXPERIMENT,
        users=users, seed=seed, folder=folder, n_people=PEOPLE, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcome(service: FakeService, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(service, tmp_path_factory.mktemp("experiment"), users=USERS, seed=3)


def test_the_interval_holds_the_true_effect(outcome: Outcome) -> None:
    """The world's effect is known: an analysis that misses it has a fault on its way."""
    found = outcome.success
    assert found is not None, outcome.analysis.failed_checks
    assert outcome.truth["clicks"] > 0, "the candidate is the better ranker by construction"
    assert outcome.holds_truth, (found.effect, outcome.truth)
    assert found.comparison.variance_reduction > 0.05, "the period before explains people"
    assert outcome.analysis.decision in (Decision.SHIP, Decision.STOP)
    assert outcome.analysis.srm is not None
    assert sum(outcome.analysis.srm.observed) == USERS, "every unit was exposed once"


def test_what_is_reported_is_what_people_did(outcome: Outcome) -> None:
    """The metric of the log must be the mean that can be taken from the reactions directly."""
    found = outcome.metric("clicks_per_session")
    assert found is not None
    for arm, mean in enumerate((found.comparison.mean_control, found.comparison.mean_treatment)):
        rows = outcome.exposed.arm == arm
        assert rows.sum() > 0.4 * USERS
        direct = outcome.reactions.clicks[rows].sum(axis=1).mean()
        assert abs(mean - direct) < 0.1, (arm, mean, direct)
    views = outcome.metric("long_views_per_session")
    assert views is not None
    rows = outcome.exposed.arm == 0
    assert np.isclose(
        views.comparison.mean_control, outcome.reactions.long_views[rows].sum(axis=1).mean()
    )
    assert outcome.fallback_share(0) == 0.0
    assert 3.0 <= outcome.score_p99_ms(1) <= 5.0


def test_the_figure_shows_each_effect_beside_its_truth(outcome: Outcome) -> None:
    """The one picture of the live test: an estimate without its truth would prove nothing here."""
    from capstone.figures_experiment import TRUTHS, draw_effect

    (axes,) = draw_effect(outcome).axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == len(TRUTHS), shown
    diamonds = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert len(diamonds) == len(TRUTHS)


def test_the_lists_are_those_of_both_arms(outcome: Outcome, service: FakeService) -> None:
    """The truth is computed from these: both arms of everybody, asked for outside the test."""
    assert (outcome.lists == service.settings["lists"]).all()


def test_reactions_are_posted_once_each(service: FakeService, tmp_path: Path) -> None:
    """An event id is the client's promise that sending it again changes nothing."""
    found = run(service, tmp_path, users=100, seed=4, react=True, lists=service.settings["lists"])
    ids = [event["event_id"] for event in service.events]
    assert len(set(ids)) == len(ids) == found.posted > 0
    some = found.reactions.clicks | found.reactions.hides
    assert found.posted == int(some.sum())
    assert {event["reaction"] for event in service.events} <= {"click", "like", "share", "hide"}


def test_a_request_that_fails_ends_the_experiment(service: FakeService, tmp_path: Path) -> None:
    """A unit without a feed would be missing in one arm: an error now, or a bias later."""
    service.settings["fail"] = "-77"
    with pytest.raises(RunError, match="503"):
        run(service, tmp_path, users=100, seed=5, lists=service.settings["lists"])
    service.settings["fail"] = "never"


def exposed(n: int = 400, *, arm: np.ndarray | None = None) -> Exposed:
    rng = np.random.default_rng(2)
    people = rng.integers(0, PEOPLE, n)
    arms = two_arms()
    return Exposed(
        unit_ids=np.array([f"u{number}" for number in range(n)]),
        person=people,
        arm=rng.integers(0, 2, n) if arm is None else arm,
        day=EXPERIMENT.days * rng.random(n),
        lists=arms.ranked(arms.champion, K)[people],
        propensity=np.ones((n, K)),
        explored=np.zeros((n, K), dtype=bool),
        latency_ms=rng.uniform(5, 15, n),
        score_ms=rng.uniform(1, 5, n),
        fallback=rng.random(n) < 0.05,
    )


def test_arms_of_other_sizes_than_their_weights_are_refused(tmp_path: Path) -> None:
    """A sample ratio mismatch is the sign that units are missing: there must be no p-value."""
    from labs.lab6_online_eval.analyze import analyze

    shown = exposed(arm=(np.arange(400) % 5 == 0).astype(int))
    rng = np.random.default_rng(0)
    found = respond(small_world(), shown.person, shown.lists, shown.day, rng)
    arms = two_arms()
    before = before_sessions(small_world(), shown, arms.ranked(arms.champion, K), 14, rng)
    write_log(shown, found, before, EXPERIMENT, tmp_path)
    analysis = analyze(EXPERIMENT, tmp_path)
    assert analysis.decision is Decision.REFUSE
    assert not analysis.arms[0].results
    assert "sample ratio" in analysis.failed_checks[0]


def test_the_log_has_every_reaction_under_its_name(tmp_path: Path) -> None:
    """A metric counts what the log calls by its event's name, and nothing else."""
    shown = exposed()
    rng = np.random.default_rng(0)
    found = respond(small_world(), shown.person, shown.lists, shown.day, rng)
    arms = two_arms()
    before = before_sessions(small_world(), shown, arms.ranked(arms.champion, K), 14, rng)
    write_log(shown, found, before, EXPERIMENT, tmp_path)
    with open_log(tmp_path) as log:
        counted = dict(log.execute("SELECT name, sum(value) FROM events GROUP BY name").fetchall())
        (units,) = log.execute("SELECT count(DISTINCT unit_id) FROM exposures").fetchone() or (0,)
    assert units == shown.n
    assert counted["click"] == found.clicks.sum() + before.clicks.sum()
    assert counted["long_view"] == found.long_views.sum()
    assert counted["hide"] == found.hides.sum() + before.hides.sum()
    assert counted["share"] == found.shares.sum()
    assert counted["session"] == shown.n + before.n
    assert np.isclose(counted["score_ms"], shown.score_ms.sum())
    assert counted["error"] == shown.fallback.sum()
    late = replace(shown, day=shown.day + EXPERIMENT.days)
    with pytest.raises(InputError, match="latest day"):
        write_log(late, found, before, EXPERIMENT, tmp_path)


def test_everybody_reacts_on_their_own_day() -> None:
    """Drift is part of the world: a session of day 9 must be drawn from the world of day 9."""
    shown, world = exposed(), small_world()

    def clicks(day: float) -> np.ndarray:
        rng = np.random.default_rng(1)
        return respond(world, shown.person, shown.lists, np.full(shown.n, day), rng).clicks

    for day, meant in ((9.5, 9), (-3.0, 0)):
        plain = world.respond(shown.person, shown.lists, meant, np.random.default_rng(1))
        assert (clicks(day) == plain.clicks).all(), day


def test_a_short_feed_is_padded_and_nobody_reacts_to_padding() -> None:
    """A fallback feed may be short; a reaction to item 0 would be refused by the service."""
    answer = {
        "request_id": "r", "variant": 1, "fallback": "score", "timings_ms": {"total": 40.0},
        "items": [{"item_id": 5, "slot": "fallback", "propensity": 1.0}],
    }  # fmt: skip
    found = exposed_units([answer], np.array([3]), np.array(["u"]), np.array([0.5]))
    assert found.lists.tolist() == [[5] + [0] * 9]
    assert found.fallback.tolist() == [True]
    assert found.score_ms.tolist() == [40.0], "without a score stage the whole request is meant"
    every = np.ones((1, K), dtype=bool)
    events = reaction_events([answer], found, Responses(every, every, ~every, ~every))
    assert [event["item_id"] for event in events] == [5]
    assert events[0]["reaction"] == "like", "the strongest reaction to an item is the one sent"


def test_the_gateways_log_is_held_against_its_answers(tmp_path: Path) -> None:
    """The analysis of a real experiment has the log only: it must say what people were shown."""
    from tests.capstone.test_gateway_traffic import exposure, write

    shown = exposed(4, arm=np.array([0, 1, 1, 0]))
    names = ("champion", "reference")
    rows = [
        exposure(number, int(arm), unit_id=f"u{number}", arm=names[arm], experiment="teacher")
        for number, arm in enumerate(shown.arm)
    ]
    write(tmp_path / "right", "exposures", rows)
    assert logged_agreement(shown, names, tmp_path / "right") == 1.0
    rows[1] |= {"arm": "champion"}
    write(tmp_path / "wrong", "exposures", rows[:3])
    assert logged_agreement(shown, names, tmp_path / "wrong") == 0.5, "one wrong, one missing"


def test_the_file_names_a_guardrail_for_hides_and_one_for_latency() -> None:
    """An experiment without guardrails ships whatever earns clicks."""
    guarded = {m.event for m in EXPERIMENT.metrics if m.margin is not None}
    assert guarded == {"hide", "score_ms"}
    assert [arm.name for arm in EXPERIMENT.arms] == ["champion", "reference"]
