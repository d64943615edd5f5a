"""The monitor's configuration and metrics, in this process; test_stack.py runs it as its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from capstone.drift import load_references
from capstone.monitor import Monitor, MonitorConfig, main, write_groups
from common.errors import EXIT_BAD_INPUT, InputError
from tests.capstone.feed_log import write_log


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"), users=220)


def _text(monitor: Monitor) -> str:
    return monitor.metrics.exposition()[0].decode()


def test_without_references_the_first_users_become_them(events: Path, tmp_path: Path) -> None:
    """The first result has no drift; the next compares, also after a restart."""
    file = tmp_path / "references.json"
    config = MonitorConfig(str(events), 0, references=str(file))
    monitor = Monitor(config)
    monitor.refresh()
    assert "feed_score_psi{" not in _text(monitor)
    assert set(load_references(file)) == {"engage", "like", "love", "dislike"}
    monitor.refresh()
    assert 'feed_score_psi{head="like"} 0.0' in _text(monitor)
    again = Monitor(config)
    again.refresh()
    assert 'feed_score_psi_rows{head="like"} 220.0' in _text(again)


def test_each_statistic_comes_with_its_limit_and_its_rows(events: Path, tmp_path: Path) -> None:
    """The rules read all three; a name that is missing here is an alert that never fires."""
    groups = tmp_path / "groups.json"
    users = np.arange(1, 221)
    write_groups({"gender": np.where(users % 2, "M", "F")}, users, groups)
    monitor = Monitor(MonitorConfig(str(events), 0, groups=str(groups)))
    monitor.refresh()
    monitor.refresh()
    text = _text(monitor)
    for name, label in (
        ("score_psi", 'head="like"'),
        ("calibration_error", 'head="like"'),
        ("group_gap", 'attribute="gender"'),
    ):
        for part in ("", "_limit", "_rows"):
            assert f"\nfeed_{name}{part}{{{label}}} " in text, f"{name}{part}"
    assert 'feed_group_engaged_share{attribute="gender",group="F"}' in text


def test_what_is_no_longer_judged_disappears(events: Path) -> None:
    """A gauge that keeps yesterday's value is a lie that no alert sees."""
    monitor = Monitor(MonitorConfig(str(events), 0))
    monitor.refresh()
    assert "feed_calibration_error{" in _text(monitor)
    monitor.config = MonitorConfig(str(events), 0, version="gone")
    monitor.refresh()
    assert "feed_calibration_error{" not in _text(monitor)
    assert "feed_logged_feeds 0.0" in _text(monitor)


def test_a_damaged_log_is_counted_and_the_newest_result_grows_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process lives on; FeedMonitorStale is what says so."""
    (tmp_path / "exposures").mkdir()
    damaged = tmp_path / "exposures" / f"{1:020d}-{2:020d}.parquet"
    damaged.write_bytes(b"no parquet")
    monitor = Monitor(MonitorConfig(str(tmp_path), 0))
    before = monitor.metrics.success._value.get()
    assert monitor.refresh() is None
    assert "feed_monitor_failures_total 1.0" in _text(monitor)
    assert monitor.metrics.success._value.get() == before
    assert "cannot be read" in capsys.readouterr().err


def test_a_bad_configuration_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Value, limit and fix, before anything is served."""
    file = tmp_path / "monitor.json"
    assert main(str(file)) == EXIT_BAD_INPUT
    assert "is no configuration of the monitor" in capsys.readouterr().err
    with pytest.raises(InputError, match="interval_s = 0"):
        MonitorConfig("events", 0, interval_s=0)
    groups = tmp_path / "groups.json"
    groups.write_text('{"gender": ["M"]}', encoding="utf-8")
    with pytest.raises(InputError, match="no groups of users"):
        Monitor(MonitorConfig("events", 0, groups=str(groups)))
