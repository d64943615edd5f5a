"""An access log: one JSON object a line, without what people wrote.

Metrics say *that* one request in a hundred is slow; the log says *which*: its id, version, batch
and the time it spent in every stage. It is written on the hot path of a server, so:

- :meth:`AccessLog.write` makes the line (some microseconds) and appends it to a queue in memory. A
  thread writes the queue out every ``flush_s``; the event loop never waits for a disk. When the
  disk stalls, the queue fills and lines are dropped, counted, and the count is logged.
- The file is opened for appending and gets whole lines in one ``write``. What was queued (at most
  ``flush_s``) is lost when the process is killed; half a line can stay only if the machine died,
  and the next start ends it. :func:`read` skips and counts such lines.
- Sampling goes by the request's id, so that all services keep the same requests. Errors and slow
  requests are always kept, and every line says with which probability it was (``sample``): without
  that weight, percentiles of such a log are far too high.
- The text of a request is never written: its length, and a keyed hash to recognise repetitions. A
  plain hash of "what is my balance" is found by hashing a list of likely sentences.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import threading
import zlib
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from common.errors import InputError, require

if TYPE_CHECKING:
    import pandas as pd

NEVER = frozenset({"authorization", "body", "headers", "password", "payload", "token"})
"""Fields that are refused: they hold secrets or what people wrote."""
ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
LONGEST = 256
"""Characters of a value; a client chooses its request id, and could fill the disk with it."""


class AccessLog:
    """A log of requests. Safe to call from any thread; close it, or use it as a context.

    Parameters
    ----------
    target
        A file to append to, or an open text stream (``sys.stdout``), which is flushed, not closed.
    sample
        Share of the ordinary requests that are kept, in (0, 1].
    slow_ms
        A request with a ``total_ms`` above this is always kept.
    key
        Of the texts' hashes; by default a new one, so that hashes compare within one process.
    most_bytes, backups
        The file is renamed to ``<name>.1`` (and 1 to 2, ...) when the next batch of lines would
        exceed ``most_bytes``; beyond ``backups`` the oldest goes.
    flush_s
        Seconds between two writes: what a kill can lose.
    most_queued
        Lines in memory at most.

    Raises
    ------
    InputError
        A parameter is out of its range.
    """

    def __init__(
        self,
        target: Path | str | IO[str],
        *,
        sample: float = 1.0,
        slow_ms: float = math.inf,
        key: bytes | None = None,
        most_bytes: int = 64 * 2**20,
        backups: int = 3,
        flush_s: float = 0.25,
        most_queued: int = 20_000,
    ) -> None:
        require(0 < sample <= 1, "sample", sample, "must be in (0, 1]")
        require(flush_s > 0, "flush_s", flush_s, "must be > 0")
        require(most_queued >= 1, "most_queued", most_queued, "must be >= 1")
        self.sample = sample
        self.slow_ms = slow_ms
        self.dropped = 0
        """Lines that were not written, since the start."""
        self._key = secrets.token_bytes(16) if key is None else key
        self._sink: _File | _Stream
        if isinstance(target, str | Path):
            self._sink = _File(Path(target), most_bytes, backups)
        else:
            self._sink = _Stream(target)
        self._queue: deque[str] = deque()
        self._most_queued = most_queued
        self._flush_s = flush_s
        self._said = 0
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, **fields: Any) -> bool:
        """Log one request; False when it was not sampled, or dropped.

        Parameters
        ----------
        fields
            Numbers, strings, booleans or None: ``request_id``, ``model``, ``version``, ``status``,
            ``queue_ms``, ``input_ms``, ``compute_ms``, ``output_ms``, ``total_ms``,
            ``batch_size``, ``client``. ``time`` (UTC), ``level`` (from the status) and ``event``
            ("request") are added. ``text`` becomes ``text_chars`` and ``text_hash``.

        Raises
        ------
        InputError
            A field of :data:`NEVER`, or one that is no number, string, boolean or None.
        """
        status = fields.get("status", 200)
        kept_for_sure = (
            status >= 400
            or fields.get("level") in ("warning", "error")
            or fields.get("total_ms", 0.0) > self.slow_ms
        )
        if not kept_for_sure and not _chosen(str(fields.get("request_id", "")), self.sample):
            return False
        level = "error" if status >= 500 else "warning" if status >= 400 else "info"
        line: dict[str, Any] = {"time": _now(), "level": level, "event": "request"}
        for name, value in fields.items():
            if name == "text":
                line |= self._described(value)
            elif name in NEVER:
                raise InputError(f"field {name!r} never goes into a log; leave it out")
            else:
                line[name] = _plain(name, value)
        line["sample"] = 1.0 if kept_for_sure else self.sample
        if len(self._queue) >= self._most_queued or self._closed:
            self.dropped += 1
            return False
        self._queue.append(ENCODE(line))
        return True

    def flush(self) -> None:
        """Write out what is queued; returns when it is in the file."""
        with self._writing:
            lines = [self._queue.popleft() for _ in range(len(self._queue))]
            if (dropped := self.dropped) > self._said:
                event = {"time": _now(), "level": "error", "event": "dropped"}
                lines.append(ENCODE(event | {"lines": dropped - self._said}))
                self._said = dropped
            if lines and not self._sink.write(lines):
                self.dropped += len(lines)

    def close(self) -> None:
        """Write what is queued and end the thread. What is logged later is dropped."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush()
        self._sink.close()

    def __enter__(self) -> AccessLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._wake.wait(self._flush_s):
            self.flush()

    def _described(self, text: str) -> dict[str, Any]:
        raw = text.encode("utf-8", errors="replace")
        digest = hashlib.blake2b(raw, key=self._key, digest_size=8)
        return {"text_chars": len(text), "text_hash": digest.hexdigest()}


class _File:
    """A file of whole lines that is rotated by size."""

    def __init__(self, path: Path, most_bytes: int, backups: int) -> None:
        require(most_bytes >= 1, "most_bytes", most_bytes, "must be >= 1")
        require(backups >= 1, "backups", backups, "must be >= 1")
        self.path, self.most_bytes, self.backups = path, most_bytes, backups
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        if self.size and not _ends_with_newline(path):
            self.write([""])  # ends the line that a crash cut

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o640)
        self.size = os.fstat(self.descriptor).st_size

    def write(self, lines: list[str]) -> bool:
        data = "".join(line + "\n" for line in lines).encode()
        try:
            if self.size and self.size + len(data) > self.most_bytes:
                self._rotate()
            written = os.write(self.descriptor, data)
            if written < len(data):  # the disk is full: no half line stays
                os.ftruncate(self.descriptor, self.size)
                return False
        except OSError:
            return False  # counted by the caller; requests go on without their log
        self.size += len(data)
        return True

    def _rotate(self) -> None:
        for number in range(self.backups - 1, 0, -1):
            older = _backup(self.path, number)
            if older.exists():
                older.replace(_backup(self.path, number + 1))
        self.path.replace(_backup(self.path, 1))
        os.close(self.descriptor)
        self._open()

    def close(self) -> None:
        os.close(self.descriptor)


class _Stream:
    """Somebody else's stream."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, lines: list[str]) -> bool:
        try:
            self.stream.write("".join(line + "\n" for line in lines))
            self.stream.flush()
        except OSError:
            return False
        return True

    def close(self) -> None:
        pass


def read(path: Path) -> pd.DataFrame:
    """A log as a table, its rotated files first.

    Returns
    -------
    DataFrame
        A row a line, oldest first. ``attrs["broken"]`` is the number of lines that were no JSON
        object (cut by a crash) and are left out.

    Raises
    ------
    InputError
        There is no such log.
    """
    import pandas as pd

    numbers = [
        int(number)
        for each in path.parent.glob(f"{path.name}.*")
        if (number := each.suffix[1:]).isdigit()
    ]
    files = [_backup(path, number) for number in sorted(numbers, reverse=True)]
    if path.exists():
        files.append(path)
    if not files:
        raise InputError(f"no log at {path}")
    rows, broken = [], 0
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if isinstance(row, dict):
                    rows.append(row)
                else:
                    broken += 1
    table = pd.DataFrame(rows)
    table.attrs["broken"] = broken
    return table


def weighted_quantile(values: ArrayLike, sample: ArrayLike, q: float) -> float:
    """The q-quantile of all requests, from those that a sampled log kept.

    A line that was kept with probability ``sample`` stands for ``1 / sample`` requests (Horvitz and
    Thompson 1952). Of a log that keeps 1 % and all slow requests, the plain p99 is the p99 of
    mostly slow requests.

    Parameters
    ----------
    values, sample : arrays of shape [n], n >= 1
        For example the columns ``total_ms`` and ``sample`` of :func:`read`.
    q
        In [0, 1].

    Returns
    -------
    float
        The smallest value such that values above it have a share of at most 1 - q.

    Raises
    ------
    InputError
        No values, or shapes that differ, or a probability outside (0, 1].
    """
    values, sample = np.asarray(values, dtype=np.float64), np.asarray(sample, dtype=np.float64)
    require(values.ndim == 1 and values.size > 0, "values", values.shape, "must be [n], n >= 1")
    require(sample.shape == values.shape, "sample", sample.shape, f"must be {values.shape}")
    require(bool(np.all((sample > 0) & (sample <= 1))), "sample", sample.min(), "must be in (0, 1]")
    require(0 <= q <= 1, "q", q, "must be in [0, 1]")
    order = np.argsort(values, kind="stable")
    weight = np.cumsum(1 / sample[order])
    place = int(np.searchsorted(weight, q * weight[-1] * (1 - 1e-12)))
    return float(values[order][min(place, len(values) - 1)])


def joined(client: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """Put what the client measured beside what the server logged, by ``request_id``.

    Parameters
    ----------
    client
        ``request_id`` and ``total_ms``, unique ids.
    log
        Of :func:`read`.

    Returns
    -------
    DataFrame
        A row a request that is in both: the log's columns, ``client_ms``, and ``outside_ms``, the
        time that the server did not see (network, kernel queues, the client itself).
    """
    named = client[["request_id", "total_ms"]].rename(columns={"total_ms": "client_ms"})
    both = log.merge(named, on="request_id", validate="one_to_one")
    return both.assign(outside_ms=both["client_ms"] - both["total_ms"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _chosen(request_id: str, sample: float) -> bool:
    """Whether a request is in the sample: the same answer for an id, everywhere."""
    return sample >= 1 or zlib.crc32(request_id.encode("utf-8", errors="replace")) < sample * 2**32


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + "..."
    if isinstance(value, float):  # NumPy's float64 too
        return round(float(value), 4) if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, np.floating):
        return _plain(name, float(value))
    if isinstance(value, np.integer):
        return int(value)
    raise InputError(f"field {name!r} is a {type(value).__name__}; log numbers and strings only")


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
