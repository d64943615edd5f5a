"""A watchdog in every rank: when the job stops, each says where it is, and then it ends.

A hang has no error. Left alone, the ranks wait for the timeout of the process group, ten minutes
(NCCL) or thirty (gloo), and then die of a timeout in an innocent line. With the watchdog each rank
writes, within seconds,

``rank-N.json``
    the Flight Recorder's collectives, the process groups, and the main thread's Python stack;
``torchfrtrace/rank_N``
    the same for torch's own analyser: ``torchfrtrace FOLDER/torchfrtrace --prefix rank_``;
``rank-N.stacks.txt``
    Python stacks written from C when no Python could run: the process crashed, or code that holds
    the interpreter's lock kept the watchdog's thread from running.

:mod:`labs.lab1_fsdp_advanced.debugging` reads them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from common.errors import require
from labs.lab1_fsdp_advanced.flight_recorder import Frame, flight_record, frames_of

POLL_S = 0.1


class Watchdog:
    """Ends this rank with a record when ``beat`` is not called for ``timeout_s`` seconds.

    It also does so when another rank has left a record in the folder (all of them are needed), and
    when torchrun stops this one (SIGTERM) because another has failed. A block that is left by an
    exception leaves a record too. Each rank waits up to ``grace_s`` for the records of the others,
    since the first to end makes torchrun stop them all. Use it in the main thread.

    Parameters
    ----------
    folder
        One for the run, the same for all ranks; ranks that do not share it see less of each other.
    rank, world
    timeout_s
        Longer than the slowest step: the first one (compilation), or one that saves a checkpoint.

    Examples
    --------
    >>> with Watchdog(folder, ranks.rank, ranks.world, timeout_s=300) as watchdog:
    ...     fit(..., on_step=lambda step, result: watchdog.beat())
    """

    def __init__(
        self, folder: Path, rank: int, world: int, *, timeout_s: float, grace_s: float = 3.0
    ) -> None:
        require(timeout_s > 0, "timeout_s", timeout_s, "must be > 0")
        self.folder, self.rank, self.world = folder, rank, world
        self.timeout_s, self.grace_s = timeout_s, grace_s
        self._stopped, self._recorded = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._stacks: IO[str]
        self._began = self._last = 0.0

    def __enter__(self) -> Watchdog:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(self.rank).unlink(missing_ok=True)
        self._stacks = self._path(self.rank, ".stacks.txt").open("w", encoding="utf-8")
        faulthandler.enable(self._stacks)
        # A handler in Python runs when the main thread is back in Python, in a hang never. The
        # descriptor is written from C at once, and the watchdog's thread reads it.
        self._signals, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        self._descriptor = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._began = time.time()
        self.beat()
        self._thread.start()
        return self

    def beat(self) -> None:
        """A step is done."""
        self._last = time.monotonic()
        # From C, for when no Python can run. It comes after the watchdog's thread has had its
        # chance, which cancels it, and before the other ranks end.
        faulthandler.dump_traceback_later(
            self.timeout_s + self.grace_s / 2, exit=True, file=self._stacks
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if isinstance(error, Exception):
            message = (str(error).splitlines() or [""])[0]
            walked = [(frame, line) for frame, line in traceback.walk_tb(trace)]
            self._record(f"{type(error).__name__}: {message}", frames_of(reversed(walked)))
            self._wait_for_others()
        signal.signal(signal.SIGTERM, self._handler)
        signal.set_wakeup_fd(self._descriptor)
        os.close(self._signals)
        os.close(self._wakeup)
        self._close_stacks()

    def _path(self, rank: int, ending: str = ".json") -> Path:
        return self.folder / f"rank-{rank}{ending}"

    def _watch(self) -> None:
        others = [rank for rank in range(self.world) if rank != self.rank]
        while not self._stopped.is_set():
            if select.select([self._signals], [], [], POLL_S)[0]:
                if signal.SIGTERM in os.read(self._signals, 64):
                    self._end("stopped by SIGTERM, as torchrun does when another rank fails", 143)
                continue
            quiet = time.monotonic() - self._last
            if quiet > self.timeout_s:
                self._end(f"RunError: no progress for {quiet:.1f} s", 1)
            for rank in filter(self._has_stopped, others):
                self._end(f"RunError: rank {rank} has stopped", 1)

    def _has_stopped(self, rank: int) -> bool:
        """Whether that rank left a record in this run (not in an earlier one)."""
        for path in (self._path(rank), self._path(rank, ".stacks.txt")):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if found.st_size and found.st_mtime >= self._began:
                return True
        return False

    def _end(self, reason: str, status: int) -> NoReturn:
        faulthandler.cancel_dump_traceback_later()
        try:
            main_thread = sys._current_frames()[threading.main_thread().ident or 0]
            self._record(reason, frames_of(traceback.walk_stack(main_thread)))
            if status == 1:
                self._wait_for_others()
            self._close_stacks()
        except Exception:  # the folder is gone, or the disk full: end all the same
            traceback.print_exc()
        # torch marks a rank's own errors so, and common.launch looks for the mark.
        os.write(2, f"[rank{self.rank}]: {reason}; records in {self.folder}\n".encode())
        os._exit(status)

    def _record(self, reason: str, stack: list[Frame]) -> None:
        if not self._recorded.acquire(blocking=False):
            return
        found = flight_record()
        identity = {"rank": self.rank, "world": self.world, "reason": reason, "stack": stack}
        self._for_torchfrtrace(found)
        partial = self._path(self.rank, ".partial")
        partial.write_text(json.dumps(identity | found), encoding="utf-8")
        partial.replace(self._path(self.rank))

    def _for_torchfrtrace(self, found: dict[str, Any]) -> None:
        """torch's analyser knows one backend a group, and looks its groups up by name."""
        nccl = [e for e in found["entries"] if e["profiling_name"].startswith("nccl")]
        unnamed = {"name": "", "desc": "", "ranks": list(range(self.world))}
        groups = [unnamed, *found["groups"]]
        dump = {
            "version": found["version"],
            "entries": nccl or found["entries"],
            "pg_config": {
                group["name"]: group | {"ranks": str(group["ranks"])} for group in groups
            },
            "pg_status": {},
        }
        folder = self.folder / "torchfrtrace"
        folder.mkdir(exist_ok=True)
        (folder / f"rank_{self.rank}").write_bytes(pickle.dumps(dump))

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + self.grace_s
        others = [rank for rank in range(self.world) if rank != self.rank]
        while time.monotonic() < deadline and not all(map(self._has_stopped, others)):
            time.sleep(POLL_S / 2)

    def _close_stacks(self) -> None:
        faulthandler.disable()
        self._stacks.close()
        path = self._path(self.rank, ".stacks.txt")
        if not path.stat().st_size:
            path.unlink()
