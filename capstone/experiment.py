"""An A/B test of two bundles through the live service, on simulated people.

    everybody asks the gateway -> it assigns, serves and logs -> people react in the simulated world
    -> Parquet -> lab 6: checks, sample ratio, CUPED, test, guardrails, decision -> beside the truth

Assignment, feeds, latencies and fallbacks are the service's; people and reactions are simulated
(`capstone.world`), so the true effect is known, and the interval can be seen to hold it or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from capstone.experiment_log import (
    Exposed,
    Ints,
    before_sessions,
    respond,
    write_log,
)
from capstone.experiment_requests import (
    K,
    Service,
    ask,
    exposed_units,
    reaction_events,
    served_lists,
)
from capstone.world import Responses, World
from common.errors import require
from labs.lab6_online_eval.analyze import Analysis, MetricResult, analyze
from labs.lab6_online_eval.experiment import Experiment, read_experiment

EXPERIMENTS = Path(__file__).parent / "experiments"
SUCCESS = "clicks_per_session"


@dataclass(frozen=True)
class Outcome:
    """What an experiment found, and what is true in the simulated world.

    Attributes
    ----------
    analysis
        Lab 6's, from the log.
    truth
        True effect of the treatment's feeds on ``clicks``, ``long_views``, ``hides``, ``shares``
        and ``utility`` a session, the mean over users and over the experiment's days.
    exposed, reactions
        What was shown, and what people did with it.
    lists
        Int [arms, n_users, K]: the feed of every user in every arm.
    log
        Folder of the log.
    posted
        Reactions that the service acknowledged.
    """

    analysis: Analysis
    truth: dict[str, float]
    exposed: Exposed
    reactions: Responses
    lists: Ints
    log: Path
    posted: int

    @property
    def success(self) -> MetricResult | None:
        """The success metric; None when the analysis was refused."""
        return self.metric(SUCCESS)

    def metric(self, name: str) -> MetricResult | None:
        """One metric's result; None when it was refused."""
        results = self.analysis.arms[0].results
        return next((each for each in results if each.metric.name == name), None)

    @property
    def holds_truth(self) -> bool:
        """Whether the interval of the success metric holds the true effect."""
        found = self.success
        return found is not None and found.effect.low <= self.truth["clicks"] <= found.effect.high

    def fallback_share(self, arm: int) -> float:
        """Share of an arm's feeds that were the fallback feed."""
        return float(self.exposed.fallback[self.exposed.arm == arm].mean())

    def score_p99_ms(self, arm: int) -> float:
        """99th percentile of an arm's score stage."""
        return float(np.quantile(self.exposed.score_ms[self.exposed.arm == arm], 0.99))


def load_experiment(name: str = "teacher") -> Experiment:
    """One of the files in ``capstone/experiments``."""
    return read_experiment(EXPERIMENTS / f"{name}.toml")


def run_experiment(
    service: Service,
    world: World,
    experiment: Experiment,
    *,
    users: int,
    seed: int,
    folder: Path,
    n_people: int = 943,
    in_flight: int = 8,
    react: bool = False,
    lists: Ints | None = None,
) -> Outcome:
    """Send ``users`` simulated units through the service once each and analyse what they did.

    Each unit has an id of its own and the taste and history of a user drawn with replacement. The
    service assigns the arm from the id by lab 6's hash; the gateway's experiment must have the
    name and the weights of ``experiment``, or its sample ratio will not fit.

    Parameters
    ----------
    folder
        Receives the log; must not have one.
    n_people
        Users 1 to this number.
    in_flight
        Requests at a time.
    react
        Whether reactions are posted to ``/events``. Then they change the users' histories, which
        units of both arms share: the arms are no longer independent, and the truth is only near.
    lists
        Int [arms, n_people, K], to spare asking for every user's feed in every arm.

    Raises
    ------
    RunError
        When a request fails: a missing unit would bias the comparison.
    """
    require(users >= 100, "users", users, "must be at least 100", "try 3000")
    rng = np.random.default_rng(seed)
    arms = len(experiment.arms)
    if lists is None:
        lists = served_lists(service, n_people, arms, in_flight=in_flight)
    people = rng.integers(0, n_people, users)
    unit_ids = np.array([f"simulated-{seed}-{number}" for number in range(users)])
    bodies = [
        {"user_id": int(person) + 1, "k": K, "unit_id": str(unit)}
        for person, unit in zip(people, unit_ids, strict=True)
    ]
    answers = ask(service, "/feed", bodies, what="simulated users", in_flight=in_flight)
    exposed = exposed_units(answers, people, unit_ids, experiment.days * rng.random(users))
    reactions = respond(world, people, exposed.lists, exposed.day, rng)
    posted = 0
    if react:
        events = reaction_events(answers, exposed, reactions)
        posted = len(ask(service, "/events", events, what="reactions", in_flight=in_flight))
    before = before_sessions(world, exposed, lists[0], experiment.before_days, rng)
    write_log(exposed, reactions, before, experiment, folder)
    return Outcome(
        analysis=analyze(experiment, folder),
        truth=true_effect(world, lists[0], lists[1], experiment.days),
        exposed=exposed,
        reactions=reactions,
        lists=lists,
        log=folder,
        posted=posted,
    )


def true_effect(world: World, control: Ints, treatment: Ints, days: int) -> dict[str, float]:
    """The world's effect of the lists on each mean count a session, over users and days."""
    found = [world.true_effect(control, treatment, day=day) for day in range(days)]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}
