"""Grade many submissions: by workers that may die, each result kept as it comes.

``<out>/<student>/`` holds what a student may be given. ``<out>/.grading/`` is the instructor's: the
secret seed, and a record of each submission. A record is written last and renamed into place, so
one that is there is whole; the next run grades what has none, or one under another key.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from common.errors import RunError
from common.grading import gradescope, junit
from common.grading.model import GradedSubmission, Submission
from common.grading.output_folder import PRIVATE
from common.grading.text import printable
from common.process import Child, supervised
from common.progress import Progress
from common.results import FULL, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.5
GRACE_S = 5.0
PUBLISH_EVERY_S = 10.0
LONGEST_RECORD = 64 * 2**20
LEAST_FREE = 64 * 2**20
"""Bytes free on the disk of temporary files below which a fault is the disk's."""
NOT_YET = "not graded yet: the grading was stopped; the same command goes on"


@dataclass(frozen=True)
class Fault:
    """A submission that has no grade, for a fault that is the grader's or because of a stop."""

    student: str
    reason: str


@dataclass(frozen=True)
class Job:
    """One submission of the batch; ``folder`` is its name below ``out``."""

    submission: Submission
    folder: str
    key: str


@dataclass
class Batch:
    """How the submissions of one lab are graded.

    Parameters
    ----------
    out
        Where the grades go.
    points
        The points of every exercise of the lab, by id: what each grade must be made of.
    worker
        The command of a worker (:mod:`common.grading.worker`), a descriptor's number left out.
    setup
        What a worker is told of the lab before it is told of submissions.
    publish
        Writes what is about the whole class, from the grades and faults so far, by folder.
    jobs
        How many submissions are graded at the same time.
    deadline_s
        Seconds after which a worker is stopped. A submission has limits below that: this one is
        for a grader that hangs.
    """

    out: Path
    points: Mapping[str, int]
    worker: Sequence[str]
    setup: Mapping[str, Any]
    publish: Callable[[Mapping[str, GradedSubmission], Mapping[str, Fault]], None]
    jobs: int = 1
    deadline_s: float = 3600.0
    graded: dict[str, GradedSubmission] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def private(self) -> Path:
        return self.out / PRIVATE

    def run(self, todo: Sequence[Job]) -> int:
        """Grade every job that has no record under its key; how many were graded before.

        Raises
        ------
        RunError
            When the disk is full, or a worker does not get ready.
        KeyboardInterrupt
            On Ctrl-C, after the processes were stopped and what is graded was published.
        """
        self.graded = {job.folder: kept for job in todo if (kept := self._kept(job)) is not None}
        before = len(self.graded)
        for left in self.private.glob("run-*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        waiting = [job for job in todo if job.folder not in self.graded]
        (self.private / "records").mkdir(parents=True, exist_ok=True)
        self.faults = {job.folder: Fault(job.submission.student, NOT_YET) for job in waiting}
        try:
            for folder, kept in self.graded.items():
                self._hand_out(folder, kept)
            try:
                if waiting:
                    print("preparing: libraries, and the reference's run of its tests", flush=True)
                    self._grade(waiting)
            finally:
                self.publish(self.graded, self.faults)
        except OSError as error:
            if error.errno in FULL:
                raise self._disk_full(self.out) from error
            raise
        return before

    def _grade(self, waiting: Sequence[Job]) -> None:
        queue, workers = deque(waiting), list[_Worker]()
        published = time.monotonic()
        try:
            with Progress("graded", len(waiting)) as bar:
                while queue or workers:
                    # The first to get ready makes what the others then find.
                    if len(workers) < min(self.jobs, len(queue)) and all(w.ready for w in workers):
                        workers.append(self._start())
                    heard = wait([each.connection for each in workers], POLL_S)
                    for each in list(workers):
                        if each.connection in heard or self._is_late(each):
                            text, usable = self._receive(each)
                            if not usable or not self._give(each, queue):
                                workers.remove(each)
                                each.end()
                            in_hand = sum(each.job is not None for each in workers)
                            bar.update(len(waiting) - len(queue) - in_hand, text)
                    if time.monotonic() - published > PUBLISH_EVERY_S:
                        self.publish(self.graded, self.faults)
                        published = time.monotonic()
        finally:
            if workers:  # an interrupt or an error: all at once, not one grace after the other
                with ThreadPoolExecutor(len(workers)) as pool:
                    list(pool.map(lambda each: each.stack.close(), workers))

    def _start(self) -> _Worker:
        stack = ExitStack()
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="run-", dir=self.private)))
        ours, theirs = Pipe()
        stack.enter_context(ours)
        with theirs:
            child = stack.enter_context(
                supervised(
                    [*self.worker, str(theirs.fileno())],
                    log=folder / "log.txt",
                    cwd=ROOT,  # never a folder that may hold a submission's modules
                    name="grader",
                    grace_s=GRACE_S,
                    pass_fds=[theirs.fileno()],
                )
            )
        worker = _Worker(child, ours, stack)
        worker.tell(self.setup)
        return worker

    def _give(self, worker: _Worker, queue: deque[Job]) -> bool:
        worker.job = queue.popleft() if queue else None
        if worker.job is None:
            return False
        submission = worker.job.submission
        told = {"student": submission.student, "problem": submission.problem}
        worker.tell(told | {"path": str(submission.path.absolute())})
        return True

    def _is_late(self, worker: _Worker) -> bool:
        return time.monotonic() - worker.since > self.deadline_s

    def _receive(self, worker: _Worker) -> tuple[str, bool]:
        """Keep a grade or note a fault: a line that says so, and whether the worker goes on."""
        job, student = worker.job, ""
        try:
            if self._is_late(worker) and not worker.connection.poll():
                raise TimeoutError(f"the grader did not end within {self.deadline_s:g} s")
            written = worker.connection.recv_bytes(LONGEST_RECORD)
            if job is None:
                worker.ready = True
                return "", True
            student = printable(job.submission.student)
            graded = self._read(written, job)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            worker.child.stop()
            reason = worker.why(error)
            if shutil.disk_usage(gettempdir()).free < LEAST_FREE:
                raise self._disk_full(Path(gettempdir())) from error
            if job is None:
                raise RunError(f"nothing can be graded: {reason}") from error
            self._note_fault(job, reason)
            return f"{student}: could not be graded", False
        self._hand_out(job.folder, graded)
        write_json(self._record(job), {"key": job.key, **graded.as_json()})
        self.graded[job.folder] = graded
        del self.faults[job.folder]
        return f"{student}: {graded.score} of {graded.max_score}", True

    def _note_fault(self, job: Job, reason: str) -> None:
        self.faults[job.folder] = Fault(job.submission.student, reason)
        for stale in ("results.json", "junit.xml"):  # of what was handed in or asked for before
            (self.out / job.folder / stale).unlink(missing_ok=True)

    def _hand_out(self, folder: str, graded: GradedSubmission) -> None:
        theirs = self.out / folder
        theirs.mkdir(exist_ok=True)
        write_json(theirs / "results.json", gradescope.results(graded))
        write_text(theirs / "junit.xml", junit.as_junit([graded]))

    def _kept(self, job: Job) -> GradedSubmission | None:
        """The grade of an earlier run, when it was of the same files, tree, seed and limits."""
        try:
            written = self._record(job).read_bytes()
            return self._read(written, job) if json.loads(written)["key"] == job.key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # there is none, or it is of another version

    def _read(self, written: bytes, job: Job) -> GradedSubmission:
        graded = GradedSubmission.from_json(json.loads(written))
        if {each.id: each.points for each in graded.exercises} != dict(self.points):
            raise ValueError(f"the grade of {job.folder} is not of the exercises of this lab")
        return graded

    def _record(self, job: Job) -> Path:
        return self.private / "records" / f"{job.folder}.json"

    def _disk_full(self, where: Path) -> RunError:
        return RunError(
            f"the disk of {where} is full: {len(self.graded)} submissions are graded and kept; "
            "free some space and give the same command again"
        )


@dataclass
class _Worker:
    """A process that grades one submission after the other, and the one it has in hand."""

    child: Child
    connection: Connection
    stack: ExitStack
    ready: bool = False
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)

    def tell(self, message: Mapping[str, Any]) -> None:
        self.since = time.monotonic()
        with suppress(BrokenPipeError):  # it has just died: what is received next says so
            self.connection.send_bytes(json.dumps(message).encode())

    def why(self, error: Exception) -> str:
        """Why there is no answer, with the last line of the log."""
        reason = str(error)
        if isinstance(error, EOFError | ConnectionError):
            reason = f"the grader ended with status {self.child.poll()}"
        return printable(f"{reason}: {self.child.tail(1)}".removesuffix(": "), 400)

    def end(self) -> None:
        """Let it end by itself, which an idle worker does when the connection closes."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(GRACE_S)
        self.stack.close()
