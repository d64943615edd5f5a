"""Kill the writer at random moments, open what it left, and compare with a model in plain numpy.

A process that has imported everything once forks a writer for each round. The writer opens the
collection, compares it with the model, and then does an endless stream of operations, each a pure
function of (seed, number). It says through a pipe when an operation begins and when the call has
returned; the second message is the acknowledgement. The parent kills it with SIGKILL, reads what is
left in the pipe and advances its model by the acknowledged operations. At most one operation a
thread was in flight: the next writer must find it wholly done or not done at all, and everything
else exactly as in the model.

What SIGKILL cannot show: the kernel survives, and so does every byte that was written and not yet
synced. A store that acknowledges before its fsync passes any number of kills. A simulated power cut
shows that: the writer reports each fsync, and after the kill every file loses a random part of what
was written to it since its last one, or finds zeros there. (Renames and removals are taken to be
on disk in the order they were made, as on a journalling file system; bytes inside the synced part
stay.)

``python -m labs.lab2_vector_db.crash_test --kills 200 --power-cuts 50``
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import EXIT_FAILED, EXIT_OK, RunError, exit_status, require
from common.process import supervised
from common.progress import Progress
from labs.lab2_vector_db.collection import Collection
from labs.lab2_vector_db.crash_writer import State, Tell, fork, write_until_killed
from labs.lab2_vector_db.reference_model import (
    KINDS,
    OPTIONS,
    SCHEMA,
    Findings,
    Operation,
    operation,
)

ROOT = Path(__file__).resolve().parents[2]
AIMS = {  # what kills are aimed at: how often, up to which one, and a first guess how long it takes
    "open": (0.1, 1, 0.02),
    "upsert": (0.15, 10, 0.005),
    "delete": (0.05, 5, 0.005),
    "flush": (0.2, 2, 0.02),
    "compact": (0.2, 2, 0.02),
    "acknowledged": (0.1, 16, 0.001),
    "any": (0.2, 1, 0.15),
}
SILENCE_S = 60.0
KILLED = "killed "


@dataclass(frozen=True)
class CrashReport:
    """What the kills showed; every count but the first five must be 0.

    Attributes
    ----------
    kills, power_cuts
        Rounds that ended with SIGKILL; how many of them also lost what was not synced.
    acknowledged
        Operations whose call had returned.
    in_flight_done, in_flight_absent
        Unacknowledged upserts and deletes that were found wholly done, and not done at all. Both
        should occur: the kills then fell on both sides of the moment an operation becomes durable.
    killed_during
        Kills by what was going on.
    lost
        Ids whose acknowledged write was missing, or older than acknowledged.
    phantom
        Ids that were deleted or never written and came back.
    mismatches
        Torn batches, wrong vectors or counts, searches that disagree with brute force, collections
        that do not open.
    first_finding
        The first of these in words. The loop stops there: nothing after it would mean anything.
    reopen_p50_s, reopen_max_s
        Time to open the collection after a kill.
    """

    kills: int
    power_cuts: int
    acknowledged: int
    in_flight_done: int
    in_flight_absent: int
    killed_during: dict[str, int]
    lost: int
    phantom: int
    mismatches: int
    first_finding: str
    reopen_p50_s: float
    reopen_max_s: float

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing phantom, nothing that differs."""
        return not (self.lost or self.phantom or self.mismatches)


@dataclass(frozen=True)
class _Aim:
    """Kill ``share`` of its typical duration after the ``nth`` message of this kind."""

    kind: str
    nth: int
    share: float

    def is_near(self, message: str, kind: object) -> bool:
        """Whether a message counts towards ``nth``."""
        if message == "begin":
            return kind == self.kind
        return (message, self.kind) in {("done", "acknowledged"), ("checked", "any")}


@dataclass
class _Outcome:
    """What a round showed."""

    during: str = "open"
    acknowledged: int = 0
    done: int = 0
    absent: int = 0
    reopen_s: float | None = None
    findings: Findings = field(default_factory=Findings)


def _watch(child: int, pipe: int, aim: _Aim | None, typical_s: dict[str, float]) -> list[Any]:
    """Kill the child at the moment aimed at (None: wait for its end); everything it said."""
    started = time.monotonic()
    kill_at = started + aim.share * typical_s["open"] if aim and aim.kind == "open" else None
    said: list[Any] = []
    began: dict[int, tuple[str, float]] = {}
    nth, rest = 0, b""
    try:
        while True:
            limit = time.monotonic() + SILENCE_S if kill_at is None else kill_at
            if not select.select([pipe], [], [], max(0.0, limit - time.monotonic()))[0]:
                if kill_at is None:
                    raise RunError(f"the writer was silent for {SILENCE_S:.0f} s after {said[-1:]}")
                break
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                break
            now = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for message, *values in map(json.loads, lines):
                said.append([message, *values])
                if message == "begin":
                    began[values[0]] = values[1], now
                elif message == "done":
                    kind, since = began.pop(values[0])
                    typical_s[kind] += 0.2 * (now - since - typical_s[kind])
                elif message == "checked":
                    typical_s["open"] += 0.2 * (now - started - typical_s["open"])
                if aim and aim.is_near(message, values[-1]):
                    nth += 1
                    if nth > aim.nth and kill_at is None:
                        kill_at = now + aim.share * typical_s[aim.kind]
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    while chunk := os.read(pipe, 1 << 16):
        rest += chunk
    os.close(pipe)
    said += [json.loads(line) for line in rest.split(b"\n") if line]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        said.append(["failed", f"the writer died of signal {os.WTERMSIG(status)}"])
    return said


def _cut_power(state: State, rng: np.random.Generator) -> None:
    """Take from each file a random part of what was written after its last fsync."""
    files = {path.stat().st_ino: path for path in state.folder.rglob("*") if path.is_file()}
    for inode, path in files.items():
        size, kept = path.stat().st_size, state.synced.get(inode, 0)
        if size <= kept:
            continue
        torn = kept + int((size - kept) * rng.choice([0.0, rng.random(), 1.0], p=[0.4, 0.4, 0.2]))
        os.truncate(path, torn)
        if rng.random() < 0.5:
            os.truncate(path, size)  # the length is on disk, the bytes are not: zeros
        state.synced[inode] = size


def _round(state: State, rng: np.random.Generator, *, cut: bool, last: bool) -> _Outcome:
    """One writer from fork to kill; advances the model by what it acknowledged."""
    kind = str(rng.choice(list(AIMS), p=[often for often, _, _ in AIMS.values()]))
    nth = int(rng.integers(AIMS[kind][1]))
    aim = None if last else _Aim(kind, nth, float(rng.uniform(0, 1.1)))
    reader_first = bool(rng.random() < 0.2)

    def work(tell: Tell) -> None:
        write_until_killed(state, tell, reader_first=reader_first, last=last)

    outcome = _Outcome()
    begun: dict[int, Operation] = {}
    child, pipe = fork(work, syncs=state.power_cuts)
    for message, *values in _watch(child, pipe, aim, state.typical_s):
        if message == "opened":
            outcome.reopen_s = values[0]
        elif message == "checked":
            outcome.during, outcome.findings = "between operations", Findings(**values[0])
            done = [step for step in state.in_flight if step.number in outcome.findings.done]
            outcome.done, outcome.absent = len(done), len(state.in_flight) - len(done)
            for step in done:
                state.model.apply(step)
            state.in_flight = []
        elif message == "begin":
            begun[values[0]] = operation(state.seed, values[0], writers=state.writers)
            state.begun[values[0] % state.writers] = values[0] + state.writers
        elif message == "done":
            state.model.apply(begun.pop(values[0]))
            outcome.acknowledged += 1
        elif message == "synced":
            state.synced[values[0]] = max(values[1], state.synced.get(values[0], 0))
        else:
            outcome.findings = Findings(mismatches=1, first=f"the writer failed: {values[0]}")
    if begun:
        outcome.during = max((step.kind for step in begun.values()), key=KINDS.index)
    state.in_flight += [step for step in begun.values() if step.ids.size]
    if cut:
        _cut_power(state, rng)
    return outcome


def kill_loop(
    folder: Path,
    *,
    kills: int,
    power_cuts: int = 0,
    seed: int = 0,
    writers: int = 2,
    store: type[Collection] = Collection,
    progress: Callable[[int], None] = lambda done: None,
) -> CrashReport:
    """Create a collection in ``folder`` and kill its writers. Forks: the process must be alone.

    Call :func:`run` from a program that has threads; it starts a process that calls this.

    Parameters
    ----------
    folder
        Must not hold a collection.
    kills
        Rounds that end with SIGKILL.
    power_cuts
        Further rounds, at random places among them, that also lose what was not synced.
    seed
        Of operations and moments. The operations repeat exactly; the moments depend on the clock.
    writers
        Threads of the writing process, of disjoint ids, that share one collection.
    store
        What is tested; a broken subclass shows that the test can fail.
    progress
        Called with the number of kills so far.
    """
    require(min(kills, power_cuts) >= 0, "kills, power_cuts", (kills, power_cuts), "must be >= 0")
    require(kills + power_cuts > 0, "kills", kills, "must be > 0", "try 200")
    require(1 <= writers <= 8, "writers", writers, "must be from 1 to 8", "try 2")
    faiss.omp_set_num_threads(1)  # a fork loses the threads of OpenMP, and the child would wait
    rng = np.random.default_rng([seed, 1])
    state = State(folder, store, seed, writers, power_cuts > 0)
    state.begun = list(range(writers))
    state.typical_s = {kind: seconds for kind, (_, _, seconds) in AIMS.items()}

    def create(tell: Tell) -> None:
        store.create(folder, SCHEMA, **OPTIONS).close()

    child, pipe = fork(create, syncs=power_cuts > 0)
    for message, *values in _watch(child, pipe, None, state.typical_s):
        if message == "failed":
            raise RunError(f"the collection could not be created: {values[0]}")
        state.synced[values[0]] = values[1]
    cuts = rng.permutation(np.arange(kills + power_cuts) < power_cuts)
    outcomes: list[_Outcome] = []
    for cut in [*cuts.tolist(), None]:
        outcomes.append(_round(state, rng, cut=bool(cut), last=cut is None))
        progress(min(len(outcomes), len(cuts)))
        if outcomes[-1].findings.any:
            break
    return _report(outcomes, cuts)


def _report(outcomes: list[_Outcome], cuts: NDArray[np.bool_]) -> CrashReport:
    found = outcomes[-1].findings
    killed = outcomes[:-1]  # the last one ended by itself
    reopen_s = [outcome.reopen_s for outcome in outcomes[1:] if outcome.reopen_s is not None]
    return CrashReport(
        kills=len(killed),
        power_cuts=int(cuts[: len(killed)].sum()),
        acknowledged=sum(outcome.acknowledged for outcome in outcomes),
        in_flight_done=sum(outcome.done for outcome in outcomes),
        in_flight_absent=sum(outcome.absent for outcome in outcomes),
        killed_during=dict(Counter(outcome.during for outcome in killed)),
        lost=found.lost,
        phantom=found.phantom,
        mismatches=found.mismatches,
        first_finding=found.first,
        reopen_p50_s=float(np.median(reopen_s)) if reopen_s else 0.0,
        reopen_max_s=max(reopen_s, default=0.0),
    )


def run(
    folder: Path,
    *,
    kills: int = 200,
    power_cuts: int = 0,
    seed: int = 0,
    writers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> CrashReport:
    """:func:`kill_loop` in a process of its own, which ends with this one, and its report.

    Raises
    ------
    RunError
        When that process fails, or a writer hangs.
    """
    where = str(folder.absolute())
    command = [sys.executable, "-m", "labs.lab2_vector_db.crash_test", where, "--json"]
    command += [f"--kills={kills}", f"--power-cuts={power_cuts}", f"--seed={seed}"]
    lines: list[str] = []
    with supervised([*command, f"--writers={writers}"], cwd=ROOT, name="crash test") as child:
        for line in child.output:
            if line.startswith(KILLED):
                progress(int(line.removeprefix(KILLED)))
            else:
                lines.append(line)
        if child.wait() not in (0, EXIT_FAILED) or not lines or not lines[-1].startswith("{"):
            raise RunError(f"the crash test failed: {''.join(lines[-12:]).strip()}")
    return CrashReport(**json.loads(lines[-1]))


def main(argv: Sequence[str] | None = None, store: type[Collection] = Collection) -> int:
    """Command line; exit status 1 when anything was lost, phantom or different."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, help="new folder (default: a temporary one)"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--power-cuts", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    options = vars(parser.parse_args(argv))
    return exit_status(lambda: _run(options, store))


def _run(options: dict[str, Any], store: type[Collection]) -> int:
    folder, as_json = options.pop("folder"), options.pop("json")
    with (
        tempfile.TemporaryDirectory(prefix="crash-test-") as temporary,
        Progress("kills", options["kills"] + options["power_cuts"]) as bar,
    ):

        def progress(done: int) -> None:
            if as_json:
                print(f"{KILLED}{done}", flush=True)
            else:
                bar.update(done)

        where = folder or Path(temporary) / "collection"
        report = kill_loop(where, store=store, progress=progress, **options)
    fields = asdict(report)
    print(json.dumps(fields) if as_json else "\n".join(f"{k:18}{v}" for k, v in fields.items()))
    return EXIT_OK if report.clean else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
