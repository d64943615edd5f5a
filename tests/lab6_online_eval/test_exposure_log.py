"""The log: whole files or none, whatever happens to the writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES, event_schema
from labs.lab6_online_eval.experiment import read_experiment
from labs.lab6_online_eval.exposure_log import LogWriter, open_log, schema_of, write_sessions
from labs.lab6_online_eval.world import Sessions

ROOT = Path(__file__).parents[2]
EXPERIMENT = read_experiment(ROOT / "labs/lab6_online_eval/experiments/new_ranker.toml")


def rows(n: int, start: int = 0):
    import pyarrow as pa

    numbers = np.arange(start, start + n)
    return pa.table(
        {
            "event_id": numbers.astype(str),
            "unit_id": (numbers % 7).astype(str),
            "name": np.repeat("click", n),
            "value": np.ones(n),
            "at": pa.array(numbers * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
        }
    ).cast(event_schema())


def sessions(n: int = 500, n_units: int = 40, seed: int = 0) -> Sessions:
    rng = np.random.default_rng(seed)
    unit = rng.integers(0, n_units, n)
    day = np.sort(rng.uniform(-14, 14, n))
    return Sessions(
        unit=unit,
        person=unit,
        arm=unit % 2,
        day=day,
        clicks=rng.poisson(1.0, n),
        hides=rng.binomial(1, 0.05, n),
        latency_ms=rng.uniform(50, 150, n),
        error=rng.random(n) < 0.05,
    )


def test_a_full_buffer_and_the_end_write_files_and_nothing_is_lost_or_doubled(
    tmp_path: Path,
) -> None:
    """25 rows with a buffer of 10: three files, and each row once."""
    with LogWriter(tmp_path, EVENTS, buffer_rows=10) as log:
        for start in range(0, 25, 5):
            log.add(rows(5, start))
    assert len(list((tmp_path / EVENTS).iterdir())) == 3
    found = open_log(tmp_path).execute("SELECT count(*), count(DISTINCT event_id) FROM events")
    assert found.fetchall() == [(25, 25)]


def test_an_error_in_the_program_keeps_what_was_observed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="elsewhere"), LogWriter(tmp_path, EVENTS) as log:
        log.add(rows(3))
        raise RuntimeError("elsewhere")
    assert open_log(tmp_path).execute("SELECT count(*) FROM events").fetchall() == [(3,)]


KILLED = """
import sys
from pathlib import Path
from labs.lab6_online_eval.exposure_log import LogWriter
sys.path.insert(0, "tests/lab6_online_eval")
from test_exposure_log import rows
log, start = LogWriter(Path(sys.argv[1]), "events", buffer_rows=1000), 0
while True:
    log.add(rows(100, start))
    start += 100
    print(start, flush=True)
"""


def test_kill_9_loses_at_most_the_buffer_and_leaves_no_torn_file(tmp_path: Path) -> None:
    """The rows that are read are the first ones, all of them whole, up to one buffer short."""
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 5300:
            writer.send_signal(signal.SIGKILL)
            break
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
    assert writer.wait() == -signal.SIGKILL
    ((n, highest),) = (
        open_log(tmp_path).execute("SELECT count(*), max(event_id::INT) FROM events").fetchall()
    )
    assert n == highest + 1
    assert acknowledged - 1000 < n <= acknowledged + 100


def test_what_a_killed_writer_left_behind_is_not_read(tmp_path: Path) -> None:
    with LogWriter(tmp_path, EVENTS) as log:
        log.add(rows(3))
    (tmp_path / EVENTS / ".0123.partial").write_bytes(b"PAR1 half a file")
    assert open_log(tmp_path).execute("SELECT count(*) FROM events").fetchall() == [(3,)]


def test_a_torn_file_of_another_program_is_named(tmp_path: Path) -> None:
    with LogWriter(tmp_path, EVENTS) as log:
        log.add(rows(3))
    whole = next((tmp_path / EVENTS).iterdir())
    (tmp_path / EVENTS / "torn.parquet").write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"torn\.parquet is no whole Parquet file"):
        open_log(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the rows stay in the buffer, and a later flush writes them."""
    log = LogWriter(tmp_path, EVENTS)
    log.add(rows(3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.flush()
    assert list((tmp_path / EVENTS).iterdir()) == []
    log.flush()
    assert open_log(tmp_path).execute("SELECT count(*) FROM events").fetchall() == [(3,)]


def test_rows_and_files_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must have"):
        LogWriter(tmp_path, EXPOSURES).add(rows(1))
    with LogWriter(tmp_path, EVENTS) as log:
        log.add(rows(1))
    whole = next((tmp_path / EVENTS).iterdir())
    whole.rename(tmp_path / EXPOSURES / "wrong.parquet")
    with pytest.raises(InputError, match=r"wrong\.parquet has the schema"):
        open_log(tmp_path)
    with pytest.raises(InputError, match="must exist"):
        open_log(tmp_path / "none")
    with pytest.raises(InputError, match="must be exposures or events"):
        schema_of("clicks")


def test_an_empty_log_has_empty_tables(tmp_path: Path) -> None:
    connection = open_log(tmp_path)
    for table in (EXPOSURES, EVENTS):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


def test_nan_in_the_log_is_visible_to_duckdb(tmp_path: Path) -> None:
    """Parquet's min and max leave NaN out; with them DuckDB turns isnan(value) into false.

    A check that never fires is worse than none, so the connection works without that rule.
    """
    table = rows(4)
    values = table.column("value").to_numpy().copy()
    values[2] = np.nan
    with LogWriter(tmp_path, EVENTS) as log:
        log.add(table.set_column(3, table.schema.field(3), [values]))
    query = "SELECT sum(CASE WHEN isnan(value) THEN 1 ELSE 0 END) FROM events"
    assert open_log(tmp_path).execute(query).fetchall() == [(1,)]


def test_the_sessions_come_back_as_they_were(tmp_path: Path) -> None:
    """Sums of each event, the arm of each exposure, and the first and last moment."""
    drawn = sessions()
    write_sessions(drawn, EXPERIMENT, tmp_path)
    connection = open_log(tmp_path)
    sums = dict(connection.execute("SELECT name, sum(value) FROM events GROUP BY name").fetchall())
    assert sums == pytest.approx(
        {
            "session": drawn.n,
            "click": drawn.clicks.sum(),
            "hide": drawn.hides.sum(),
            "error": drawn.error.sum(),
            "latency_ms": drawn.latency_ms.sum(),
        }
    )
    exposures = connection.execute(
        "SELECT count(*), count(*) FILTER (arm = 'discovery' AND unit_id::INT % 2 = 1) "
        "FROM exposures"
    ).fetchall()
    inside = drawn.day >= 0
    assert exposures == [(inside.sum(), (inside & (drawn.arm == 1)).sum())]
    (first,) = connection.execute('SELECT epoch_us(min("at")) FROM events').fetchone()
    expected = datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1e6 + drawn.day[0] * 86_400e6
    assert first == pytest.approx(expected, abs=2)
    assert connection.execute("SELECT count(*) - count(DISTINCT event_id) FROM events").fetchall()[
        0
    ] == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": np.full(500, 2)}, "must be below 2"),
        ({"unit": np.full(500, 99)}, "must be 100, one a unit"),
    ],
)
def test_sessions_that_do_not_fit_the_experiment_are_refused(
    tmp_path: Path, change: dict, message: str
) -> None:
    from dataclasses import replace

    ids = np.arange(40).astype(np.str_)
    with pytest.raises(InputError, match=message):
        write_sessions(replace(sessions(), **change), EXPERIMENT, tmp_path, unit_ids=ids)
    nobody = sessions().where(np.zeros(500, dtype=bool))
    with pytest.raises(InputError, match="must be at least 1"):
        write_sessions(nobody, EXPERIMENT, tmp_path)
