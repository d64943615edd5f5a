"""The reading side of a collection: no lock, beside a writer that replaces files."""

from __future__ import annotations

import threading
from pathlib import Path

from common.errors import RunError
from labs.lab2_vector_db.log_replay import LogTruncated
from labs.lab2_vector_db.manifest import read_manifest
from labs.lab2_vector_db.snapshot import LiveSegment
from labs.lab2_vector_db.storage import apply, open_files, records, replayed

ATTEMPTS = 100


class Reader:
    """What a read-only collection sees; ``snapshot`` changes with :meth:`refresh` only."""

    def __init__(self, root: Path, *, verify: bool = False) -> None:
        self._root, self._verify = root, verify
        self._refreshing = threading.Lock()
        self._open(())

    def _open(self, known: tuple[LiveSegment, ...]) -> None:
        """Open manifest, segments and log as they belong together.

        The writer may replace the manifest after we read it and remove the files it named, or
        shorten the log while we list it. What is missing then is no damage, and we begin again.
        """
        for attempt in range(1, ATTEMPTS + 1):
            manifest = read_manifest(self._root)
            try:
                opened = open_files(self._root, verify=self._verify, manifest=manifest, known=known)
                memtable, snapshot = replayed(opened, records(self._root, manifest.lsn))
            except RunError as error:
                moved = read_manifest(self._root).generation != manifest.generation
                if attempt < ATTEMPTS and (moved or isinstance(error, LogTruncated)):
                    continue
                raise
            self.manifest, self._memtable, self.snapshot = manifest, memtable, snapshot
            return

    def refresh(self) -> bool:
        """See what was written since; True when there was anything.

        Raises
        ------
        RunError
            When a file is missing or damaged; what was seen before stays.
        """
        with self._refreshing:
            before = snapshot = self.snapshot
            if read_manifest(self._root).generation == self.manifest.generation:
                try:
                    for lsn, write in records(self._root, before.lsn):
                        snapshot, _ = apply(snapshot, self._memtable, write, lsn)
                    self.snapshot = snapshot
                    return snapshot.lsn != before.lsn
                except RunError:
                    pass  # shortened just now, as a rule; what is damaged, _open meets again
            self._open(before.segments)
            return (self.snapshot.generation, self.snapshot.lsn) != (before.generation, before.lsn)

    def close(self) -> None:
        """Nothing to let go of: files are unmapped with the last snapshot."""
