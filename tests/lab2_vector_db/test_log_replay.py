import shutil
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from labs.lab2_vector_db import log_replay
from labs.lab2_vector_db.log_replay import FRAME, HEADER, LogTruncated, frame, segment_header

WRITES = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5), ("a", 6)]
NAME = "wal/00000000000000000007.wal"
FIRST = 7


def record_of(write):
    return f"{write[0]}={write[1]}".encode()


def segment(writes=WRITES, first=FIRST):
    """A segment in which each write is a record."""
    frames = (frame(record_of(write), lsn) for lsn, write in enumerate(writes, start=first))
    return segment_header(first) + b"".join(frames)


def start_of(position, writes=WRITES):
    """Byte at which the frame of this write begins."""
    sizes = (FRAME.size + len(record_of(write)) for write in writes[:position])
    return HEADER.size + sum(sizes)


def scan(data, **options):
    return log_replay.scan_segment(data, name=NAME, **{"sealed": False, **options})


def raised(data, **options):
    """The message with which the data is refused, None when it is accepted."""
    try:
        scan(data, **options)
    except RunError as error:
        return str(error)
    return None


def applied(records, state=()):
    """The dictionary that the writes make, in the order in which they come."""
    model = dict(state)
    for _, record in records:
        key, value = bytes(record).decode().split("=")
        model[key] = int(value)
    return model


@pytest.mark.exercise("2.9")
def test_records_come_in_order_so_that_the_last_write_wins():
    """Three writes to one key: after replay it holds the last of them.

    A log is replayed by applying its records one after another. In any other order an old vector
    overwrites its replacement, and the collection is wrong without a sign of it.
    """
    found = scan(segment())
    lsns = [lsn for lsn, _ in found.records]
    assert lsns == [7, 8, 9, 10, 11, 12], f"lsns {lsns}, expected 7 to 12 in this order"
    state = applied(found.records)
    assert state == {"a": 6, "b": 5, "c": 4}, f"state {state}, expected a=6, b=5, c=4"
    assert (found.last_lsn, found.end) == (12, len(segment())), (
        f"last_lsn {found.last_lsn}, end {found.end}; expected 12 and {len(segment())}"
    )


@pytest.mark.exercise("2.9")
def test_records_that_the_snapshot_holds_are_not_applied_again():
    """Replay after lsn 9 gives 10, 11 and 12: neither 9 again, nor one too few.

    A crash may come after the snapshot and before the old log is removed. Then both hold the same
    writes, and replay has to be idempotent: what is applied twice is counted twice, and an upsert
    from before a delete brings the row back.
    """
    for after, expected in ((0, 6), (6, 6), (9, 3), (11, 1), (12, 0), (99, 0)):
        found = scan(segment(), after_lsn=after)
        lsns = [lsn for lsn, _ in found.records]
        wanted = list(range(13 - expected, 13))
        assert lsns == wanted, f"after_lsn={after}: lsns {lsns}, expected {wanted}"
        assert found.last_lsn == 12, (
            f"after_lsn={after}: last_lsn {found.last_lsn}, expected 12: the writer goes on there"
        )


@pytest.mark.exercise("2.9")
def test_a_torn_tail_ends_the_log_without_an_error():
    """The file cut at any byte of the last frame gives the five records before, and their end.

    A process killed while it writes leaves a part of a record. It was not acknowledged, so it
    must not be found; and it is no reason to refuse the records before it. `end` is where the
    writer cuts the file and goes on.
    """
    whole, start = segment(), start_of(5)
    for cut in range(start, len(whole)):
        message = raised(whole[:cut])
        assert message is None, f"cut at byte {cut}: refused ({message}), expected 5 records"
        found = scan(whole[:cut])
        assert len(found.records) == 5, f"cut at byte {cut}: {len(found.records)} records, not 5"
        assert (found.last_lsn, found.end) == (11, start), (
            f"cut at byte {cut}: last_lsn {found.last_lsn}, end {found.end}; expected 11, {start}"
        )


@pytest.mark.exercise("2.9")
def test_a_last_record_whose_pages_did_not_reach_the_disk_is_torn():
    """All bytes of the last frame are there, but some of them are zeros: 5 records.

    After a power cut a file can have its new length before it has its new content. The length
    alone proves nothing; the checksum does.
    """
    whole, start = segment(), start_of(5)
    size = len(whole)
    for first_lost in (start, start + 2, start + FRAME.size, size - 1):
        torn = whole[:first_lost] + bytes(size - first_lost)
        found = scan(torn) if raised(torn) is None else None
        count = None if found is None else len(found.records)
        assert count == 5, f"zeros from byte {first_lost}: {count} records (None: refused), not 5"
        assert found.end == start, f"zeros from byte {first_lost}: end {found.end}, not {start}"


@pytest.mark.exercise("2.9")
def test_damage_before_the_tail_is_refused_with_place_and_way_out():
    """One changed bit in the third of six records: an error, not two records.

    The records behind the damage were acknowledged. To stop at the damage and go on from there
    loses them in silence, and the next write overwrites what could still be saved.
    """
    whole, at = segment(), start_of(2)
    for offset, what in ((0, "magic"), (4, "length"), (8, "lsn"), (16, "crc"), (24, "record")):
        damaged = bytearray(whole)
        damaged[at + offset] ^= 0x10
        message = raised(bytes(damaged))
        assert message is not None, f"damage in the {what} of lsn 9 passed; expected a RunError"
        for part in (NAME, f"byte {at}", "lsn 9", "snapshot"):
            assert part in message, f"damage in the {what}: {part!r} is missing in {message!r}"


@pytest.mark.exercise("2.9")
def test_a_record_that_is_missing_or_twice_is_refused():
    """All checksums match, but lsn 9 is missing; or it is there twice; or in the wrong place.

    A checksum says that a frame is whole, the lsn that it is the right one. A gap is a lost
    write.
    """
    whole = segment()
    cuts = [start_of(position) for position in range(7)]
    pieces = {lsn: whole[start:end] for lsn, start, end in zip(range(7, 13), cuts, cuts[1:])}
    for order in ((7, 8, 10, 11, 12), (7, 8, 9, 9, 10), (7, 9, 8, 10), (8, 9)):
        message = raised(whole[: HEADER.size] + b"".join(pieces[lsn] for lsn in order))
        assert message is not None, f"the log {order} passed; expected a RunError"


@pytest.mark.exercise("2.9")
def test_remainders_of_an_earlier_use_of_the_file_end_the_log():
    """Behind lsn 12 lie whole frames with lsns 3 and 4 from before: they are no records, no error.

    A file that is used again holds its old content behind the new. Every old frame has a valid
    checksum.
    """
    found_before = segment()
    stale = frame(b"a=90", 3) + frame(b"b=91", 4)
    for behind in (stale, b"\0" * 9 + stale, stale[5:]):
        message = raised(found_before + behind)
        assert message is None, f"a remainder was refused: {message}"
        found = scan(found_before + behind)
        assert (found.last_lsn, found.end) == (12, len(found_before)), (
            f"last_lsn {found.last_lsn}, end {found.end}; expected 12 and {len(found_before)}"
        )


@pytest.mark.exercise("2.9")
def test_a_sealed_segment_has_no_torn_tail():
    """A segment that another one follows was complete once: a cut in it is a loss, not a tail."""
    whole = segment()
    assert raised(whole, sealed=True) is None, "a whole sealed segment was refused"
    message = raised(whole[:-1], sealed=True)
    assert message is not None, "a sealed segment that lacks its last byte passed"


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    where=st.integers(0, 10**6),
    bit=st.integers(0, 7),
)
@settings(max_examples=300, deadline=None)
def test_any_flipped_bit_is_found_or_is_the_tail(sizes, where, bit):
    records = [bytes([number]) * size for number, size in enumerate(sizes)]
    frames = [frame(record, lsn) for lsn, record in enumerate(records, start=1)]
    data = bytearray(segment_header(1) + b"".join(frames))
    data[where % len(data)] ^= 1 << bit
    if where % len(data) < HEADER.size or where % len(data) < len(data) - len(frames[-1]):
        assert raised(bytes(data)) is not None
    else:
        assert [bytes(record) for _, record in scan(bytes(data)).records] == records[:-1]


@given(cut=st.integers(0, 10**6))
def test_a_log_cut_anywhere_gives_a_prefix(cut):
    whole = segment()
    cut = HEADER.size + cut % (len(whole) - HEADER.size)
    found = scan(whole[:cut])
    assert [bytes(r) for _, r in found.records] == [
        record_of(w) for w in WRITES[: found.last_lsn - 6]
    ]
    assert found.end <= cut < found.end + FRAME.size + 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:10], "10 bytes"),
        (lambda data: b"SQLite f" + data[8:], "no segment"),
        (lambda data: data[:8] + struct.pack("<I", 9) + data[12:], "version 9"),
        (lambda data: data[:12] + b"\x01" + data[13:], "header's checksum"),
    ],
)
def test_a_header_that_is_wrong_is_refused(change, says):
    message = raised(change(segment()))
    assert message is not None
    assert says in message


@pytest.fixture
def folder(tmp_path):
    """Segments with lsns 1-3, 4-6 and 7-8."""
    for first, count in ((1, 3), (4, 3), (7, 2)):
        writes = [("k", lsn) for lsn in range(first, first + count)]
        (tmp_path / f"{first:020d}.wal").write_bytes(segment(writes, first))
    return tmp_path


def lsns_of(folder, after=0):
    return [lsn for lsn, _ in log_replay.replay(folder, after)]


def test_replay_goes_through_the_segments_and_skips_those_before(folder):
    assert lsns_of(folder) == list(range(1, 9))
    assert lsns_of(folder, 4) == [5, 6, 7, 8]
    assert lsns_of(folder, 8) == []
    (folder / f"{1:020d}.wal").write_bytes(b"damaged, and no longer needed")
    assert lsns_of(folder, 3) == [4, 5, 6, 7, 8]


def test_a_missing_segment_is_refused(folder):
    (folder / f"{4:020d}.wal").unlink()
    with pytest.raises(RunError, match="records between are missing"):
        lsns_of(folder)


def test_a_log_that_begins_after_the_snapshot_is_told_apart(folder):
    (folder / f"{1:020d}.wal").unlink()
    assert lsns_of(folder, 3) == [4, 5, 6, 7, 8]
    with pytest.raises(LogTruncated, match="newest snapshot"):
        lsns_of(folder, 2)


def test_a_log_that_is_gone_or_ends_before_the_snapshot_is_refused(folder):
    with pytest.raises(RunError, match="ends at lsn 8, before the snapshot's 9"):
        lsns_of(folder, 9)
    shutil.rmtree(folder)
    with pytest.raises(RunError, match="no segment"):
        lsns_of(folder)


def test_a_segment_under_another_name_is_refused(folder):
    (folder / f"{1:020d}.wal").rename(folder / f"{2:020d}.wal")
    with pytest.raises(RunError, match="begins at lsn 1, its name says 2"):
        lsns_of(folder, 1)


def test_a_torn_end_is_accepted_in_the_last_segment_only(folder):
    last, earlier = folder / f"{7:020d}.wal", folder / f"{4:020d}.wal"
    last.write_bytes(last.read_bytes()[:-1])
    assert lsns_of(folder) == list(range(1, 8))
    earlier.write_bytes(earlier.read_bytes()[:-1])
    with pytest.raises(RunError, match="lsn 6"):
        lsns_of(folder)
