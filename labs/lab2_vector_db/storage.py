"""A collection's files: made, opened, swept, and brought up to date from the log."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import RunError, require
from labs.lab2_vector_db.durable import disk_errors, lock_for_writing, sync
from labs.lab2_vector_db.log_replay import replay
from labs.lab2_vector_db.manifest import (
    MANIFEST,
    Manifest,
    Options,
    Schema,
    read_manifest,
    write_manifest,
)
from labs.lab2_vector_db.memtable import Memtable
from labs.lab2_vector_db.segments import SEGMENTS, open_segment, read_tombstones
from labs.lab2_vector_db.snapshot import LiveSegment, Snapshot
from labs.lab2_vector_db.tombstones import alive
from labs.lab2_vector_db.write_ahead_log import WriteAheadLog
from labs.lab2_vector_db.writes import Upsert, Write, decode

WAL = "wal"
LOADING = "loading"  # a bulk load that is under way, or was killed and can go on


@dataclass(frozen=True)
class Opened:
    """A manifest and the segments it names, before the log is replayed."""

    manifest: Manifest
    segments: tuple[LiveSegment, ...]


def create(root: Path, schema: Schema, options: Options) -> None:
    """Make the files of an empty collection.

    Raises
    ------
    InputError
        For a path that is no folder or holds something.
    RunError
        When there is no room.
    """
    with disk_errors("making the collection", root):
        if root.exists():
            require(root.is_dir(), "path", str(root), "must be a folder")
            found = sorted(each.name for each in root.iterdir())
            require(not found, "path", str(root), f"must be an empty folder, has {found[:3]}")
        root.mkdir(parents=True, exist_ok=True)
        release = lock_for_writing(root)
        try:
            (root / SEGMENTS).mkdir()
            WriteAheadLog.open(root / WAL).close()
            write_manifest(root, Manifest(schema, options))
            sync(root)
            sync(root.parent)
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
        finally:
            release()


def open_log(root: Path, manifest: Manifest) -> WriteAheadLog:
    """The log of an existing collection, open for writing.

    Raises
    ------
    RunError
        When it is gone or damaged: with it went acknowledged writes.
    """
    if not any((root / WAL).glob("*.wal")):
        raise RunError(
            f"{root / WAL} holds no log, though {MANIFEST} expects one after write {manifest.lsn}; "
            "restore a copy of it"
        )
    return WriteAheadLog.open(root / WAL, sync=manifest.options.sync)


def open_files(
    root: Path,
    *,
    verify: bool = False,
    manifest: Manifest | None = None,
    known: Iterable[LiveSegment] = (),
) -> Opened:
    """Open all segments that the manifest names; those already known are not opened again.

    Raises
    ------
    InputError
        When there is no collection.
    RunError
        When a file is missing, cut short or changed; names it.
    """
    manifest = manifest or read_manifest(root)
    open_already = {live.segment.name: live.segment for live in known}
    segments = []
    for entry in manifest.segments:
        try:
            segment = open_already.get(entry.name) or open_segment(
                root, manifest.schema, entry, every_byte=verify
            )
            bits, n_alive = read_tombstones(root, entry)
        except FileNotFoundError as error:
            raise RunError(
                f"{error.filename} is missing, though {root / MANIFEST} names it; restore a copy"
            ) from error
        segments.append(LiveSegment(segment, bits, n_alive))
    return Opened(manifest, tuple(segments))


def replayed(opened: Opened, writes: Iterable[tuple[int, Write]]) -> tuple[Memtable, Snapshot]:
    """The memtable and snapshot after the writes that came behind the manifest."""
    schema = opened.manifest.schema
    memtable = Memtable(schema.dimension, schema.fields)
    snapshot = Snapshot(
        schema, opened.segments, memtable.view(), opened.manifest.lsn, opened.manifest.generation
    )
    for lsn, write in writes:
        snapshot, _ = apply(snapshot, memtable, write, lsn)
    return memtable, snapshot


def records(root: Path, after_lsn: int) -> Iterator[tuple[int, Write]]:
    """The writes in the log behind ``after_lsn``; the log is not changed."""
    return ((lsn, decode(record)) for lsn, record in replay(root / WAL, after_lsn))


def apply(snapshot: Snapshot, memtable: Memtable, write: Write, lsn: int) -> tuple[Snapshot, int]:
    """The snapshot after a write, and for a delete how many rows it removed.

    Tombstones go on the older versions, wherever they are; the memtable gets the new ones.
    """
    removed = 0
    segments = []
    for live in snapshot.segments:
        rows = live.rows_of(write.ids)
        rows = rows[rows >= 0]
        segments.append(live.bury(rows))
        removed += rows.size
    if isinstance(write, Upsert):
        memtable.append(write.ids, write.vectors, write.payload)
    else:
        view = snapshot.memtable
        if len(view):
            removed += int(alive(view.alive, view.rows_of(write.ids)).sum())
        memtable.bury(write.ids)
    after = replace(snapshot, segments=tuple(segments), memtable=memtable.view(), lsn=lsn)
    return after, removed


def log_bytes(root: Path) -> int:
    """Bytes of the log; a segment that the writer removes meanwhile counts as nothing."""
    total = 0
    for path in (root / WAL).glob("*.wal"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def sweep(root: Path, manifest: Manifest) -> None:
    """Remove what no manifest names: the remains of a crash. For the writer, when it opens."""
    named = {entry.name: entry for entry in manifest.segments}
    for folder in (root / SEGMENTS).iterdir():
        if folder.name not in named:
            shutil.rmtree(folder)
            continue
        kept = named[folder.name].tombstones
        for file in folder.glob("tombstones-*"):
            if kept is None or file.name != kept.file:
                file.unlink()
