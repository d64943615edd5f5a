"""The access log: whole lines, nothing private, never in the way."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving.json_logs import (
    AccessLog,
    joined,
    read,
    weighted_quantile,
)

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_request_is_one_line_of_json(tmp_path):
    """Time in UTC, level from the status, event, and the fields as they were given."""
    with AccessLog(tmp_path / "access.log") as log:
        log.write(request_id="r1", model="intents", version="1.0", status=200, total_ms=4.25)
        log.write(request_id="r2", status=503)
        log.write(request_id="r3", status=401)
    first, second, third = lines(tmp_path / "access.log")
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "event": "request",
        "request_id": "r1",
        "model": "intents",
        "version": "1.0",
        "status": 200,
        "total_ms": 4.25,
        "sample": 1.0,
    }
    assert (second["level"], third["level"]) == ("error", "warning")


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.text(max_size=40), st.floats(), st.text(max_size=40))
def test_no_value_can_break_a_line(request_id, number, client):
    """A request id with a newline would forge a line; NaN is not JSON."""
    stream = io.StringIO()
    with AccessLog(stream) as log:
        log.write(request_id=request_id, client=client, total_ms=number, status=200)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert len(written.splitlines()) == 1, "no separator that some reader takes for a new line"
    row = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (row["request_id"], row["client"]) == (request_id, client)
    assert row["total_ms"] is None if not math.isfinite(number) else True


def test_what_people_wrote_is_never_in_the_log(tmp_path):
    """Length and a keyed hash: the same text is recognised, and cannot be looked up in a list."""
    secret = "my card 4929 was stolen"
    with AccessLog(tmp_path / "one.log") as log:
        log.write(request_id="a", status=200, text=secret)
        log.write(request_id="b", status=200, text=secret)
        log.write(request_id="c", status=200, text=secret + "!")
        for name in ("body", "token", "Authorization".lower()):
            with pytest.raises(InputError, match="never goes into a log"):
                log.write(request_id="d", status=200, **{name: secret})
    with AccessLog(tmp_path / "two.log") as log:
        log.write(request_id="a", status=200, text=secret)
    one, two = lines(tmp_path / "one.log"), lines(tmp_path / "two.log")
    for file in ("one.log", "two.log"):
        assert "4929" not in (tmp_path / file).read_text(encoding="utf-8")
    assert [row["text_chars"] for row in one] == [23, 23, 24]
    assert one[0]["text_hash"] == one[1]["text_hash"] != one[2]["text_hash"]
    assert one[0]["text_hash"] != two[0]["text_hash"], "another process has another key"


def test_values_are_plain_and_short(tmp_path):
    """A client chooses its request id; a megabyte of it is not copied to the disk."""
    with AccessLog(tmp_path / "access.log") as log:
        log.write(request_id="x" * 10_000, status=200, batch_size=np.int64(8), rate=np.float32(0.5))
        with pytest.raises(InputError, match="list"):
            log.write(request_id="r", status=200, texts=["a"])
    (row,) = lines(tmp_path / "access.log")
    assert len(row["request_id"]) < 300
    assert (row["batch_size"], row["rate"]) == (8, 0.5)


def test_errors_and_slow_requests_are_kept_whatever_the_sample(tmp_path):
    """What one looks for is rare; a sample of 1 % would throw 99 % of it away."""
    with AccessLog(tmp_path / "access.log", sample=0.01, slow_ms=50) as log:
        for i in range(1000):
            log.write(request_id=f"ok-{i}", status=200, total_ms=4.0)
        for i in range(50):
            log.write(request_id=f"bad-{i}", status=503)
            log.write(request_id=f"slow-{i}", status=200, total_ms=51.0)
    table = read(tmp_path / "access.log")
    kinds = table["request_id"].str.split("-").str[0].value_counts()
    assert (kinds["bad"], kinds["slow"]) == (50, 50)
    assert 1 <= kinds["ok"] <= 30
    assert set(table.loc[table["request_id"].str.startswith("ok"), "sample"]) == {0.01}


def test_services_keep_the_same_requests(tmp_path):
    """The id decides, not a coin: a request is in all logs or in none, and a trace is whole."""
    kept = []
    for name in ("gateway.log", "model.log"):
        with AccessLog(tmp_path / name, sample=0.2) as log:
            kept.append([i for i in range(2000) if log.write(request_id=f"r{i}", status=200)])
    assert kept[0] == kept[1]
    assert 300 < len(kept[0]) < 500


def test_percentiles_of_a_sampled_log_need_its_weights(tmp_path):
    """Of a log with 2 % of the fast and all of the slow requests, the plain p99 is far too high."""
    milliseconds = np.random.default_rng(0).lognormal(math.log(8), 0.8, 20_000)
    with AccessLog(tmp_path / "access.log", sample=0.02, slow_ms=50) as log:
        for i, value in enumerate(milliseconds):
            log.write(request_id=f"r{i}", status=200, total_ms=value)
    table = read(tmp_path / "access.log")
    exact = float(np.quantile(milliseconds, 0.99))
    assert weighted_quantile(table["total_ms"], table["sample"], 0.99) == pytest.approx(
        exact, rel=0.05
    )
    assert table["total_ms"].quantile(0.99) > 1.5 * exact


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), min_size=1, max_size=30))
def test_a_weight_stands_for_that_many_requests(rows):
    """A line kept with probability 1/k counts as k equal lines."""
    values, times = (np.array(column) for column in zip(*rows))
    whole = np.sort(np.repeat(values, times))
    for q in (0.0, 0.25, 0.5, 0.99, 1.0):
        expected = whole[max(0, math.ceil(round(q * len(whole), 9)) - 1)]
        assert weighted_quantile(values, 1 / times, q) == expected


def test_bad_weights_are_refused():
    """A probability of 0 cannot have kept the line."""
    with pytest.raises(InputError, match="sample"):
        weighted_quantile([1.0], [0.0], 0.5)
    with pytest.raises(InputError, match="values"):
        weighted_quantile([], [], 0.5)
    with pytest.raises(InputError, match="sample"):
        AccessLog(io.StringIO(), sample=0)


def test_a_killed_process_leaves_whole_lines(tmp_path):
    """kill -9 loses what was queued, at most a moment, and cuts no line."""
    path = tmp_path / "access.log"
    code = (
        "import sys, pathlib\n"
        "from labs.lab4_model_serving.json_logs import AccessLog\n"
        "log = AccessLog(pathlib.Path(sys.argv[1]), flush_s=0.01)\n"
        "i = 0\n"
        "while True:\n"
        "    log.write(request_id=f'r{i}', status=200, total_ms=1.5, client='c' * 100)\n"
        "    i += 1\n"
        "    if i == 3000: print('on its way', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    whole = path.read_bytes()
    assert whole.endswith(b"\n")
    ids = [row["request_id"] for row in lines(path)]
    assert ids == [f"r{i}" for i in range(len(ids))], "in order, without a gap"
    assert len(ids) > 0


def test_a_line_that_a_crash_cut_is_ended_counted_and_skipped(tmp_path):
    """A machine that died may leave half a line; the next one must not be glued to it."""
    path = tmp_path / "access.log"
    path.write_text('{"request_id":"old"}\n{"request_id":"ha', encoding="utf-8")
    with AccessLog(path) as log:
        log.write(request_id="new", status=200)
    table = read(path)
    assert list(table["request_id"]) == ["old", "new"]
    assert table.attrs["broken"] == 1


def test_files_are_rotated_by_size_and_read_in_order(tmp_path):
    """The disk holds at most (backups + 1) files of about most_bytes."""
    path = tmp_path / "access.log"
    with AccessLog(path, most_bytes=2000, backups=2) as log:
        for i in range(100):
            log.write(request_id=f"r{i}", status=200)
            if i % 5 == 4:
                log.flush()
    files = sorted(each.name for each in tmp_path.iterdir())
    assert files == ["access.log", "access.log.1", "access.log.2"]
    assert all(each.stat().st_size <= 2000 for each in tmp_path.iterdir())
    ids = list(read(path)["request_id"])
    assert ids == [f"r{i}" for i in range(100 - len(ids), 100)]


def test_a_stalled_disk_stops_no_request():
    """The queue fills, lines are dropped and counted, and the log says so when it can."""
    stalled, released = threading.Event(), threading.Event()

    class Disk(io.StringIO):
        def write(self, text: str) -> int:
            stalled.set()
            released.wait(20)
            return super().write(text)

    disk = Disk()
    log = AccessLog(disk, most_queued=10, flush_s=0.01)
    log.write(request_id="first", status=200)
    assert stalled.wait(20)
    answers = [log.write(request_id=f"r{i}", status=200) for i in range(25)]
    assert answers == [True] * 10 + [False] * 15
    assert log.dropped == 15
    released.set()
    log.close()
    rows = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [row["lines"] for row in rows if row["event"] == "dropped"] == [15]
    assert len([row for row in rows if row["event"] == "request"]) == 11


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_stops_no_request():
    """Writing fails, requests go on, and what was lost is counted."""
    with AccessLog("/dev/full") as log:
        assert log.write(request_id="r", status=200)
        log.flush()
        assert log.dropped == 1


def test_client_and_server_are_joined_by_the_request_id(tmp_path):
    """What the client saw less what the server logged is what happened outside the server."""
    import pandas as pd

    with AccessLog(tmp_path / "access.log") as log:
        for i in range(5):
            log.write(request_id=f"r{i}", status=200, total_ms=4.0 + i, queue_ms=1.0)
    client = pd.DataFrame({"request_id": ["r3", "r1", "lost"], "total_ms": [9.0, 5.5, 1.0]})
    both = joined(client, read(tmp_path / "access.log")).set_index("request_id")
    assert both["outside_ms"].to_dict() == {"r1": 0.5, "r3": 2.0}
    assert both.loc["r3", "queue_ms"] == 1.0


def test_a_log_that_is_not_there_is_named(tmp_path):
    """Not an empty table, from which a p99 of NaN would follow."""
    with pytest.raises(InputError, match=r"nothing\.log"):
        read(tmp_path / "nothing.log")
