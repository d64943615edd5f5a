"""What a write-ahead log looks like on disk, and how it is read after a crash.

A log is a folder of segment files, each named by the log sequence number (lsn) of its first
record. A segment is a header and frames, one a record:

    header  magic | version | first lsn | crc
    frame   magic | length  | lsn       | crc | record

The crc of a frame covers its lsn as well as the record, and lsns have no gaps: bytes that an
earlier life of the file left behind never pass for the next record. Reading changes nothing;
:mod:`labs.lab2_vector_db.write_ahead_log` is the writer's side.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError
from common.exercises import exercise

VERSION = 1
HEADER = struct.Struct("<8sIQI")  # magic, version, first lsn, crc of these three
HEADER_MAGIC = b"LABSWAL\n"
FRAME = struct.Struct("<4sIQQ")  # magic, length of the record, lsn, crc; 24 bytes as the header
FRAME_MAGIC = b"\xf5rec"
WAY_OUT = "restore the collection's last snapshot, which holds what came before"


class LogTruncated(RunError):
    """The log begins after the records asked for: a newer snapshot holds them."""


@dataclass(frozen=True)
class Scan:
    """What a segment holds.

    ``records`` are those asked for, as (lsn, record); ``last_lsn`` is the lsn of the segment's
    last complete record (one below its first lsn when it has none), and ``end`` the offset in
    bytes at which that record ends.
    """

    records: list[tuple[int, memoryview]]
    last_lsn: int
    end: int


def frame_crc(record: bytes | memoryview, lsn: int) -> int:
    """The checksum of a frame: CRC-32 of the record, then of magic, length and lsn."""
    return finish_crc(zlib.crc32(record), len(record), lsn)


def finish_crc(crc: int, length: int, lsn: int) -> int:
    """The second half of :func:`frame_crc`, for a writer that learns the lsn last."""
    return zlib.crc32(struct.pack("<4sIQ", FRAME_MAGIC, length, lsn), crc)


def segment_header(first_lsn: int) -> bytes:
    """The header of a segment that begins with this lsn."""
    head = struct.pack("<8sIQ", HEADER_MAGIC, VERSION, first_lsn)
    return head + struct.pack("<I", zlib.crc32(head))


def frame(record: bytes, lsn: int) -> bytes:
    """A whole frame."""
    return FRAME.pack(FRAME_MAGIC, len(record), lsn, frame_crc(record, lsn)) + record


def read_header(data: bytes, *, name: str) -> int:
    """The first lsn of a segment, from its header.

    Raises
    ------
    RunError
        For a header that is cut short, damaged, or of another version.
    """
    if len(data) < HEADER.size:
        raise RunError(f"{name} has {len(data)} bytes, a header has {HEADER.size}; {WAY_OUT}")
    magic, version, first_lsn, crc = HEADER.unpack_from(data)
    if magic != HEADER_MAGIC:
        raise RunError(f"{name} is no segment of a log (it begins with {magic!r}); {WAY_OUT}")
    if version != VERSION:
        raise RunError(f"{name} has format version {version}, this code reads {VERSION}")
    if crc != zlib.crc32(data[: HEADER.size - 4]):
        raise RunError(f"{name}: the header's checksum does not match; {WAY_OUT}")
    return int(first_lsn)


@exercise(
    "2.9",
    points=10,
    title="Replay a write-ahead log after a crash",
    hint="Write one helper that says whether a complete frame with an lsn you accept begins at an "
    "offset. Walk with it; where it first says no, use it once more on everything behind: is "
    "there a good frame after the bad one? `data.find(FRAME_MAGIC, start)` gives candidates.",
)
def scan_segment(data: bytes, *, name: str, sealed: bool, after_lsn: int = 0) -> Scan:
    """Read the records of one segment, in order, up to the last complete one.

    Frames follow the header (``read_header`` checks it and gives the first lsn; it has
    ``HEADER.size`` bytes) without gaps. A frame is ``FRAME`` (magic, length, lsn, crc) and then
    ``length`` bytes of record. It is *good* when all of it is there, the magic is
    ``FRAME_MAGIC``, and the crc is ``frame_crc(record, lsn)``. The lsn of the first frame is the
    header's, and each further frame has the next one.

    The first place where no good frame with the expected lsn begins is one of these:

    - the end: nothing is left;
    - a **torn tail**: the process died while it wrote, so this record was never acknowledged.
      Stop before it, without an error. A good frame with a *smaller* lsn than expected is a
      remainder from an earlier use of the file, and ends the log as well;
    - **corruption**: a good frame with an lsn not below the expected one begins at this offset or
      anywhere behind it. Something that had been written whole is damaged, perhaps acknowledged;
      to stop silently would lose it and all that follows.

    A sealed segment was completed before the next one was begun. It has no torn tail: anything
    but the end is corruption.

    Parameters
    ----------
    data
        The whole file.
    name
        Its path, for messages.
    sealed
        Whether another segment follows.
    after_lsn
        The records up to this lsn are checked like all others but not returned: the snapshot
        holds them, and replay on top of it must apply each write once.

    Returns
    -------
    Scan
        Records with an lsn above ``after_lsn``, oldest first, so that applying them in order lets
        the last write to an id win. Views into ``data``, not copies.

    Raises
    ------
    RunError
        For corruption; names the file, the offset and lsn of the damage, and the way out
        (``WAY_OUT``).

    Examples
    --------
    >>> whole, torn = frame(b"a write", 7), frame(b"another", 8)[:-1]
    >>> scan = scan_segment(segment_header(7) + whole + torn, name="x.wal", sealed=False)
    >>> [(lsn, bytes(record)) for lsn, record in scan.records], scan.last_lsn, scan.end
    ([(7, b'a write')], 7, 55)

    References
    ----------
    Mohan et al.: ARIES, TODS 1992, section 3 (log sequence numbers, redo by lsn).
    """
    view = memoryview(data)

    def good_frame(at: int) -> tuple[int, memoryview] | None:
        if at + FRAME.size > len(view):
            return None
        magic, length, lsn, crc = FRAME.unpack_from(view, at)
        record = view[at + FRAME.size : at + FRAME.size + length]
        whole = magic == FRAME_MAGIC and len(record) == length and crc == frame_crc(record, lsn)
        return (lsn, record) if whole else None

    expected, offset = read_header(data, name=name), HEADER.size
    records: list[tuple[int, memoryview]] = []
    while (found := good_frame(offset)) is not None and found[0] == expected:
        lsn, record = found
        if lsn > after_lsn:
            records.append((lsn, record))
        expected, offset = lsn + 1, offset + FRAME.size + len(record)
    candidate = data.find(FRAME_MAGIC, offset)
    damaged = sealed and offset < len(data)
    while candidate >= 0 and not damaged:
        found = good_frame(candidate)
        damaged = found is not None and found[0] >= expected
        candidate = data.find(FRAME_MAGIC, candidate + 1)
    if damaged:
        raise RunError(
            f"{name}: the record at byte {offset} (lsn {expected}) is damaged, and it is not the "
            f"end of the log; {WAY_OUT}"
        )
    return Scan(records, expected - 1, offset)


def replay(folder: str | os.PathLike[str], after_lsn: int = 0) -> Iterator[tuple[int, memoryview]]:
    """The records after ``after_lsn``, oldest first, up to the last complete one.

    Changes nothing, so that a reader may call it while the writer writes; it may then see records
    whose fsync has not returned yet. Each segment is checked whole before its first record comes.

    Parameters
    ----------
    folder
        Of the log.
    after_lsn
        The last lsn that the caller's snapshot holds.

    Yields
    ------
    (lsn, record)

    Raises
    ------
    LogTruncated
        When the log begins after ``after_lsn + 1``: the caller's snapshot is older than the
        writer's. Read the manifest again.
    RunError
        For corruption, for a missing segment, and for a log that ends before ``after_lsn``.
    """
    segments = segments_of(Path(folder))
    if not segments:
        raise RunError(f"{folder} holds no segment of a log, the snapshot expects one; {WAY_OUT}")
    if segments[0][0] > after_lsn + 1:
        raise LogTruncated(
            f"{folder} begins at lsn {segments[0][0]}, after the lsn {after_lsn + 1} asked for; "
            "read the newest snapshot, which holds the records before"
        )
    last_lsn = 0
    for position, (first_lsn, path) in enumerate(segments):
        following = segments[position + 1][0] if position + 1 < len(segments) else None
        if following is not None and following <= after_lsn + 1:
            continue
        scan = scan_file(path, first_lsn, following, after_lsn)
        last_lsn = scan.last_lsn
        yield from scan.records
    if last_lsn < after_lsn:
        raise RunError(
            f"{folder} ends at lsn {last_lsn}, before the snapshot's {after_lsn}: it is not the "
            "log of this snapshot, or its end is lost; restore both from one copy"
        )


def segments_of(folder: Path) -> list[tuple[int, Path]]:
    """The segments of a log, oldest first, as (first lsn, path)."""
    found = folder.glob("*.wal")
    return sorted((int(path.stem), path) for path in found if path.stem.isdigit())


def scan_file(path: Path, first_lsn: int, following: int | None, after_lsn: int) -> Scan:
    """Scan one file, and check that it is the segment between its name and the next one.

    ``following`` is the first lsn of the next segment, None for the last.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise LogTruncated(
            f"{path} was removed while it was to be read; read the newest snapshot"
        ) from error
    found = read_header(data, name=str(path))
    if found != first_lsn:
        raise RunError(f"{path} begins at lsn {found}, its name says {first_lsn}; {WAY_OUT}")
    sealed = following is not None
    scan = scan_segment(data, name=str(path), sealed=sealed, after_lsn=after_lsn)
    if following is not None and scan.last_lsn + 1 != following:
        raise RunError(
            f"{path} ends at lsn {scan.last_lsn}, the next segment begins at {following}: "
            f"records between are missing; {WAY_OUT}"
        )
    return scan
