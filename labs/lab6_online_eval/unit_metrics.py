"""From the log to one row a unit: what it did after its exposure, and what it had done before.

Three decisions are made here, each of which can spoil an experiment without a trace: where a unit's
time begins (its own first exposure), which units are in the table (all that were exposed, also
those without a single event), and that what happened before is a covariate and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES
from labs.lab6_online_eval.experiment import Experiment, Kind, Metric
from labs.lab6_online_eval.exposure_log import open_log
from labs.lab6_online_eval.sufficient_statistics import Columns

if TYPE_CHECKING:
    import duckdb

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Timed:
    """Rows of a log: ``unit`` int [n] from 0, ``at`` float [n] in days since the start."""

    unit: Ints
    at: Floats


@dataclass(frozen=True)
class WindowSums:
    """Of each unit, float [n_units]: what counts for the metric, and what for its covariate."""

    metric: Floats
    covariate: Floats


@exercise(
    "6.8",
    points=5,
    title="Which events count for the metric, and which for its covariate",
    hint="Each unit has a time of its own: when the experiment first touched it. To which side "
    "belongs an event at that very moment, and what is the sum of a unit without events?",
)
def window_sums(
    exposures: Timed,
    events: Timed,
    values: Floats,
    *,
    n_units: int,
    until: float,
    before_days: float,
) -> WindowSums:
    """Sum each unit's events in two windows around its own first exposure ``e``.

        metric:     e <= t < until
        covariate:  e - before_days <= t < e

    Nothing that the treatment may have touched reaches the covariate, and nothing that it cannot
    have touched reaches the metric.

    Parameters
    ----------
    exposures
        Each time the experiment decided something for a unit, in no order; each of the n_units
        units has at least one.
    events, values
        What happened, in no order, and its value: [n_events].
    until
        End of the analysis, in days since the experiment's start.
    before_days
        Length of the window before the exposure.

    Returns
    -------
    WindowSums
        ``metric`` and ``covariate``, float [n_units]; 0 for a unit without events.
    """
    # BEGIN SOLUTION
    first = np.full(n_units, np.inf)
    np.minimum.at(first, exposures.unit, exposures.at)
    exposed = first[events.unit]
    after = (events.at >= exposed) & (events.at < until)
    before = (events.at < exposed) & (events.at >= exposed - before_days)

    def total(chosen: NDArray[np.bool_]) -> Floats:
        sums = np.bincount(events.unit[chosen], values[chosen], minlength=n_units)
        return sums.astype(float)

    return WindowSums(metric=total(after), covariate=total(before))
    # END SOLUTION


@dataclass(frozen=True)
class LogCounts:
    """What was read, what was left out, and why.

    Attributes
    ----------
    exposures, exposures_outside
        Rows of this experiment within its period, and those before its start or after ``until``,
        which are not used.
    crossed_units, unknown_units
        Units seen in more than one arm, or in an arm that the experiment does not have: left out.
    events, duplicates
        Rows of the metrics' events up to ``until``; those that repeat an ``event_id``, counted
        once.
    before_exposure, too_early
        Events of exposed units before their exposure: in the covariate's window, and earlier.
    unexposed_events
        Events of units that were never exposed: not used.
    not_finite, negative
        Values that are missing, NaN or infinite (left out), and values below 0 (left out unless
        they may be), by the event's name.
    """

    exposures: int
    exposures_outside: int
    crossed_units: int
    unknown_units: int
    events: int
    duplicates: int
    before_exposure: int
    too_early: int
    unexposed_events: int
    not_finite: dict[str, int]
    negative: dict[str, int]


@dataclass(frozen=True)
class UnitTable:
    """The unit table of an experiment, in Parquet, and what went into it.

    Attributes
    ----------
    units
        ``unit`` int (row number), ``unit_id``, ``arm`` int (index of the experiment's arms),
        ``first_exposure``, and the columns of `columns`, in the order of ``unit_id``.
    values
        For quantiles: ``metric``, ``arm``, ``unit``, ``value``, one row an event after exposure.
    n
        Units of each arm.
    columns
        The columns of each metric that is no quantile, by the metric's name.
    until
        The end of the metrics' window.
    """

    units: Path
    values: Path
    n: tuple[int, ...]
    columns: dict[str, Columns]
    until: datetime
    counts: LogCounts

    def event_values(self, metric: str, arm: int) -> tuple[Floats, Ints]:
        """Values of a quantile's events in one arm, and the unit of each: float [n], int [n]."""
        import duckdb

        with duckdb.connect() as database:
            found = database.execute(
                "SELECT value, unit FROM read_parquet($path) "
                "WHERE metric = $metric AND arm = $arm ORDER BY unit, value",
                {"path": str(self.values), "metric": metric, "arm": arm},
            ).fetchnumpy()
        return np.asarray(found["value"], dtype=float), np.asarray(found["unit"], dtype=np.int64)


def write_unit_table(
    experiment: Experiment,
    log: Path,
    out: Path,
    *,
    at: datetime | None = None,
    signed: Sequence[str] = (),
) -> UnitTable:
    """Read the log with DuckDB and write one row a unit.

    Parameters
    ----------
    log
        Folder with ``exposures/*.parquet`` and ``events/*.parquet`` (see `event_log`).
    out
        Folder for ``units.parquet`` and ``values.parquet``.
    at
        Analyse as of this moment (with a time zone); the end of the experiment when left out or
        later than that.
    signed
        Names of events whose values may be negative, such as refunds.

    Raises
    ------
    InputError
        A log that cannot be read, events without an ``event_id``, an ``at`` before the start.

    Notes
    -----
    What is left out here is what `log_checks` reports as dropped, by the same rules; that module
    also says when so much is missing that there must be no analysis.
    """
    end = experiment.start + timedelta(days=experiment.days)
    require(at is None or at.tzinfo is not None, "at", at, "must say its time zone (UTC)")
    until = end if at is None else min(at, end)
    require(until > experiment.start, "at", at, f"must be after the start, {experiment.start}")
    out.mkdir(parents=True, exist_ok=True)
    units, values = out / "units.parquet", out / "values.parquet"
    with open_log(log) as database:
        _find_units(database, experiment, until)
        _find_events(database, experiment, until, signed)
        database.execute(_unit_query(experiment), [str(units)])
        database.execute(_value_query(experiment.metrics), [str(values)])
        n = dict(database.execute("SELECT arm, count(*) FROM kept GROUP BY arm").fetchall())
        counts = _counts(database, experiment, until)
    return UnitTable(
        units=units,
        values=values,
        n=tuple(n.get(arm, 0) for arm in range(len(experiment.arms))),
        columns={m.name: columns_of(m) for m in experiment.metrics if m.kind is not Kind.QUANTILE},
        until=until,
        counts=counts,
    )


def columns_of(metric: Metric) -> Columns:
    """The names of a metric's columns in the unit table; a covariate only where CUPED is wanted."""
    name = metric.name
    ratio = metric.kind is Kind.RATIO
    return Columns(
        numerator=name,
        denominator=f"{name}:denominator" if ratio else None,
        covariate=f"{name}:before" if metric.cuped else None,
        covariate_denominator=f"{name}:denominator_before" if ratio and metric.cuped else None,
    )


def _find_units(
    database: duckdb.DuckDBPyConnection, experiment: Experiment, until: datetime
) -> None:
    """Tables ``seen``, all units exposed in the period, and ``kept``, those that are analysed."""
    arms = " ".join(
        f"WHEN {_text(arm.name)} THEN {place}" for place, arm in enumerate(experiment.arms)
    )
    database.execute(
        "CREATE TEMP TABLE seen AS "
        f'SELECT unit_id, min("at") AS first_exposure, CASE min(arm) {arms} END AS arm, '
        f"count(DISTINCT arm) AS n_arms, count(*) AS n_rows FROM {EXPOSURES} "
        'WHERE experiment = $name AND "at" >= $start AND "at" < $until GROUP BY unit_id',
        _period(experiment, until),
    )
    database.execute(
        "CREATE TEMP TABLE kept AS SELECT unit_id, arm, first_exposure, "
        "row_number() OVER (ORDER BY unit_id) - 1 AS unit "
        "FROM seen WHERE n_arms = 1 AND arm IS NOT NULL"
    )


def _find_events(
    database: duckdb.DuckDBPyConnection,
    experiment: Experiment,
    until: datetime,
    signed: Sequence[str],
) -> None:
    """Tables ``once``, each event without its copies, and ``done``, the kept units' usable ones."""
    names = ", ".join(sorted(_text(name) for name in _event_names(experiment.metrics)))
    database.execute(
        "CREATE TEMP TABLE once AS "
        # of copies that differ the smallest, so that the order of the files does not matter
        "SELECT event_id, "
        "min({'moment': \"at\", 'unit_id': unit_id, 'name': name, 'value': value}) AS e, "
        f'count(*) AS copies FROM {EVENTS} WHERE name IN ({names}) AND "at" < $until '
        "GROUP BY event_id",
        {"until": until.astimezone(UTC)},
    )
    database.execute(
        "CREATE TEMP TABLE done AS SELECT unit, arm, e.name AS name, e.value AS value, "
        "e.moment >= first_exposure AS after, "
        "e.moment >= first_exposure - to_days($days) AS recent "
        "FROM once JOIN kept ON e.unit_id = kept.unit_id "
        "WHERE isfinite(e.value) AND (e.value >= 0 OR list_contains($signed, e.name))",
        {"days": experiment.before_days, "signed": list(signed)},
    )


def _counts(
    database: duckdb.DuckDBPyConnection, experiment: Experiment, until: datetime
) -> LogCounts:
    def one(query: str, parameters: dict[str, object] | None = None) -> tuple[int, ...]:
        return tuple(int(each or 0) for each in database.execute(query, parameters).fetchall()[0])

    exposures, crossed, unknown = one(
        "SELECT sum(n_rows), count(*) FILTER (n_arms > 1), "
        "count(*) FILTER (n_arms <= 1 AND arm IS NULL) FROM seen"
    )
    (outside,) = one(
        f"SELECT count(*) FROM {EXPOSURES} "
        'WHERE experiment = $name AND ("at" >= $start AND "at" < $until) IS NOT TRUE',
        _period(experiment, until),
    )
    rows, distinct, nameless = one(
        "SELECT sum(copies), count(*), sum(copies) FILTER (event_id IS NULL) FROM once"
    )
    require(nameless == 0, "events without an event_id", nameless, "must be 0", "see event_log")
    before, early = one(
        "SELECT count(*) FILTER (NOT after AND recent), count(*) FILTER (NOT recent) FROM done"
    )
    (unexposed,) = one("SELECT count(*) FROM once ANTI JOIN seen ON e.unit_id = seen.unit_id")
    odd = database.execute(
        "SELECT e.name, count(*) FILTER (e.value IS NULL OR NOT isfinite(e.value)), "
        "count(*) FILTER (isfinite(e.value) AND e.value < 0) FROM once GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return LogCounts(
        exposures=exposures,
        exposures_outside=outside,
        crossed_units=crossed,
        unknown_units=unknown,
        events=rows,
        duplicates=rows - distinct,
        before_exposure=before,
        too_early=early,
        unexposed_events=unexposed,
        not_finite={name: bad for name, bad, _ in odd if bad},
        negative={name: low for name, _, low in odd if low},
    )


def _period(experiment: Experiment, until: datetime) -> dict[str, object]:
    start, end = experiment.start.astimezone(UTC), until.astimezone(UTC)
    return {"name": experiment.name, "start": start, "until": end}


def _event_names(metrics: Sequence[Metric]) -> set[str]:
    named = {metric.event for metric in metrics}
    return named | {metric.denominator for metric in metrics if metric.denominator is not None}


def _unit_query(experiment: Experiment) -> str:
    """One row a kept unit: a LEFT JOIN, so that units without events stay, with 0."""
    sums: list[str] = []
    for metric in experiment.metrics:
        if metric.kind is Kind.QUANTILE:
            continue
        columns = columns_of(metric)
        for column, event, side in (
            (columns.numerator, metric.event, "after"),
            (columns.denominator, metric.denominator, "after"),
            (columns.covariate, metric.event, "NOT after AND recent"),
            (columns.covariate_denominator, metric.denominator, "NOT after AND recent"),
        ):
            if column is not None and event is not None:
                where = f"FILTER (name = {_text(event)} AND {side})"
                total = (
                    f"(count(*) {where} > 0)::TINYINT"
                    if metric.kind is Kind.PROPORTION
                    else f"coalesce(sum(value) {where}, 0)"
                )
                sums.append(f'{total} AS "{column.replace(chr(34), chr(34) * 2)}"')
    wanted = ", ".join(
        (
            "unit",
            "any_value(unit_id) AS unit_id",
            "any_value(kept.arm)::TINYINT AS arm",
            "any_value(first_exposure) AS first_exposure",
            *sums,
        )
    )
    return (
        f"COPY (SELECT {wanted} FROM kept LEFT JOIN done USING (unit) GROUP BY unit ORDER BY unit)"
        " TO $1 (FORMAT parquet)"
    )


def _value_query(metrics: Sequence[Metric]) -> str:
    """One row an event after exposure for every quantile metric."""
    parts = [
        f"SELECT {_text(metric.name)} AS metric, arm, unit, value FROM done "
        f"WHERE name = {_text(metric.event)} AND after"
        for metric in metrics
        if metric.kind is Kind.QUANTILE
    ]
    nothing = "SELECT '' AS metric, arm, unit, value FROM done WHERE false"
    return f"COPY ({' UNION ALL '.join(parts) or nothing}) TO $1 (FORMAT parquet)"


def _text(value: str) -> str:
    """A string literal of SQL."""
    return "'" + value.replace("'", "''") + "'"
