"""One experiment through everything: assigned, simulated, logged, analysed, and held to the truth.

The world knows what the treatment does to each person, so the analysis has a right answer: per
session and per unit, among those who came at least once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import require
from labs.lab6_online_eval.analyze import Analysis, analyze
from labs.lab6_online_eval.assignment import assign_many
from labs.lab6_online_eval.experiment import Experiment, Kind
from labs.lab6_online_eval.exposure_log import CLICK, SESSION, write_sessions
from labs.lab6_online_eval.world import Ints, Service, World, simulate


@dataclass(frozen=True)
class Told:
    """What the analysis says of one metric of clicks, and what is true (absolute effects)."""

    name: str
    truth: float
    estimate: float
    interval: tuple[float, float]
    variance_reduction: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.interval[0] <= self.truth <= self.interval[1]


@dataclass(frozen=True)
class AnalysisStudy:
    """The analysis of a simulated experiment, and its metrics of clicks beside the truth."""

    analysis: Analysis
    told: tuple[Told, ...]
    sessions: int


def study_analysis(
    world: World,
    lists: tuple[Ints, Ints],
    experiment: Experiment,
    log: Path,
    *,
    units: int,
    seed: int,
    services: tuple[Service, ...] = (),
    offered: frozenset[str] | None = None,
) -> AnalysisStudy:
    """Run an experiment of two rankers on simulated people, from assignment to decision.

    Parameters
    ----------
    lists
        Int [n_users, k] each: what every user of the world is shown by control and treatment.
    log
        An empty folder, which receives the log.
    units
        How many people of the world are drawn, with replacement.
    services
        One an arm; equal and healthy when left out.
    offered
        Names of methods that passed validation (see `analyze`).
    """
    require(len(experiment.arms) == 2, "arms", len(experiment.arms), "must be 2 in this study")
    rng = np.random.default_rng([seed, 0])
    people = rng.integers(0, world.n_users, units)
    ids = np.char.add("u", np.arange(units).astype("U9"))
    arm = assign_many(ids, experiment.name, experiment.weights, experiment.coverage)
    ids, people, arm = ids[arm >= 0], people[arm >= 0], arm[arm >= 0]
    past = simulate(
        world,
        (lists[0], lists[0]),
        arm,
        people,
        days=experiment.before_days,
        seed=seed + 1,
        start=-float(experiment.before_days),
    )
    run = simulate(
        world, lists, arm, people, days=experiment.days, seed=seed + 2, services=services
    )
    write_sessions(past, experiment, log, unit_ids=ids, batch="before")
    write_sessions(run, experiment, log, unit_ids=ids, batch="run")
    analysis = analyze(experiment, log, offered=offered)
    truth = true_effects(world, lists, experiment)
    told = tuple(
        Told(
            result.metric.name,
            truth[result.metric.name],
            result.effect.estimate,
            result.effect.interval,
            result.comparison.variance_reduction,
        )
        for result in analysis.arms[0].results
        if result.metric.name in truth
    )
    return AnalysisStudy(analysis, told, run.n)


def true_effects(
    world: World, lists: tuple[Ints, Ints], experiment: Experiment
) -> dict[str, float]:
    """The true absolute effect on each metric of clicks: by unit exposed, and by session.

    A unit comes ``Poisson(v d)`` times in d days and is exposed when it comes at all, so

        clicks a unit:     E[v d c] / E[1 - exp(-v d)]
        clicks a session:  E[v c] / E[v]

    over people, with v visits a day and c the difference in expected clicks a session.
    """
    gain = world.expected_clicks(lists[1]) - world.expected_clicks(lists[0])
    visits = world.visits * experiment.days
    total = float((visits * gain).mean())
    found: dict[str, float] = {}
    for metric in experiment.metrics:
        if metric.event != CLICK:
            continue
        if metric.kind is Kind.MEAN:
            found[metric.name] = total / float((1 - np.exp(-visits)).mean())
        elif metric.kind is Kind.RATIO and metric.denominator == SESSION:
            found[metric.name] = total / float(visits.mean())
    return found
