"""Plant the faults of real logs, one at a time, to see that each of them is found.

Each fault is a pure function of the two tables, a share of the rows or units, and a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES
from labs.lab6_online_eval.experiment import Experiment
from labs.lab6_online_eval.exposure_log import LogWriter, open_log, schema_of
from labs.lab6_online_eval.log_checks import Action, LogReport, check_log

if TYPE_CHECKING:
    import pyarrow as pa

Mask = NDArray[np.bool_]
DAY = np.timedelta64(86_400_000_000, "us")


@dataclass(frozen=True)
class Log:
    """Both tables of a log, in memory."""

    exposures: pa.Table
    events: pa.Table


Fault = Callable[[Log, float, np.random.Generator], Log]


def read_log(folder: Path) -> Log:
    """Both tables of the log in ``folder``."""
    with open_log(folder) as connection:
        tables = {
            name: connection.table(name).to_arrow_table().cast(schema_of(name))
            for name in (EXPOSURES, EVENTS)
        }
    return Log(tables[EXPOSURES], tables[EVENTS])


def write_log(log: Log, folder: Path) -> None:
    """Write both tables as one file each."""
    for name, rows in ((EXPOSURES, log.exposures), (EVENTS, log.events)):
        with LogWriter(folder, name) as writer:
            writer.add(rows)


def _some(n: int, share: float, rng: np.random.Generator) -> Mask:
    return np.asarray(rng.random(n) < share)


def _column(table: pa.Table, name: str) -> NDArray[np.object_]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False))


def _with(table: pa.Table, name: str, values: object) -> pa.Table:
    import pyarrow as pa

    place = table.schema.get_field_index(name)
    column = pa.array(values).cast(table.schema.field(name).type)
    return table.set_column(place, table.schema.field(name), column)


def _arm_of(log: Log, number: int) -> Mask:
    """Which exposures are to the arm of that place in the alphabet: bool [n]."""
    arms = _column(log.exposures, "arm")
    return np.asarray(arms == sorted(set(arms))[number])


def _units_of(log: Log, chosen: Mask) -> set[str]:
    return set(_column(log.exposures, "unit_id")[chosen])


def _events_of(log: Log, units: set[str]) -> Mask:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(log.events.column("unit_id"), value_set=pa.array(sorted(units)))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _in_run(log: Log) -> Mask:
    """Which events are not before the first exposure of anybody: bool [n]."""
    times = _column(log.events, "at")
    return np.asarray(times >= _column(log.exposures, "at").min())


def unit_in_two_arms(log: Log, share: float, rng: np.random.Generator) -> Log:
    """Some exposures are logged with another arm: a cache, or a second device."""
    arms = _column(log.exposures, "arm").copy()
    names = sorted(set(arms))
    arms[_some(len(arms), share, rng) & (arms == names[0])] = names[-1]
    return Log(_with(log.exposures, "arm", arms), log.events)


def unknown_arm(log: Log, share: float, rng: np.random.Generator) -> Log:
    """The code has an arm that the file does not."""
    arms = _column(log.exposures, "arm").copy()
    arms[_some(len(arms), share, rng)] = "forgotten"
    return Log(_with(log.exposures, "arm", arms), log.events)


def unknown_experiment(log: Log, share: float, rng: np.random.Generator) -> Log:
    """Exposures of an experiment that nobody has named."""
    names = _column(log.exposures, "experiment").copy()
    names[_some(len(names), share, rng)] = "stranger"
    return Log(_with(log.exposures, "experiment", names), log.events)


def empty_arm(log: Log, share: float, rng: np.random.Generator) -> Log:
    """No exposure to the first arm reaches the log."""
    import pyarrow as pa

    return Log(log.exposures.filter(pa.array(~_arm_of(log, 0))), log.events)


def exposures_lost_in_one_arm(log: Log, share: float, rng: np.random.Generator) -> Log:
    """Units of one arm whose exposures are lost: a sample ratio mismatch."""
    import pyarrow as pa

    units = np.array(sorted(_units_of(log, _arm_of(log, 0))))
    lost = set(units[_some(len(units), share, rng)])
    gone = np.isin(_column(log.exposures, "unit_id").astype(str), sorted(lost))
    return Log(log.exposures.filter(pa.array(~gone)), log.events)


def repeated_events(log: Log, share: float, rng: np.random.Generator) -> Log:
    """A client sends some events again, as it had no answer."""
    import pyarrow as pa

    again = log.events.filter(pa.array(_some(log.events.num_rows, share, rng)))
    return Log(log.exposures, pa.concat_tables([log.events, again]))


def future_events(log: Log, share: float, rng: np.random.Generator) -> Log:
    """Clocks that are a year ahead."""
    times = _column(log.events, "at").copy()
    times[_some(len(times), share, rng)] += 365 * DAY
    return Log(log.exposures, _with(log.events, "at", times))


def early_events(log: Log, share: float, rng: np.random.Generator) -> Log:
    """The exposure of some units of one arm is logged too late, after their first events."""
    units = np.array(sorted(_units_of(log, _arm_of(log, 0))))
    late = np.isin(
        _column(log.exposures, "unit_id").astype(str), units[_some(len(units), share, rng)]
    )
    times = _column(log.exposures, "at").copy()
    times[late] += np.timedelta64(1, "s")
    return Log(_with(log.exposures, "at", times), log.events)


def _values(bad: float) -> Fault:
    def fault(log: Log, share: float, rng: np.random.Generator) -> Log:
        values = np.array(_column(log.events, "value"), dtype=float)
        values[_some(len(values), share, rng)] = bad
        return Log(log.exposures, _with(log.events, "value", values))

    return fault


def lost_sessions_in_one_arm(log: Log, share: float, rng: np.random.Generator) -> Log:
    """Some units of one arm stop logging, though their exposures are there."""
    import pyarrow as pa

    units = np.array(sorted(_units_of(log, _arm_of(log, 0))))
    mute = set(units[_some(len(units), share, rng)])
    lost = _events_of(log, mute) & _in_run(log)
    return Log(log.exposures, log.events.filter(pa.array(~lost)))


def lost_history_in_one_arm(log: Log, share: float, rng: np.random.Generator) -> Log:
    """One arm has half of the events before the start: another retention, or chosen units."""
    import pyarrow as pa

    theirs = _events_of(log, _units_of(log, _arm_of(log, 0))) & ~_in_run(log)
    lost = theirs & _some(log.events.num_rows, 0.5, rng)
    return Log(log.exposures, log.events.filter(pa.array(~lost)))


FAULTS: dict[str, tuple[Fault, str]] = {
    "unit_in_two_arms": (unit_in_two_arms, "units in two arms"),
    "unknown_arm": (unknown_arm, "exposures to unknown arms"),
    "unknown_experiment": (unknown_experiment, "exposures of unknown experiments"),
    "empty_arm": (empty_arm, "arms with fewer than two units"),
    "repeated_events": (repeated_events, "repeated event ids"),
    "future_events": (future_events, "events from the future"),
    "early_events": (early_events, "events between the start and the exposure"),
    "nan_values": (_values(np.nan), "values that are missing or NaN"),
    "infinite_values": (_values(np.inf), "infinite values"),
    "negative_values": (_values(-1.0), "negative values"),
    "lost_sessions_in_one_arm": (lost_sessions_in_one_arm, "units without a session"),
    "lost_history_in_one_arm": (
        lost_history_in_one_arm,
        "events a unit before the start differ",
    ),
}
"""By name: the fault, and the check that must find it."""


@dataclass(frozen=True)
class Planted:
    """One fault: what its check counted and led to, and whether anything refused the log."""

    check: str
    count: int
    action: Action
    refused: bool


@dataclass(frozen=True)
class FaultStudy:
    """What the checks say of a sound log, and of the same log with each fault (by its name)."""

    sound: LogReport
    planted: dict[str, Planted]

    @property
    def missed(self) -> tuple[str, ...]:
        """The faults of which the check that is there for them counts no more than before."""
        return tuple(
            name
            for name, each in self.planted.items()
            if each.count <= self.sound[each.check].count
        )

    @property
    def n_found(self) -> int:
        """How many of the faults were found by the check that is there for them."""
        return len(self.planted) - len(self.missed)


def study_log_checks(
    folder: Path, work: Path, experiment: Experiment, *, share: float = 0.05, seed: int = 0
) -> FaultStudy:
    """Plant every fault of `FAULTS` in the log of ``folder``; copies go to ``work``."""
    require(0 < share < 1, "share", share, "must be in (0, 1)", "try 0.05")
    log = read_log(folder)
    with open_log(folder) as connection:
        sound = check_log(connection, experiment)
    planted = {}
    for number, (name, (fault, check)) in enumerate(FAULTS.items()):
        broken = fault(log, share, np.random.default_rng([seed, number]))
        write_log(broken, work / name)
        with open_log(work / name) as connection:
            report = check_log(connection, experiment)
        result = report[check]
        planted[name] = Planted(check, result.count, result.action, bool(report.refusals))
    return FaultStudy(sound, planted)
