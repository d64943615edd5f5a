import os
import subprocess
import sys
import threading
import time

import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db import write_ahead_log
from labs.lab2_vector_db.log_replay import FRAME, HEADER
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog, replay

RECORDS = [bytes([number]) * (10 + number) for number in range(20)]


def fill(log, records=RECORDS):
    for record in records:
        log.commit(log.append(record))


def content(folder, after=0):
    return [bytes(record) for _, record in replay(folder, after)]


def segment_files(folder):
    return sorted(folder.glob("*.wal"))


def test_what_was_committed_is_there_when_the_log_is_opened_again(tmp_path):
    with WriteAheadLog.open(tmp_path / "wal") as log:
        fill(log)
        assert (log.last_lsn, log.committed_lsn) == (20, 20)
    with WriteAheadLog.open(tmp_path / "wal") as log:
        assert log.last_lsn == 20
        assert log.append(b"next") == 21
    assert content(tmp_path / "wal") == [*RECORDS, b"next"]


def test_many_records_of_one_call_are_one_write_with_lsns_in_order(tmp_path):
    with WriteAheadLog.open(tmp_path) as log:
        many = [str(number).encode() for number in range(3000)]  # more buffers than one pwritev
        assert log.append_many(many) == 3000
        assert log.append_many([b"", b"x"]) == 3002
        log.commit(3002)
        assert log.fsyncs == 1
    assert content(tmp_path) == [*many, b"", b"x"]


def test_segments_are_rolled_when_full_and_none_has_a_gap(tmp_path):
    with WriteAheadLog.open(tmp_path, segment_bytes=200) as log:
        fill(log)
        assert len(segment_files(tmp_path)) > 4
        assert log.size_bytes() == sum(path.stat().st_size for path in segment_files(tmp_path))
    with WriteAheadLog.open(tmp_path, segment_bytes=200) as log:
        assert log.last_lsn == 20
    assert content(tmp_path) == RECORDS


def test_truncation_removes_whole_segments_that_a_snapshot_covers(tmp_path):
    with WriteAheadLog.open(tmp_path, segment_bytes=200) as log:
        fill(log)
        before = len(segment_files(tmp_path))
        log.truncate_before(11)
        assert len(segment_files(tmp_path)) < before
        assert content(tmp_path, 10) == RECORDS[10:]
        log.truncate_before(21)
        assert [path.stat().st_size for path in segment_files(tmp_path)] == [HEADER.size]
        assert content(tmp_path, 20) == []
        assert log.append(b"next") == 21
        with pytest.raises(InputError, match="must be <= 22"):
            log.truncate_before(23)
    with WriteAheadLog.open(tmp_path) as log:
        assert log.last_lsn == 21
    with pytest.raises(RunError, match="newest snapshot"):
        content(tmp_path, 19)


def test_an_empty_log_can_begin_above_a_snapshot(tmp_path):
    with WriteAheadLog.open(tmp_path, first_lsn=57) as log:
        assert log.last_lsn == 56
        assert log.append(b"x") == 57
    assert content(tmp_path, 56) == [b"x"]


@pytest.mark.parametrize("lost", [1, 5, FRAME.size + 3])
def test_the_writer_cuts_a_torn_tail_off_and_a_reader_does_not(tmp_path, lost):
    with WriteAheadLog.open(tmp_path) as log:
        fill(log)
    (file,) = segment_files(tmp_path)
    os.truncate(file, file.stat().st_size - lost)
    assert content(tmp_path) == RECORDS[:-1]
    size = file.stat().st_size
    assert content(tmp_path) == RECORDS[:-1]
    assert file.stat().st_size == size
    with WriteAheadLog.open(tmp_path) as log:
        assert log.torn_bytes == FRAME.size + len(RECORDS[-1]) - lost
        assert log.append(b"after the crash") == 20
    assert content(tmp_path) == [*RECORDS[:-1], b"after the crash"]


def test_damage_before_the_tail_is_refused_and_the_file_is_left_as_it_is(tmp_path):
    with WriteAheadLog.open(tmp_path) as log:
        fill(log)
    (file,) = segment_files(tmp_path)
    damaged = bytearray(file.read_bytes())
    damaged[200] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(RunError, match=r"\.wal: the record at byte \d+ \(lsn \d+\).*snapshot"):
        WriteAheadLog.open(tmp_path)
    assert file.read_bytes() == damaged


def test_what_a_killed_roll_leaves_behind_is_cleared_away(tmp_path):
    with WriteAheadLog.open(tmp_path) as log:
        fill(log)
    (tmp_path / f"{21:020d}.partial").write_bytes(b"half a hea")
    with WriteAheadLog.open(tmp_path) as log:
        assert log.last_lsn == 20
    assert not list(tmp_path.glob("*.partial"))


def test_threads_that_commit_together_share_fsyncs(tmp_path, monkeypatch):
    """16 threads with 20 writes each: every write is durable when acknowledged, with far fewer
    fsyncs than writes."""
    calls, sync = [], os.fsync

    def slow_sync(descriptor):
        calls.append(descriptor)
        time.sleep(0.002)  # a disk; a file system in memory would let no group form
        sync(descriptor)

    log = WriteAheadLog.open(tmp_path)
    monkeypatch.setattr(os, "fsync", slow_sync)
    late = []

    def write(thread):
        for number in range(20):
            lsn = log.append(f"{thread}:{number}".encode())
            log.commit(lsn)
            if log.committed_lsn < lsn:
                late.append(lsn)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert late == []
    assert len(calls) == log.fsyncs
    assert len(calls) <= 320 / 4, f"{len(calls)} fsyncs for 320 writes of 16 threads"
    log.close()
    found = content(tmp_path)
    for thread in range(16):
        own = [record for record in found if record.startswith(f"{thread}:".encode())]
        assert own == [f"{thread}:{number}".encode() for number in range(20)]


def test_a_commit_that_came_after_the_fsync_began_waits_for_the_next(tmp_path, monkeypatch):
    """The leader's fsync may have begun before the record was written: it covers nothing of it."""
    log = WriteAheadLog.open(tmp_path)
    began, go_on, sync, calls = threading.Event(), threading.Event(), os.fsync, []

    def held_sync(descriptor):
        calls.append(descriptor)
        began.set()
        assert go_on.wait(10)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", held_sync)
    first = threading.Thread(target=log.commit, args=(log.append(b"first"),))
    first.start()
    assert began.wait(10)
    second = threading.Thread(target=log.commit, args=(log.append(b"second"),))
    second.start()
    assert log.committed_lsn == 0
    go_on.set()
    first.join()
    second.join()
    assert (len(calls), log.committed_lsn) == (2, 2)
    log.close()


def test_threads_that_roll_segments_at_the_same_time_lose_nothing(tmp_path):
    log = WriteAheadLog.open(tmp_path, segment_bytes=300)

    def write(thread):
        for number in range(30):
            log.commit(log.append(f"{thread}:{number}".encode() * 5))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(content(tmp_path)) == 240
    assert len(segment_files(tmp_path)) > 10


def test_without_sync_nothing_waits_for_the_disk(tmp_path):
    with WriteAheadLog.open(tmp_path, sync=False) as log:
        fill(log)
        assert (log.fsyncs, log.committed_lsn) == (0, 20)
    assert content(tmp_path) == RECORDS


def test_a_failed_fsync_is_never_followed_by_a_success(tmp_path, monkeypatch):
    """The kernel may drop the pages it could not write: a second fsync would report success."""
    log = WriteAheadLog.open(tmp_path)
    fill(log)
    lsn = log.append(b"not acknowledged")
    sync = os.fsync

    def failing(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(RunError, match=r"takes no more writes: fsync failed .*Input/output"):
        log.commit(lsn)
    monkeypatch.setattr(os, "fsync", sync)
    for attempt in (lambda: log.commit(lsn), lambda: log.append(b"x"), lambda: log.commit(lsn)):
        with pytest.raises(RunError, match="takes no more writes"):
            attempt()
    log.commit(20)  # was durable before
    log.close()
    assert content(tmp_path) == RECORDS  # what was refused is not there either
    with WriteAheadLog.open(tmp_path) as log:
        assert log.append(b"again") == 21


def test_all_threads_of_a_group_learn_of_a_failed_fsync(tmp_path, monkeypatch):
    log = WriteAheadLog.open(tmp_path)
    sync, failed = os.fsync, []

    def failing(descriptor):
        time.sleep(0.02)
        raise OSError(5, "Input/output error")

    def write(thread):
        try:
            log.commit(log.append(b"x"))
        except RunError:
            failed.append(thread)

    monkeypatch.setattr(os, "fsync", failing)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(os, "fsync", sync)
    assert len(failed) == 6
    log.close()
    assert content(tmp_path) == []


def test_a_closed_log_refuses_writes_and_closes_twice(tmp_path):
    log = WriteAheadLog.open(tmp_path)
    log.append(b"committed by close")
    log.close()
    log.close()
    with pytest.raises(RunError, match="it is closed"):
        log.append(b"x")
    assert content(tmp_path) == [b"committed by close"]


def test_bad_arguments_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="segment_bytes = 0"):
        WriteAheadLog.open(tmp_path, segment_bytes=0)
    with pytest.raises(InputError, match="first_lsn = 0"):
        WriteAheadLog.open(tmp_path, first_lsn=0)
    with WriteAheadLog.open(tmp_path) as log:
        with pytest.raises(InputError, match="must be <= 0"):
            log.commit(1)
        with pytest.raises(InputError, match="at least one"):
            log.append_many([])
        monkeypatch.setattr(write_ahead_log, "MAX_RECORD_BYTES", 10)
        with pytest.raises(InputError, match="= 11 must be <= 10"):
            log.append(b"x" * 11)
        assert log.last_lsn == 0


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from common.errors import RunError
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog

folder, segment_bytes = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = WriteAheadLog.open(folder, segment_bytes=segment_bytes)
for number in range(3):
    log.commit(log.append(b"before" * 100))
size = log.size_bytes()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), unlimited[1]))
for number in range(2):
    try:
        log.append_many([b"no room " * 1000] * 3)
        print("accepted")
    except RunError as error:
        print(error)
    assert log.size_bytes() == size, (log.size_bytes(), size)
assert (log.last_lsn, log.committed_lsn) == (3, 3)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
log.commit(log.append(b"there is room again"))
log.close()
"""


@pytest.mark.parametrize(
    ("segment_bytes", "limit", "says"),
    [
        (2**20, 10_000, "24072 bytes could not be written"),  # in the middle of a record
        (600, 10, "could not be begun"),  # at the header of a new segment
    ],
)
def test_a_write_without_room_is_refused_and_a_later_one_works(
    tmp_path, segment_bytes, limit, says
):
    """A limit on the size of a file stands for a full disk: the write fails half-way."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(segment_bytes), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(says in line and "free some space" in line for line in lines), lines
    assert content(tmp_path) == [b"before" * 100] * 3 + [b"there is room again"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_refuses_the_write_and_room_makes_the_next_one_work(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    with WriteAheadLog.open(small_disk / "wal") as log:
        log.commit(log.append(b"kept" * 1000))
        for _ in range(2):
            with pytest.raises(RunError, match=r"No space left.*refused"):
                log.append(bytes(300_000))
        log.commit(log.append(b"small" * 1000))
        ballast.unlink()
        log.commit(log.append(bytes(300_000)))
    assert content(small_disk / "wal") == [b"kept" * 1000, b"small" * 1000, bytes(300_000)]


def test_a_reader_that_reads_while_the_writer_writes_sees_a_prefix(tmp_path):
    log = WriteAheadLog.open(tmp_path, segment_bytes=5000, sync=False)
    done, failures = threading.Event(), []

    def read():
        while not done.is_set():
            numbers = [int(record) for record in content(tmp_path)]
            if numbers != list(range(len(numbers))):
                failures.append(numbers)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1000):
        log.commit(log.append(str(number).encode()))
    done.set()
    reader.join()
    log.close()
    assert failures == []
