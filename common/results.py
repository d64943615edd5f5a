"""The results of a run: one schema, written beside and renamed when whole."""

from __future__ import annotations

import errno
import json
import math
import operator
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError

SCHEMA = 1
Op = Literal["<", "<=", ">", ">=", "=="]
FULL = {errno.ENOSPC, errno.EDQUOT}
OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Metric:
    """One measured number. ``value`` is None only with a ``reason``."""

    value: float | int | None
    unit: str
    n: int | None = None
    ci95: tuple[float, float] | None = None
    how: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None:
            if not self.reason:
                raise ValueError("a metric without a value needs a reason")
        elif not math.isfinite(self.value):
            raise ValueError(f"a metric must be finite, not {self.value}; give None and a reason")
        if self.ci95 is not None and not all(map(math.isfinite, self.ci95)):
            raise ValueError(f"an interval must be finite, not {self.ci95}; leave it out")

    def as_json(self) -> dict[str, Any]:
        full = asdict(self)
        kept = {key: full[key] for key in ("value", "unit")}
        kept |= {key: full[key] for key in ("n", "ci95", "how", "reason") if full[key]}
        return kept


@dataclass(frozen=True)
class Claim:
    """What a run may show: ``metric op target``.

    Never green without a measurement: the outcome is None, with a reason, when the metric was not
    measured or was measured at a size the claim does not speak of.
    """

    id: str
    claim: str
    metric: str
    op: Op
    target: float

    def judge(self, metric: Metric | None, unmeasured: str | None) -> dict[str, Any]:
        """The deliverable's entry in results.json.

        Parameters
        ----------
        metric
            The measured metric, or None.
        unmeasured
            Why this scale or machine cannot show the claim, or None when it can.
        """
        measured = None if metric is None else metric.value
        reason = unmeasured or ""
        if measured is None and not reason:
            reason = (metric.reason if metric else "") or f"{self.metric} was not measured"
        passed = None
        if measured is not None and not unmeasured:
            passed = bool(OPERATORS[self.op](measured, self.target))
        return {
            "id": self.id,
            "claim": self.claim,
            "metric": self.metric,
            "op": self.op,
            "target": self.target,
            "measured": measured,
            "passed": passed,
            "reason": reason,
        }


@dataclass
class Results:
    """Everything a run measured, in the order it was measured."""

    lab: str
    scale: str
    device: str
    procs: int
    seed: int
    mine: bool
    config: Any
    hardware: dict[str, Any]
    versions: dict[str, str]
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    data: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    commit: str = field(default_factory=lambda: commit())
    earlier_s: float = 0.0
    """Seconds of earlier processes of this run, which ended before it did."""
    _start: float = field(default_factory=time.monotonic)

    def as_json(self, claims: tuple[Claim, ...]) -> dict[str, Any]:
        unknown = set(self.unmeasured) - {claim.id for claim in claims}
        if unknown:
            raise ValueError(f"reasons for claims that do not exist: {sorted(unknown)}")
        return {
            "schema": SCHEMA,
            "lab": self.lab,
            "scale": self.scale,
            "device": self.device,
            "procs": self.procs,
            "seed": self.seed,
            "started_at": self.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "duration_s": round(self.earlier_s + time.monotonic() - self._start, 1),
            "commit": self.commit,
            "mine": self.mine,
            "hardware": self.hardware,
            "versions": self.versions,
            "data": self.data,
            "config": plain(self.config),
            "metrics": {name: metric.as_json() for name, metric in self.metrics.items()},
            "deliverables": [
                claim.judge(self.metrics.get(claim.metric), self.unmeasured.get(claim.id))
                for claim in claims
            ],
        }


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def commit() -> str:
    """Short hash of the code that runs, with ``-dirty`` for uncommitted changes to it.

    ``unknown`` where the code is no git checkout of its own.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown"
        return git("describe", "--always", "--dirty", "--abbrev=7", "--exclude", "*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is either whole or absent, and safe against a power cut."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text that is either whole or absent, and safe against a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class RunFolder:
    """``<out>/<package>/<UTC time>-<scale>/``, invisible until it is complete.

    Everything is written below ``.<name>.<pid>.partial``; :meth:`publish` renames it and points
    ``latest`` at it. What a killed run left behind is removed by the next one.
    """

    def __init__(self, out: Path, package: str, scale: str, started_at: datetime) -> None:
        self.package = out.resolve() / package
        stamp = started_at.strftime("%Y%m%dT%H%M%SZ")
        self.name = f"{stamp}-{scale}"
        self.partial = self.package / f".{self.name}.{os.getpid()}.partial"
        try:
            self.package.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            (self.partial / "figures").mkdir(parents=True)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise InputError(
                f"--out {out}: cannot write there ({error.strerror}); name a folder you can write"
            ) from error

    def publish(self) -> Path:
        """Rename the complete run into place, move ``latest``, and return the run's folder."""
        final, count = self.package / self.name, 1
        while True:
            try:  # another run may take the name at any moment: renaming is what decides
                self.partial.rename(final)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                count += 1
                final = self.package / f"{self.name}-{count}"
        link = self.package / f".latest.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        link.replace(self.package / "latest")
        return final

    def discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        for folder in self.package.glob(".*.partial"):
            pid = folder.name.split(".")[-2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)
