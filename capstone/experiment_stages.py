"""The experiments on the live service: A/B test, interleaving, off-policy, rollouts.

One gateway serves all of it: the champion, its teacher, two that explore, one that is poisoned. The
A/B test comes first, on histories that nobody changes; then simulated people react.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capstone.context import Context
from capstone.experiment_requests import K
from capstone.names import slug
from capstone.rollout import Plan
from capstone.rollout_decision import Limits, Step
from capstone.service_stages import PATIENT_MS
from common.errors import InputError
from common.results import write_json

if TYPE_CHECKING:
    from capstone.bundle import Bundle
    from capstone.experiment import Outcome
    from capstone.experiment_study import Row
    from capstone.live_rollout import LiveRollout
    from capstone.serving import Service
    from labs.lab4_model_serving.rollout import Status
    from labs.lab6_online_eval.experiment import Experiment

ARMS = ("champion", "reference", "explorer", "sharper", "poisoned")
CHAMPION, REFERENCE, EXPLORER, SHARPER, POISONED = range(5)
SLOTS, SHARPNESS = 3, 8.0
"""Exploration slots of the explorer and the sharper arm, and how the latter draws."""
SMOKE_PEOPLE = 250
"""Users of a smoke run's A/B test: each is asked for in both arms, for the truth."""
LIVE = "live.json"
SLOT = "clicks an exploration slot, live"
POISON = Plan(
    name="poison",
    steps=(Step("20 %", 0.2, feeds=100, looks=40), Step("50 %", 0.5, feeds=500, looks=40)),
    limits=Limits(),
    look_every_s=0.5,
)


@dataclass(frozen=True)
class LiveEvidence:
    """What the live service contributes to the reconciliation of the evidence stage.

    Attributes
    ----------
    rows
        One a design, with what it estimates and the truth of that.
    credit_variance
        Of an interleaved session's credit; None when there was none to compare.
    click_variance
        Of clicks a session, summed over both arms of the A/B test.
    """

    rows: tuple[Row, ...]
    credit_variance: float | None
    click_variance: float


def experiment(c: Context) -> None:
    """Live: A/B test against the teacher, interleaving, off-policy, a rollout, a poisoned one."""
    from capstone.experiment import load_experiment
    from capstone.experiment_study import live_rows

    design = load_experiment()
    with c.workspace.stage("experiment", "bundle") as folder:
        with _service(c, design.name, [arm.weight for arm in design.arms]) as service:
            found = _ab_test(c, service, design)
            _explore_and_interleave(c, service)
            preference, credit = _interleaving(c, service)
            slots = _off_policy(c, service)
            _rollouts(c, service)
        clicks = found.reactions.clicks.sum(axis=1)
        content = {
            "rows": [asdict(row) for row in (*live_rows(found), *preference, *slots)],
            "credit_variance": credit,
            "click_variance": float(
                sum(clicks[found.exposed.arm == arm].var(ddof=1) for arm in (0, 1))
            ),
        }
        write_json(folder / LIVE, content)


def read_live(c: Context) -> LiveEvidence | None:
    """What the experiment stage left for the reconciliation; None when it has not run."""
    from capstone.experiment_study import Row

    if not c.workspace.has("experiment"):
        return None
    content = json.loads((c.workspace.need("experiment") / LIVE).read_text(encoding="utf-8"))
    rows = tuple(Row(**row) for row in content.pop("rows"))
    return LiveEvidence(rows, **content)


@contextmanager
def _service(c: Context, name: str, weights: Any) -> Iterator[Service]:
    """All five arms; the experiment's weights for the first two."""
    from capstone.service_faults import poisoned_copy
    from capstone.serving import live

    champion, reference = c.bundle("champion"), c.bundle("reference")
    made = c.run.work / "arms"
    made.mkdir()
    bundles = [
        champion,
        reference,
        _exploring(champion, made / "explorer", 0.0),
        _exploring(champion, made / "sharper", SHARPNESS),
        poisoned_copy(champion, made / "poisoned"),
    ]  # fmt: skip
    # The people come as fast as they are answered: a feed that fell back because of this crowd
    # would say nothing about the arms.
    with live(
        bundles,
        c.workspace.need("bundle") / "store",
        c.workspace.need("bundle") / "users.json",
        folder=c.run.dir / "logs" / "experiment",
        device=c.run.device,
        workers=c.config.workers,
        port=c.config.port,
        experiment=name,
        arms=ARMS,
        weights=(*weights, 0.0, 0.0, 0.0),
        in_process=(EXPLORER, SHARPER, POISONED),
        deadlines_ms=PATIENT_MS,
    ) as service:
        yield service


def _exploring(made: Bundle, folder: Path, sharpness: float) -> Bundle:
    """The same bundle with more exploration, drawn by this sharpness."""
    from capstone import bundle

    rerank = {
        **made.rerank, "exploration_slots": SLOTS, "exploration_sharpness": sharpness
    }  # fmt: skip
    parts = {part: made.folder / file for part, file in bundle.PARTS.items()}
    return bundle.assemble(folder, parts, replace(made.facts, rerank=rerank))


def _ab_test(c: Context, service: Service, design: Experiment) -> Outcome:
    """Champion against its teacher: simulated people ask the live service, lab 6 decides."""
    from capstone import figures_experiment
    from capstone.experiment import run_experiment

    found = run_experiment(
        service, c.world, design,
        users=c.config.experiment_users, seed=c.run.seed, folder=c.run.dir / "experiment-log",
        n_people=SMOKE_PEOPLE if c.smoke else c.feed.n_users,
    )  # fmt: skip
    arm = found.analysis.arms[0]
    n = c.config.experiment_users
    srm = found.analysis.srm
    c.run.metric(
        "experiment.srm_p", srm.p if srm else None, unit="probability", n=n,
        reason="" if srm else "too few units for the check",
    )  # fmt: skip
    for result in arm.results:
        effect = result.effect
        c.run.metric(
            f"experiment.{result.metric.name}", effect.estimate,
            unit="simulated", n=n, ci95=(effect.low, effect.high),
            how="teacher minus champion, simulated people through the live service",
        )  # fmt: skip
    for name, value in found.truth.items():
        c.run.metric(
            f"experiment.truth.{name}", value, unit="simulated a session",
            how="the world's own answer for the same feeds",
        )  # fmt: skip
    c.run.metric("experiment.truth_inside", int(found.holds_truth), unit="flag", n=n)
    for number, name in enumerate(ARMS[:2]):
        c.run.metric(
            f"experiment.fallback_share.{name}", found.fallback_share(number), unit="ratio"
        )
        c.run.metric(f"experiment.score_p99_ms.{name}", found.score_p99_ms(number), unit="ms")
    c.run.note(f"Experiment {design.name}: {found.analysis.decision}.")
    c.run.figure(
        "experiment", figures_experiment.draw_effect(found),
        caption="Simulated effect of the teacher's feed against the champion's, and the truth.",
    )  # fmt: skip
    return found


def _explore_and_interleave(c: Context, service: Service) -> None:
    """People meet the exploring arms and the interleaved one, each once; the log has the rest."""
    from capstone.experiment_log import respond
    from capstone.experiment_requests import ask, exposed_units, reaction_events

    service.interleave((CHAMPION, REFERENCE))
    service.set_experiment([0.0, 0.0, 0.35, 0.35, 0.0, 0.3])
    n, rng = c.config.experiment_users, np.random.default_rng([c.run.seed, 5])
    people = rng.integers(0, c.feed.n_users, n)
    units = np.array([f"explored-{c.run.seed}-{number}" for number in range(n)])
    bodies = [
        {"user_id": int(person) + 1, "k": K, "unit_id": str(unit)}
        for person, unit in zip(people, units, strict=True)
    ]
    answers = ask(service, "/feed", bodies, what="exploring and interleaved feeds")
    exposed = exposed_units(answers, people, units, np.zeros(n))
    found = respond(c.world, people, exposed.lists, exposed.day, rng)
    events = reaction_events(answers, exposed, found)
    ask(service, "/events", events, what="reactions", in_flight=16)


def _interleaving(c: Context, service: Service) -> tuple[tuple[Row, ...], float | None]:
    """The credit of the interleaved feeds, from the event log; and its variance."""
    from capstone.experiment_study import Row
    from capstone.interleaved import logged_preference

    try:
        found = logged_preference(service.log, second=REFERENCE)
    except InputError as error:
        c.run.metric(
            "interleaving.live.preference", None, unit="simulated clicks", reason=str(error)
        )
        return (), None
    c.run.metric(
        "interleaving.live.preference", found.effect, unit="simulated clicks",
        n=found.n_sessions, ci95=found.ci95,
        how="teacher's clicks less champion's in one drafted feed of the live service, event log",
    )  # fmt: skip
    row = Row("interleaving, live service", "credit a session", found.effect, *found.ci95, None)
    return (row,), found.se**2 * found.n_users


def _off_policy(c: Context, service: Service) -> tuple[Row, ...]:
    """The sharper draw judged from the explorer's log, and by serving it."""
    from capstone.experiment_study import Row
    from capstone.off_policy import estimate_slots
    from capstone.served_off_policy import agrees, draw_served, read_slots

    logged = read_slots(service.log, EXPLORER, sharpness=SHARPNESS)
    served, logger = (draw_served(service.log, arm) for arm in (SHARPER, EXPLORER))
    n, truth = len(logged.rows.reward), logged.true_value(c.world)
    how = "clicks of an exploration slot, simulated people, from the live service's event log"
    c.run.metric(
        "off_policy.live.propensity_misfit", logged.misfit, unit="ratio", n=n,
        how="logged propensities against those of the logged pool, largest relative difference",
    )  # fmt: skip
    c.run.metric("off_policy.live.truth", truth, unit="simulated clicks")
    for name, each in (("explorer", logger), ("served", served)):
        c.run.metric(
            f"off_policy.live.{name}", each.value, unit="simulated clicks",
            ci95=(each.low, each.high), how=how,
        )  # fmt: skip
    rows = [Row("sharper draw, served live", SLOT, served.value, served.low, served.high, truth)]
    found = estimate_slots(logged.rows, logged.k, c.world.n_items)
    for each in found:
        rows.append(
            Row(
                f"{each.estimator}, served log", SLOT, each.value, each.low, each.high, truth,
                each.refused or "",
            )
        )  # fmt: skip
        c.run.metric(
            f"off_policy.live.{slug(each.estimator)}", None if each.refused else each.value,
            unit="simulated clicks", n=n, ci95=None if each.refused else (each.low, each.high),
            how=how, reason=each.refused or "",
        )  # fmt: skip
    weighted = [each for each in found[:3] if not each.refused]
    c.run.metric(
        "off_policy.live.agrees",
        int(all(agrees(each, served) for each in weighted)) if weighted else None,
        unit="flag", n=n, reason="" if weighted else found[0].refused or "refused",
        how="IPW, SNIPW and doubly robust against the served draw: differences within their 99 % "
        "intervals",
    )  # fmt: skip
    return tuple(rows)


def _rollouts(c: Context, service: Service) -> None:
    """The student takes its teacher's place; then a poisoned bundle tries to take the student's."""
    from capstone import figures_experiment
    from capstone.live_rollout import roll_out
    from capstone.simulated_people import SimulatedPeople

    plan = _plan(c)
    versions = {arm["variant"]: arm["version"] for arm in service.experiment()["arms"]}
    service.set_experiment([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    began = time.perf_counter()
    with SimulatedPeople(
        service, c.world, name=f"rollout-{c.run.seed}", n_people=c.feed.n_users, seed=c.run.seed
    ) as people:

        def lead(plan: Plan, champion: int, candidate: int) -> LiveRollout:
            return roll_out(
                service.url, service.admin_token, service.log, plan,
                c.run.work / f"{plan.name}.json", champion=champion, candidate=candidate,
                settle_s=0.3,
            )  # fmt: skip

        good = lead(plan, REFERENCE, CHAMPION)
        seconds = time.perf_counter() - began
        people.wait_for(20)  # those that were under way at the switch
        after = people.wait_for(50)
        alias = _alias(c, good.status)
        moved = good.status == "promoted"
        people.rate = c.config.drill_qps
        began = time.perf_counter()
        bad = lead(POISON, CHAMPION if moved else REFERENCE, POISONED)
        back = time.perf_counter() - began
        exposed = people.feeds[versions[POISONED]]
    weight = service.experiment()["arms"][POISONED]["weight"]
    # A candidate that nobody saw, or that time ran out on, is sent back too: that shows nothing.
    rolled_back = bad.harmful and exposed > 0 and weight == 0
    _record_rollout(c, good, seconds)
    champion = versions[CHAMPION]
    c.run.metric(
        "live_rollout.served_share", after[champion] / after.total(), unit="ratio",
        n=after.total(), how="answers that say the candidate's version, after the last switch",
    )  # fmt: skip
    c.run.metric(
        "live_rollout.promoted", int(moved and alias == champion), unit="flag",
        how=f"{good.reason}; champion in a copy of the registry: {alias or 'nobody'}",
    )  # fmt: skip
    c.run.metric(
        "live_rollout.failed", people.failed, unit="count",
        n=people.feeds.total() + people.reactions + people.failed,
        how="; ".join(people.failures[:3]) or "feeds and reactions during both rollouts",
    )  # fmt: skip
    unknown = people.feeds.total() - sum(people.feeds[each] for each in set(versions.values()))
    c.run.metric("live_rollout.unversioned", unknown, unit="count", n=people.feeds.total())
    c.run.metric("drills.rolled_back", int(rolled_back), unit="flag", how=bad.reason)
    c.run.metric("drills.rollback_s", back, unit="s", how=f"{len(bad.trace)} looks")
    c.run.metric(
        "drills.rollback_exposed", exposed, unit="feeds",
        how="of the poisoned arm, answered by the fallback",
    )  # fmt: skip
    c.run.figure(
        "live-rollouts",
        figures_experiment.draw_traces({"student": good.trace, "poisoned": bad.trace}),
        caption="Live rollouts, simulated people: the student for its teacher, a poisoned bundle.",
    )  # fmt: skip


def _plan(c: Context) -> Plan:
    from capstone.experiment import EXPERIMENTS
    from capstone.rollout import read_plan

    plan = read_plan(EXPERIMENTS / "compression.toml")
    if not c.smoke:
        return plan
    c.run.unmeasured("C.promoted", "a smoke run's limits are so wide that seconds show them kept")
    wide = Limits(
        slow_ms=1000.0, slow_rate=0.1, error_rate=0.1, fallback_rate=0.1, hide_margin=30.0,
        success_margin=3.0, alpha=0.45,
    )  # fmt: skip
    steps = tuple(
        replace(step, feeds=feeds) for step, feeds in zip(plan.steps, (10, 5, 110), strict=True)
    )
    return replace(plan, steps=steps, limits=wide, look_every_s=0.3)


def _alias(c: Context, status: Status) -> str | None:
    """What the alias ``champion`` names when the registry has followed the rollout.

    In a copy, where the teacher is champion first: the run's own stays as its gates left it.
    """
    from capstone.bundle_stages import REGISTRY
    from capstone.live_rollout import move_alias
    from capstone.registry import Registry

    kept, copy = c.workspace.folder / REGISTRY, c.run.work / "registry.db"
    if kept.exists():
        shutil.copy2(kept, copy)
    registry = Registry.at(copy)
    champion = c.bundle("champion")
    registry.register(c.bundle("reference"), passed=True, tags={})
    registry.promote()
    registry.register(champion, passed=True, tags={})
    return move_alias(registry, champion.version, status)


def _record_rollout(c: Context, found: LiveRollout, seconds: float) -> None:
    c.run.metric(
        "live_rollout.seconds", seconds, unit="s", how="until the last weight and no longer"
    )
    c.run.metric("live_rollout.steps", len(found.steps), unit="count", n=len(found.trace))
    for step in found.steps:
        name = f"live_rollout.{slug(step.name)}"
        c.run.metric(f"{name}.seconds", step.seconds, unit="s", n=step.looks)
        c.run.metric(f"{name}.candidate_feeds", step.candidate, unit="feeds")
        c.run.metric(f"{name}.champion_feeds", step.champion, unit="feeds")
