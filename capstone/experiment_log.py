"""Simulated people react to what the service showed, and the log that lab 6 analyses is written.

People, days and reactions are simulated (`capstone.world`); what was shown, by which arm, and how
long it took are the service's own. A unit's life is laid out over the experiment's days, though the
service was asked within minutes: drift and the period before the experiment need a calendar.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capstone.world import Responses, World
from common.errors import require
from labs.lab6_online_eval.event_log import EVENTS, event_schema
from labs.lab6_online_eval.experiment import Experiment
from labs.lab6_online_eval.exposure_log import LogWriter, write_sessions
from labs.lab6_online_eval.world import Sessions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
BEFORE = 5
"""Simulated sessions of each unit before the experiment."""


@dataclass(frozen=True)
class Exposed:
    """What the service showed to n units, one request each.

    Attributes
    ----------
    unit_ids
        Text [n].
    person
        Int [n], from 0: whose taste the unit has.
    arm
        Int [n].
    day
        Float [n]: simulated days since the start of the experiment.
    lists
        Int [n, k]; 0 where the feed was shorter.
    propensity
        Float [n, k]: P(this item at this place | request), as logged.
    explored
        Bool [n, k]: places that were drawn at random.
    latency_ms, score_ms
        Float [n]: of the whole request and of its score stage.
    fallback
        Bool [n]: whether the fallback feed was shown.
    """

    unit_ids: NDArray[np.str_]
    person: Ints
    arm: Ints
    day: Floats
    lists: Ints
    propensity: Floats
    explored: Bools
    latency_ms: Floats
    score_ms: Floats
    fallback: Bools

    @property
    def n(self) -> int:
        return len(self.person)


def respond(
    world: World, people: Ints, lists: Ints, day: Floats, rng: np.random.Generator
) -> Responses:
    """Simulated reactions of one session each, every one on its day; bool [n, k] by position.

    Days before 0 are as day 0.
    """
    dates = np.maximum(np.floor(day), 0).astype(np.int64)
    parts = {name: np.zeros(lists.shape, dtype=bool) for name in Responses.__annotations__}
    for date in np.unique(dates):
        rows = dates == date
        found = world.respond(people[rows], lists[rows], int(date), rng)
        for name, part in parts.items():
            part[rows] = getattr(found, name)
    return Responses(**parts)


def before_sessions(
    world: World, exposed: Exposed, champion: Ints, days: float, rng: np.random.Generator
) -> Sessions:
    """`BEFORE` simulated sessions of each unit in the ``days`` before, with the champion's feed.

    Parameters
    ----------
    champion
        Int [n_people, k]: the feed that everybody had before.
    """
    unit = np.repeat(np.arange(exposed.n), BEFORE)
    people = exposed.person[unit]
    day = -days * rng.random(len(unit))
    found = respond(world, people, champion[people], day, rng)
    nothing = np.zeros(len(unit))
    return Sessions(
        unit=unit,
        person=people,
        arm=exposed.arm[unit],
        day=day,
        clicks=found.clicks.sum(axis=1),
        hides=found.hides.sum(axis=1),
        latency_ms=nothing,
        error=nothing.astype(bool),
    )


def during_sessions(exposed: Exposed, found: Responses) -> Sessions:
    """The sessions of the experiment itself; ``error`` is a fallback feed."""
    return Sessions(
        unit=np.arange(exposed.n),
        person=exposed.person,
        arm=exposed.arm,
        day=exposed.day,
        clicks=found.clicks.sum(axis=1),
        hides=found.hides.sum(axis=1),
        latency_ms=exposed.latency_ms,
        error=exposed.fallback,
    )


def joined(first: Sessions, second: Sessions) -> Sessions:
    """Both, the first before the second."""
    return Sessions(
        **{
            name: np.concatenate([getattr(first, name), getattr(second, name)])
            for name in Sessions.__annotations__
        }
    )


def write_log(
    exposed: Exposed,
    found: Responses,
    before: Sessions,
    experiment: Experiment,
    folder: Path,
) -> None:
    """Write exposures and events as Parquet, in lab 6's schemas.

    Events are ``session``, ``click``, ``hide``, ``latency_ms``, ``error`` (a fallback feed), as
    lab 6 writes them, and ``long_view``, ``share`` and ``score_ms``.

    Raises
    ------
    InputError
        A day outside the experiment, which its analysis would leave out.
    """
    import pyarrow as pa

    latest = float(exposed.day.max())
    require(latest < experiment.days, "latest day", latest, f"must be below {experiment.days}")
    sessions = joined(before, during_sessions(exposed, found))
    write_sessions(sessions, experiment, folder, unit_ids=exposed.unit_ids, batch="capstone")
    start = int(experiment.start.timestamp() * 1_000_000)
    at = start + (exposed.day * 86_400_000_000).astype(np.int64)
    with LogWriter(folder, EVENTS) as log:
        for name, value in (
            ("long_view", found.long_views.sum(axis=1).astype(float)),
            ("share", found.shares.sum(axis=1).astype(float)),
            ("score_ms", exposed.score_ms),
        ):
            rows = value != 0
            ids = np.char.add(f"{name}-", exposed.unit_ids[rows])
            columns = {
                "event_id": pa.array(ids),
                "unit_id": pa.array(exposed.unit_ids[rows]),
                "name": pa.repeat(name, int(rows.sum())),
                "value": pa.array(value[rows]),
                "at": pa.array(at[rows]).cast(pa.timestamp("us", tz="UTC")),
            }
            log.add(pa.table(columns).cast(event_schema()))
