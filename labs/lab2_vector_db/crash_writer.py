"""The process that a crash test kills: it opens, compares, and writes until it is stopped."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from labs.lab2_vector_db.collection import Collection
from labs.lab2_vector_db.reference_model import Model, Operation, compare, operation, perform

Tell = Callable[..., None]


@dataclass
class State:
    """What the parent knows between two rounds."""

    folder: Path
    store: type[Collection]
    seed: int
    writers: int
    power_cuts: bool
    model: Model = field(default_factory=Model)
    in_flight: list[Operation] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)  # by writer, the next operation's number
    typical_s: dict[str, float] = field(default_factory=dict)  # by what a kill is aimed at
    synced: dict[int, int] = field(default_factory=dict)  # bytes on disk, by inode


def write_until_killed(state: State, tell: Tell, *, reader_first: bool, last: bool) -> None:
    """Open, compare, and write, saying each step; the last writer of a test only compares."""
    seen_by_reader = None
    if reader_first or last:
        trial = Model()
        trial.written_by[:], trial.vectors[:] = state.model.written_by, state.model.vectors
        with state.store.open(state.folder, read_only=True) as reader:
            seen_by_reader = compare(reader, trial, state.in_flight)
        if seen_by_reader.any:
            seen_by_reader.first = f"reader: {seen_by_reader.first}"
            return tell("checked", asdict(seen_by_reader))
    started = time.perf_counter()
    collection = state.store.open(state.folder)
    tell("opened", time.perf_counter() - started)
    findings = compare(collection, state.model, state.in_flight)
    if seen_by_reader is not None and seen_by_reader.done != findings.done:
        findings.add("mismatches", 1, f"reader saw {seen_by_reader.done}, writer {findings.done}")
    tell("checked", asdict(findings))
    if findings.any or last:
        return collection.close()

    def stream(first: int) -> None:
        try:
            for number in count(first, state.writers):
                step = operation(state.seed, number, writers=state.writers)
                tell("begin", number, step.kind)
                perform(collection, step)
                tell("done", number)
        except BaseException:
            tell("failed", traceback.format_exc()[-2000:])
            os._exit(1)

    for first in state.begun[1:]:
        threading.Thread(target=stream, args=(first,), daemon=True).start()
    stream(state.begun[0])


def _report_syncs(tell: Tell) -> None:
    """Say after each fsync of this process how many bytes of which file are on disk."""

    def reported(sync: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            status = os.fstat(file)
            sync(file)
            tell("synced", status.st_ino, status.st_size)

        return call

    os.fsync = reported(os.fsync)  # type: ignore[assignment]
    os.fdatasync = reported(os.fdatasync)  # type: ignore[assignment]


def fork(work: Callable[[Tell], None], *, syncs: bool) -> tuple[int, int]:
    """Process id and pipe of a child that does ``work(tell)`` and ends."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.close(write_end)
        return child, read_end

    def tell(kind: str, *values: object) -> None:
        os.write(write_end, (json.dumps([kind, *values]) + "\n").encode())

    def main() -> NoReturn:
        status = 1
        try:
            os.close(read_end)
            if syncs:
                _report_syncs(tell)
            work(tell)
            status = 0
        except BaseException:
            tell("failed", traceback.format_exc()[-2000:])
        finally:
            os._exit(status)

    main()
