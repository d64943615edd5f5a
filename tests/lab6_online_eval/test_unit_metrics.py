"""Exercise 6.8, and the unit table that DuckDB makes of a log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import unit_metrics
from labs.lab6_online_eval.experiment import Arm, Experiment, Kind, Metric, Role
from labs.lab6_online_eval.unit_metrics import Timed

START = datetime(2026, 3, 2, tzinfo=UTC)


def timed(*rows: tuple[int, float]) -> Timed:
    unit, at = zip(*rows, strict=True)
    return Timed(np.array(unit, dtype=np.int64), np.array(at, dtype=float))


def sums(exposures: Timed, events: Timed, **given: float) -> unit_metrics.WindowSums:
    """Events 0, 1, 2, ... have the values 1, 2, 4, ..., so that a sum says which were counted."""
    options = {"n_units": int(exposures.unit.max()) + 1, "until": 14.0, "before_days": 7.0} | given
    return unit_metrics.window_sums(exposures, events, 2.0 ** np.arange(len(events.at)), **options)


@pytest.mark.exercise("6.8")
def test_a_units_time_begins_at_its_own_exposure_and_not_with_the_experiment() -> None:
    """Unit 0 was exposed on day 5: what it did on day 2 the treatment cannot have changed.

    Counted in the metric, such events are noise without effect: they dilute it towards 0. They
    belong to the covariate. Events: day 2 (value 1), day 6 (value 2).
    """
    found = sums(timed((0, 5.0)), timed((0, 2.0), (0, 6.0)))
    assert found.metric.tolist() == [2.0], f"metric: expected [2], got {found.metric.tolist()}"
    assert found.covariate.tolist() == [1.0], (
        f"covariate: expected [1], got {found.covariate.tolist()}"
    )


@pytest.mark.exercise("6.8")
def test_of_several_exposures_the_first_counts_in_whatever_order_they_come() -> None:
    """From its first exposure on, a unit is treated: day 4 is after, though day 5 is exposed again.

    A covariate that reaches up to a later exposure holds events that the treatment has touched, and
    CUPED then subtracts a part of the effect. Exposures: days 5, 3, 9; events: days 2, 4, 10.
    """
    found = sums(timed((0, 5.0), (0, 3.0), (0, 9.0)), timed((0, 2.0), (0, 4.0), (0, 10.0)))
    assert found.metric.tolist() == [6.0], f"metric: expected [6], got {found.metric.tolist()}"
    assert found.covariate.tolist() == [1.0], (
        f"covariate: expected [1], got {found.covariate.tolist()}"
    )


@pytest.mark.exercise("6.8")
def test_both_windows_are_closed_on_the_left_and_open_on_the_right() -> None:
    """Exposed on day 5, 7 days before, analysed until day 14; events at each border.

    -2 is the first moment of the covariate, 5 the first of the metric (the click that the exposed
    page itself got), 14 is past the end; -2.1 is too old. Values 1, 2, 4, 8, 16.
    """
    found = sums(timed((0, 5.0)), timed((0, -2.1), (0, -2.0), (0, 5.0), (0, 13.9), (0, 14.0)))
    assert found.metric.tolist() == [12.0], f"metric: expected [12], got {found.metric.tolist()}"
    assert found.covariate.tolist() == [2.0], (
        f"covariate: expected [2], got {found.covariate.tolist()}"
    )


@pytest.mark.exercise("6.8")
def test_units_without_events_stay_with_zero() -> None:
    """Four units, of which only number 1 did anything: the others count as 0, the last one too.

    A treatment that brings people to act changes who has events. If only those are kept, the arms
    hold different kinds of people, and the mean is over the wrong number of units.
    """
    found = sums(timed((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)), timed((1, 2.0), (1, 0.0)))
    assert found.metric.tolist() == [0.0, 1.0, 0.0, 0.0], (
        f"metric: expected [0, 1, 0, 0], got {found.metric.tolist()}"
    )
    assert found.covariate.tolist() == [0.0, 2.0, 0.0, 0.0], (
        f"covariate: expected [0, 2, 0, 0], got {found.covariate.tolist()}"
    )


@pytest.mark.exercise("6.8")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_every_event_is_counted_at_most_once(seed: int) -> None:
    """With windows that hold everything, metric and covariate add up to all values: none is lost,
    and none is both cause and effect."""
    rng = np.random.default_rng(seed)
    exposures = Timed(np.arange(5), rng.uniform(0, 10, 5))
    events = Timed(rng.integers(0, 5, 40), rng.uniform(-10, 13, 40))
    values = rng.normal(size=40)
    found = unit_metrics.window_sums(
        exposures, events, values, n_units=5, until=14.0, before_days=30.0
    )
    expected = np.bincount(events.unit, values, minlength=5)
    worst = float(np.abs(found.metric + found.covariate - expected).max())
    assert worst < 1e-9, f"metric + covariate differs from all values by {worst}"


def experiment(*metrics: Metric, before_days: int = 7) -> Experiment:
    return Experiment(
        name="ranker",
        hypothesis="people click more",
        owner="search",
        arms=(Arm("control", 0.5), Arm("treatment", 0.5)),
        metrics=metrics or METRICS,
        start=START,
        days=14,
        before_days=before_days,
    )


METRICS = (
    Metric("clicks", Kind.MEAN, Role.SUCCESS, "click"),
    Metric("active", Kind.PROPORTION, Role.INFORMATION, "session"),
    Metric("rate", Kind.RATIO, Role.INFORMATION, "click", denominator="session"),
    Metric("p90", Kind.QUANTILE, Role.GUARDRAIL, "latency", quantile=0.9, margin=0.1),
)
Exposure = tuple[str, str, float]
Event = tuple[str, str, str, float, float]


def write_log(folder: Path, exposures: list[Exposure], events: list[Event]) -> Path:
    """Exposures (unit, arm, day) and events (id, unit, name, value, day), events in two files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from labs.lab6_online_eval.event_log import event_schema, exposure_schema

    rows = [
        {"unit_id": u, "experiment": "ranker", "arm": a, "at": START + timedelta(days=d)}
        for u, a, d in exposures
    ]
    others = [dict(row, experiment="another", arm="x") for row in rows]
    done = [
        {"event_id": i, "unit_id": u, "name": n, "value": v, "at": START + timedelta(days=d)}
        for i, u, n, v, d in events
    ]
    for name, file, part, schema in (
        ("exposures", "0", rows + others, exposure_schema()),
        ("events", "0", done[::2], event_schema()),
        ("events", "1", done[1::2], event_schema()),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part, schema=schema), folder / name / f"{file}.parquet")
    return folder


def table(written: unit_metrics.UnitTable) -> dict[str, dict[str, float]]:
    """The unit table as unit to column to value."""
    import pyarrow.parquet as pq

    rows = pq.read_table(written.units).to_pylist()
    return {row.pop("unit_id"): row for row in rows}


def test_the_table_has_a_row_for_each_unit_and_says_what_was_left_out(tmp_path: Path) -> None:
    """One of each fault: a crossed unit, an unknown arm, a copy, events before, after and of
    nobody. Each is counted, none is in a sum that it does not belong to."""
    log = write_log(
        tmp_path,
        [
            *[("a", "control", 5.0), ("a", "control", 3.0), ("b", "treatment", 0.0)],
            *[("c", "control", 1.0), ("c", "treatment", 2.0), ("d", "beta", 1.0)],
            *[("e", "treatment", 4.0), ("f", "control", -1.0), ("g", "control", 20.0)],
        ],
        [
            ("1", "a", "click", 1.0, 2.0),
            ("2", "a", "click", 2.0, 4.0),
            ("2", "a", "click", 2.0, 4.0),
            ("3", "a", "session", 1.0, 3.0),
            ("4", "b", "click", 8.0, 13.9),
            ("5", "b", "click", 16.0, 14.0),
            ("6", "b", "click", 32.0, -9.0),
            ("7", "nobody", "click", 64.0, 5.0),
            ("8", "c", "click", 128.0, 5.0),
            ("9", "a", "latency", 70.0, 5.0),
            ("10", "a", "latency", 90.0, 1.0),
            ("11", "a", "unrelated", np.nan, 5.0),
            ("12", "a", "click", -4.0, 6.0),
        ],
    )
    written = unit_metrics.write_unit_table(experiment(), log, tmp_path / "out", signed=["click"])
    rows = table(written)
    assert set(rows) == {"a", "b", "e"}
    assert (rows["a"]["arm"], rows["b"]["arm"], rows["e"]["arm"]) == (0, 1, 1)
    assert (rows["a"]["clicks"], rows["a"]["clicks:before"]) == (-2.0, 1.0)
    assert (rows["b"]["clicks"], rows["b"]["clicks:before"]) == (8.0, 0.0)
    assert (rows["e"]["clicks"], rows["e"]["active"]) == (0.0, 0)
    assert (rows["a"]["active"], rows["a"]["active:before"]) == (1, 0)
    assert (rows["a"]["rate"], rows["a"]["rate:denominator"]) == (-2.0, 1.0)
    assert [each.tolist() for each in written.event_values("p90", 0)] == [[70.0], [0]]
    assert written.n == (1, 2)
    counts = written.counts
    assert (counts.exposures, counts.exposures_outside) == (7, 2)
    assert (counts.crossed_units, counts.unknown_units) == (1, 1)
    assert (counts.events, counts.duplicates) == (11, 1)
    assert (counts.before_exposure, counts.too_early, counts.unexposed_events) == (2, 1, 1)
    assert (counts.not_finite, counts.negative) == ({}, {"click": 1})


def test_an_early_look_counts_only_what_was_known_then(tmp_path: Path) -> None:
    """As of day 5, the event of day 6 has not happened, nor has the unit exposed on day 7."""
    log = write_log(
        tmp_path,
        [("a", "control", 1.0), ("b", "treatment", 7.0)],
        [("1", "a", "click", 1.0, 2.0), ("2", "a", "click", 2.0, 6.0)],
    )
    written = unit_metrics.write_unit_table(
        experiment(), log, tmp_path / "out", at=START + timedelta(days=5)
    )
    assert {unit: row["clicks"] for unit, row in table(written).items()} == {"a": 1.0}


def test_values_that_are_no_numbers_or_negative_are_left_out_and_counted(tmp_path: Path) -> None:
    """One NaN, one infinity and a negative number of clicks: whoever analyses clicks must know."""
    log = write_log(
        tmp_path,
        [("a", "control", 1.0)],
        [
            *[("1", "a", "click", np.nan, 2.0), ("2", "a", "click", np.inf, 2.0)],
            *[("3", "a", "click", -5.0, 2.0), ("4", "a", "click", 7.0, 2.0)],
        ],
    )
    written = unit_metrics.write_unit_table(experiment(), log, tmp_path / "out")
    assert (written.counts.not_finite, written.counts.negative) == ({"click": 2}, {"click": 1})
    assert table(written)["a"]["clicks"] == 7.0


def test_an_empty_log_has_no_units(tmp_path: Path) -> None:
    """Nobody came: a table without rows, which the analysis then refuses."""
    log = write_log(tmp_path, [], [])
    written = unit_metrics.write_unit_table(experiment(), log, tmp_path / "out")
    assert (written.n, table(written)) == ((0, 0), {})


@pytest.mark.parametrize("seed", [0, 1])
def test_duckdb_and_numpy_count_the_same_events(tmp_path: Path, seed: int) -> None:
    """The query against exercise 6.8's function, on a random log with retries in another order."""
    rng = np.random.default_rng(seed)
    n_units, n_events = 60, 900
    exposures = Timed(
        np.concatenate([np.arange(n_units), rng.integers(0, n_units, 90)]),
        rng.integers(0, 13_000, n_units + 90) / 1000,
    )
    events = Timed(
        rng.integers(0, n_units, n_events), rng.integers(-20_000, 16_000, n_events) / 1e3
    )
    values = rng.normal(size=n_events)
    arms = ["control", "treatment"]
    copies = rng.permutation(np.concatenate([np.arange(n_events), rng.integers(0, n_events, 200)]))
    log = write_log(
        tmp_path,
        [
            (f"u{u:03}", arms[u % 2], float(at))
            for u, at in zip(exposures.unit, exposures.at, strict=True)
        ],
        [
            (str(i), f"u{events.unit[i]:03}", "click", float(values[i]), float(events.at[i]))
            for i in copies
        ],
    )
    written = unit_metrics.write_unit_table(experiment(), log, tmp_path / "out", signed=["click"])
    expected = unit_metrics.window_sums(
        exposures, events, values, n_units=n_units, until=14.0, before_days=7.0
    )
    rows = table(written)
    order = [rows[f"u{u:03}"] for u in range(n_units)]
    np.testing.assert_allclose([row["clicks"] for row in order], expected.metric, atol=1e-9)
    np.testing.assert_allclose(
        [row["clicks:before"] for row in order], expected.covariate, atol=1e-9
    )
    assert written.counts.duplicates == int((events.at[copies] < 14).sum()) - int(
        (events.at < 14).sum()
    )


def test_names_are_quoted(tmp_path: Path) -> None:
    """A metric's name is text of the file's author, not SQL."""
    metric = Metric('it\'s "new"', Kind.MEAN, Role.SUCCESS, "o'click")
    log = write_log(tmp_path, [("a", "control", 1.0)], [("1", "a", "o'click", 3.0, 2.0)])
    written = unit_metrics.write_unit_table(experiment(metric), log, tmp_path / "out")
    assert table(written)["a"]['it\'s "new"'] == 3.0


def test_a_log_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder of the log"):
        unit_metrics.write_unit_table(experiment(), tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="must be after the start"):
        unit_metrics.write_unit_table(experiment(), tmp_path, tmp_path / "out", at=START)
    log = write_log(
        tmp_path / "log",
        [("a", "control", 1.0)],
        [(None, "a", "click", 1.0, 2.0)],  # type: ignore[list-item]
    )
    with pytest.raises(ValueError, match="events without an event_id = 1 must be 0"):
        unit_metrics.write_unit_table(experiment(), log, tmp_path / "out")
