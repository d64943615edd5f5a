"""What is wrong with an experiment's log, counted before any metric is computed.

Every fault is named, counted, and has one of three consequences: the rows are dropped, the rows are
kept and reported, or the analysis is refused. Nothing disappears in silence, and there is no
p-value on top of a log that cannot carry one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, fisher_exact

from common.errors import InputError, require
from labs.lab6_online_eval.experiment import Experiment
from labs.lab6_online_eval.exposure_log import SESSION
from labs.lab6_online_eval.significance import Moments, compare_moments

if TYPE_CHECKING:
    import duckdb

ALARM = 1e-3
"""Threshold of the tests between arms, low because they run on every experiment, every day."""
TOLERATED = 0.01
"""Share of rows or units that may be dropped before the analysis is refused."""
FEWEST_EXPECTED = 5
"""Below so many expected cases in a cell the chi-square law does not hold."""


class Action(StrEnum):
    """What a fault leads to."""

    NONE = "none found"
    DROPPED = "dropped"
    KEPT = "kept"
    REFUSED = "analysis refused"


@dataclass(frozen=True)
class Check:
    """One kind of fault: how many of how many, and what was done."""

    name: str
    count: int
    of: int
    action: Action
    detail: str = ""

    @property
    def share(self) -> float:
        """``count / of``, 0 of nothing."""
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class LogReport:
    """What `check_log` found. ``units`` has the usable units of each arm, in the file's order."""

    experiment: str
    units: tuple[int, ...]
    checks: tuple[Check, ...]

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The faults for which there is no analysis."""
        return tuple(check for check in self.checks if check.action is Action.REFUSED)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def require_sound(self) -> None:
        """Raise `InputError` with every reason if the log cannot carry an analysis."""
        reasons = [
            f"{each.name}: {each.count:,} of {each.of:,} {each.detail}".rstrip()
            for each in self.refusals
        ]
        if reasons:
            raise InputError(f"the log of {self.experiment} is refused: " + "; ".join(reasons))


def check_log(
    connection: duckdb.DuckDBPyConnection,
    experiment: Experiment,
    *,
    now: datetime | None = None,
    heartbeat: str = SESSION,
    signed: Sequence[str] = (),
    others: Sequence[str] = (),
) -> LogReport:
    """Check a log, and leave what is sound of it in two tables of the connection.

    ``clean_units`` has a row a usable unit: ``unit_id``, ``arm``, ``exposed_at`` (its first
    exposure). ``clean_events`` has its usable events: ``unit_id``, ``arm``, ``name``, ``value``,
    ``at``, and ``before``, which says whether the event is from the period before the start (for
    CUPED) or from the exposure on (for the metrics).

    Parameters
    ----------
    connection
        As `exposure_log.open_log` returns it.
    now
        Events after it come from a clock that is wrong; the end of the run when left out.
    heartbeat
        Name of an event that every exposed unit has, in either arm.
    signed
        Names of events whose values may be negative, such as refunds.
    others
        Names of other experiments that share the log; any further one is reported.

    Raises
    ------
    InputError
        ``now`` without a time zone, or before the start. Faults of the log do not raise: see
        `LogReport.require_sound`.
    """
    end = experiment.start + timedelta(days=experiment.days)
    now = now or end
    require(now.tzinfo is not None, "now", now, "must say its time zone (UTC)")
    require(now > experiment.start, "now", now, f"must be after the start, {experiment.start}")
    connection.execute("SET TimeZone = 'UTC'")
    variables = {
        "experiment": experiment.name,
        "arms": [arm.name for arm in experiment.arms],
        "others": [experiment.name, *others],
        "signed": list(signed),
        "heartbeat": heartbeat,
        "earliest": experiment.start - timedelta(days=experiment.before_days),
        "start": experiment.start,
        "stop": min(end, now),
        "now": now,
    }
    for name, value in variables.items():
        if isinstance(value, datetime):
            text = value.astimezone(UTC).isoformat()
            connection.execute(f"SET VARIABLE {name} = ?::TIMESTAMPTZ", [text])
        else:
            connection.execute(f"SET VARIABLE {name} = ?", [value])
    checks = _check_exposures(connection)
    checks += _check_events(connection, experiment)
    units = _units(connection, experiment)
    small = [arm.name for arm, n in zip(experiment.arms, units, strict=True) if n < 2]
    checks.append(
        Check(
            "arms with fewer than two units",
            len(small),
            len(units),
            Action.REFUSED if small else Action.NONE,
            ", ".join(small),
        )
    )
    if not small:
        checks += _compare_arms(connection, experiment)
    return LogReport(experiment.name, units, tuple(checks))


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple]:
    return connection.execute(query).fetchall()


def _limited(name: str, count: int, of: int, limit: float | None, detail: str = "") -> Check:
    """A fault whose rows are dropped, unless they are more than a share ``limit`` of all."""
    action = Action.DROPPED if count else Action.NONE
    if limit is not None and count > limit * of:
        action = Action.REFUSED
    return Check(name, count, of, action, detail)


def _check_exposures(connection: duckdb.DuckDBPyConnection) -> list[Check]:
    ((total, no_id, other, unknown, names, outside),) = _rows(
        connection,
        """
        WITH judged AS (
            SELECT *, experiment = getvariable('experiment') AS mine,
                   arm IN getvariable('arms') AS known,
                   "at" >= getvariable('start') AND "at" < getvariable('stop') AS inside
            FROM exposures)
        SELECT count(*) FILTER (mine),
               count(*) FILTER (mine AND (unit_id IS NULL OR "at" IS NULL)),
               count(*) FILTER (experiment IS NULL OR experiment NOT IN getvariable('others')),
               count(*) FILTER (mine AND known IS NOT TRUE),
               coalesce(string_agg(DISTINCT arm, ', ') FILTER (mine AND known IS NOT TRUE), ''),
               count(*) FILTER (mine AND NOT inside)
        FROM judged
        """,
    )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE exposed AS
        SELECT unit_id, min("at") AS exposed_at, min(arm) AS arm, min(arm) <> max(arm) AS crossed
        FROM exposures
        WHERE experiment = getvariable('experiment') AND arm IN getvariable('arms')
              AND unit_id IS NOT NULL
              AND "at" >= getvariable('start') AND "at" < getvariable('stop')
        GROUP BY unit_id
        """
    )
    ((units, crossed),) = _rows(
        connection, "SELECT count(*), count(*) FILTER (crossed) FROM exposed"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE clean_units AS "
        "SELECT unit_id, arm, exposed_at FROM exposed WHERE NOT crossed"
    )
    strangers = Action.KEPT if other else Action.NONE
    return [
        Check("exposures of unknown experiments", other, total + other, strangers),
        _limited("exposures to unknown arms", unknown, total, 0.0, names),
        _limited("exposures without unit or time", no_id, total, TOLERATED),
        _limited("exposures outside the run", outside, total, TOLERATED),
        _limited("units in two arms", crossed, units, TOLERATED),
    ]


def _check_events(connection: duckdb.DuckDBPyConnection, experiment: Experiment) -> list[Check]:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE repeated AS
        SELECT event_id, count(*) AS n FROM events GROUP BY event_id HAVING count(*) > 1;
        CREATE OR REPLACE TEMP TABLE judged AS
        WITH single AS (
            SELECT *, FALSE AS repeat FROM events ANTI JOIN repeated USING (event_id)
            UNION ALL
            SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY "at") > 1 AS repeat
            FROM events SEMI JOIN repeated USING (event_id))
        SELECT e.unit_id, u.arm, e.name, e.value, e."at", "at" < getvariable('start') AS before,
               CASE WHEN u.unit_id IS NULL THEN 'unexposed'
                    WHEN e."at" > getvariable('now') THEN 'future'
                    WHEN e."at" IS NULL OR e."at" < getvariable('earliest')
                         OR e."at" >= getvariable('stop') THEN 'outside'
                    WHEN e.repeat THEN 'repeated'
                    WHEN e.value IS NULL OR isnan(e.value) THEN 'nan'
                    WHEN isinf(e.value) THEN 'infinite'
                    WHEN e.value < 0 AND e.name NOT IN getvariable('signed') THEN 'negative'
                    WHEN e."at" >= getvariable('start') AND e."at" < u.exposed_at THEN 'early'
               END AS fault
        FROM single AS e LEFT JOIN clean_units AS u USING (unit_id)
        """
    )
    found = dict(_rows(connection, "SELECT fault, count(*) FROM judged GROUP BY fault"))
    total = sum(found.values())
    named = {metric.event for metric in experiment.metrics} | {
        metric.denominator for metric in experiment.metrics if metric.denominator is not None
    }
    present = {name for (name,) in _rows(connection, "SELECT DISTINCT name FROM judged")}
    absent = sorted(named - present)
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW clean_events AS "
        'SELECT unit_id, arm, name, value, "at", before FROM judged WHERE fault IS NULL'
    )
    limits: dict[str, tuple[str, float | None]] = {
        "unexposed": ("events of units without a usable exposure", None),
        "outside": ("events outside the run", None),
        "future": ("events from the future", TOLERATED),
        "repeated": ("repeated event ids", None),
        "nan": ("values that are missing or NaN", TOLERATED),
        "infinite": ("infinite values", TOLERATED),
        "negative": ("negative values", TOLERATED),
        "early": ("events between the start and the exposure", None),
    }
    checks = [
        _limited(name, found.get(fault, 0), total, limit) for fault, (name, limit) in limits.items()
    ]
    action = Action.KEPT if absent else Action.NONE
    return [
        *checks,
        Check("events that no row has", len(absent), len(named), action, ", ".join(absent)),
    ]


def _units(connection: duckdb.DuckDBPyConnection, experiment: Experiment) -> tuple[int, ...]:
    counts = dict(_rows(connection, "SELECT arm, count(*) FROM clean_units GROUP BY arm"))
    return tuple(counts.get(arm.name, 0) for arm in experiment.arms)


def _compare_arms(connection: duckdb.DuckDBPyConnection, experiment: Experiment) -> list[Check]:
    """Logging that differs between arms: before the start, after it, and in what was dropped."""
    rows = _rows(
        connection,
        """
        WITH per_unit AS (
            SELECT unit_id, count(*) FILTER (fault IS NULL AND before) AS n_before,
                   count(*) FILTER (fault IS NULL AND NOT before
                                    AND name = getvariable('heartbeat')) AS n_alive,
                   count(*) FILTER (fault NOT IN ('outside', 'unexposed')) AS n_faulty
            FROM judged WHERE arm IS NOT NULL GROUP BY unit_id)
        SELECT u.arm, count(*), coalesce(sum(n_before), 0)::DOUBLE,
               coalesce(sum(n_before * n_before), 0)::DOUBLE,
               count(*) FILTER (coalesce(n_alive, 0) = 0), count(*) FILTER (n_faulty > 0)
        FROM clean_units AS u LEFT JOIN per_unit USING (unit_id) GROUP BY u.arm
        """,
    )
    by_arm = {row[0]: row[1:] for row in rows}
    table = [by_arm[arm.name] for arm in experiment.arms]
    n = np.array([row[0] for row in table])
    silent = np.array([row[3] for row in table])
    faulty = np.array([row[4] for row in table])
    rates = [Moments.of_sums(row[0], row[1], row[2]) for row in table]
    p_before = min(
        (
            compare_moments(rates[0], other).p
            for other in rates[1:]
            if rates[0].variance + other.variance > 0
        ),
        default=1.0,
    )
    before = ", ".join(f"{rate.mean:.3f}" for rate in rates)
    return [
        Check(
            "events a unit before the start differ",
            int(p_before * (len(rates) - 1) < ALARM),
            1,
            Action.REFUSED if p_before * (len(rates) - 1) < ALARM else Action.NONE,
            f"(means of the arms {before}, p = {p_before:.2g})",
        ),
        _between("units without a session", silent, n),
        _between("units with dropped events", faulty, n),
    ]


def _between(name: str, count: NDArray[np.int64], n: NDArray[np.int64]) -> Check:
    """Refuse if the share ``count / n`` differs between arms; otherwise it is kept."""
    p = homogeneity_p(count, n)
    shares = ", ".join(f"{share:.2%}" for share in count / n)
    action = Action.KEPT if count.sum() else Action.NONE
    return Check(
        name,
        int(count.sum()),
        int(n.sum()),
        Action.REFUSED if p < ALARM else action,
        f"(shares of the arms {shares}, p = {p:.2g})",
    )


def homogeneity_p(count: NDArray[np.int64], n: NDArray[np.int64]) -> float:
    """Test that the shares ``count / n`` of k arms are one; int [k] each.

    Pearson's chi-square where every cell expects at least 5. Else Fisher's exact test of each arm
    against the others, times k (once for two arms): two cases that both fall into an arm of a
    tenth are an accident of one in a hundred, and Pearson would say one in 45,000. 1.0 when no
    unit, or every unit, has what is counted.
    """
    share = count.sum() / n.sum()
    if share in (0.0, 1.0):
        return 1.0
    if float(n.min() * min(share, 1 - share)) < FEWEST_EXPECTED:
        rest = count.sum() - count, n.sum() - n
        tables = [[[a, m - a], [b, k - b]] for a, m, b, k in zip(count, n, *rest, strict=True)]
        smallest = min(float(fisher_exact(np.array(table)).pvalue) for table in tables)
        return min(1.0, smallest * (len(n) if len(n) > 2 else 1))
    statistic = float(((count - n * share) ** 2 / (n * share * (1 - share))).sum())
    return float(chi2.sf(statistic, len(n) - 1))
