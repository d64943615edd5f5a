"""Grade one submission: take its files, run each exercise apart, say what was earned and why.

:class:`LabGrader` makes once what all submissions of a lab share (the sandbox, the private tree,
the manifest); its :meth:`LabGrader.grade` may be called from several threads. :func:`grade_one` is
the same for a single submission.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exercises.catalog import Entry, discover, find_exercise, find_lab, read_source
from common.exercises.prerequisites import reached_modules
from common.grading import canaries, carried, feedback, manifest, private_tree
from common.grading.manifest import Manifest
from common.grading.model import GradedExercise, GradedSubmission, Submission
from common.grading.sandbox import Limits, Ran, Sandbox
from common.grading.source_signs import signs
from common.grading.submissions import Taken, take
from common.grading.trusted_environment import environment

HEAVY = {
    "torch": ("torch", "torch._dynamo", "torch.distributed.tensor", "torch.nn.parallel"),
    "faiss": ("faiss",),
    "sklearn": ("sklearn.metrics", "sklearn.ensemble", "sklearn.linear_model"),
    "statsmodels": ("statsmodels.api",),
    "duckdb": ("duckdb",),
    "onnxruntime": ("onnxruntime",),
    "onnx": ("onnx",),
    "fairlearn": ("fairlearn.metrics",),
    "transformers": ("transformers",),
    "matplotlib": ("matplotlib.figure",),
}
"""Libraries worth importing once, when a lab's own code names them."""
RUNS = ".runs"


class LabGrader:
    """Grades submissions of one lab, all by the same manifest.

    Parameters
    ----------
    root
        The instructor's repository.
    lab
        ``lab5_distillation``, ``lab5`` or ``5``.
    secret_seed
        Mixed into every seed the tests draw from; None grades with the public inputs.
    limits
        Of each exercise.
    cache
        Folder where manifests are kept between runs; None keeps none.
    exercises
        Only these; none for all of the lab.
    sandbox
        Options of :class:`~common.grading.sandbox.Sandbox`, such as ``namespaces``.

    Raises
    ------
    InputError
        For an unknown lab or one without exercises.
    RunError
        When the sandbox does not start or the reference fails its own tests in it.
    """

    def __init__(
        self,
        root: Path,
        lab: str,
        *,
        secret_seed: int | None = None,
        limits: Limits | None = None,
        cache: Path | None = None,
        exercises: Sequence[str] = (),
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        self.root = root.resolve()
        self.lab = find_lab(self.root, lab)
        everything = discover(self.root)
        chosen = {find_exercise(everything, given).id for given in exercises}
        self.entries = [
            entry
            for entry in everything
            if entry.lab == self.lab and (not chosen or entry.id in chosen)
        ]
        self._others = [entry for entry in everything if entry.lab != self.lab]
        if not self.entries:
            raise InputError(f"{self.lab} has no exercises")
        if secret_seed is not None and not 0 <= secret_seed < 1 << 31:
            raise InputError(f"the secret seed {secret_seed} must lie in 0 to {(1 << 31) - 1:,}")
        self.secret_seed, self.cache = secret_seed, cache
        self.depends = self._dependencies()
        self.digest = private_tree.digest(self.root, self.lab)
        self._texts = private_tree.lab_text(self.root, self.lab)
        preloaded = [
            module
            for library, modules in HEAVY.items()
            if f"import {library}" in self._texts or f"from {library}" in self._texts
            for module in modules
        ]
        self.torch = "import torch" in self._texts
        self.sandbox = Sandbox(limits, preloaded=preloaded, **(sandbox or {}))

    def _dependencies(self) -> dict[str, list[Entry]]:
        """For each exercise, the others that its code or its tests reach."""
        tests = manifest.nodes_by_exercise(self.root, self.lab)
        found = {}
        for entry in self.entries:
            files = {test.file for test in tests.get(entry.id, [])}
            modules = reached_modules(self.root, entry, files)
            found[entry.id] = [
                each for each in self.entries if each.module in modules and each.id != entry.id
            ]
        return found

    def __enter__(self) -> LabGrader:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.sandbox)
            self.tree = self.sandbox.folder / "tree"
            private_tree.build(self.root, self.lab, self.tree)
            # In a private root nobody sees another run; else the name is a secret.
            private = self.sandbox.private_root
            self.runs = (self.sandbox.folder if private else self.tree) / RUNS
            self.runs.mkdir(mode=0o711)
            self.manifest = self._manifest()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _manifest(self) -> Manifest:
        path = self.cache / f"manifest-{self._name()}.json" if self.cache else None
        if path and (kept := manifest.load(path, self.digest, self.secret_seed)):
            return kept
        reference = {
            f"{entry.lab}/{entry.module}.py": entry.file.read_bytes() for entry in self.entries
        }

        def run(entry: Entry, nodes: Sequence[str], seed: int | None, fixed: Sequence[str]) -> Ran:
            ran, _ = self._run(entry, reference, nodes, seed, fixed)
            return ran

        made = manifest.collect(
            self.root, self.lab, self.entries, self.digest, self.secret_seed, run
        )
        if path:
            manifest.save(made, path)
        return made

    def _name(self) -> str:
        ids = hashlib.sha256(" ".join(entry.id for entry in self.entries).encode()).hexdigest()
        return f"{self.digest[:16]}-{ids[:8]}-{self.secret_seed}"

    def key(self, taken: Taken) -> str:
        """SHA-256 of a submission's files and of what it is graded with."""
        limits = asdict(self.sandbox.limits)
        total = hashlib.sha256(f"{self.digest} {self._name()} {limits}".encode())
        total.update(json.dumps(taken.problems).encode())
        for name, content in sorted(taken.files.items()):
            total.update(f"{name} {len(content)} ".encode() + content)
        return total.hexdigest()

    def take(self, submission: Submission) -> Taken:
        """Read a submission's files; see :func:`common.grading.submissions.take`."""
        return take(submission, self.entries, self._others)

    def grade(self, submission: Submission, taken: Taken | None = None) -> GradedSubmission:
        """The grade of one submission. What is wrong with it is in the grade, never raised.

        Raises
        ------
        RunError
            When the sandbox itself has ended.
        """
        taken = taken or self.take(submission)
        started = time.monotonic()
        graded = GradedSubmission(
            student=submission.student,
            lab=self.lab,
            exercises=[],
            problems=list(taken.problems),
            graded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            sha256=self.key(taken),
        )
        for entry in self.entries:
            exercise, ran = self._grade(entry, taken)
            graded.exercises.append(exercise)
            if ran is not None:
                graded.isolation = graded.isolation or self.sandbox.isolation(ran)
                graded.alerts += [f"{entry.id}: {sign}" for sign in dict.fromkeys(ran.tampering)]
                if ran.ended and not ran.tampering:
                    graded.alerts.append(f"{entry.id}: {ran.ended}")
        self._carry_forward(graded, taken)
        for file in sorted({entry.file for entry in self.entries}):
            name = f"{self.lab}/{file.name}"
            if found := signs(taken.files.get(name, b""), read_source(file)):
                graded.alerts.append(f"{name} reaches for what ours does not: {', '.join(found)}")
        graded.seconds = round(time.monotonic() - started, 2)
        return graded

    def _carry_forward(self, graded: GradedSubmission, taken: Taken) -> None:
        """Run again what failed beside a failed exercise that it builds on."""
        failed = {each.id for each in graded.exercises if each.status == "failed"}
        for at, entry in enumerate(self.entries):
            exercise, name = graded.exercises[at], f"{entry.lab}/{entry.module}.py"
            others = [each for each in self.depends[entry.id] if each.id in failed]
            unwritten = f"NotImplementedError: exercise {entry.id}:" in exercise.feedback
            touched = exercise.reason == feedback.TAMPERED
            if exercise.id not in failed or not others or unwritten or touched:
                continue
            if name not in taken.files or any(
                fault.startswith(f"{name}:") for fault in taken.problems
            ):
                continue
            files = carried.with_reference(taken.files, others)
            again, ran = self._grade(entry, Taken(files))
            if ran is not None and again.status == "passed":
                names = ", ".join(each.id for each in others)
                again.feedback += f", with the course's own solution of {names}, which failed"
                again.seconds = round(again.seconds + exercise.seconds, 2)
                graded.exercises[at] = again

    def _grade(self, entry: Entry, taken: Taken) -> tuple[GradedExercise, Ran | None]:
        name = f"{entry.lab}/{entry.module}.py"
        nodes = self.manifest.tests[entry.id]
        blank = GradedExercise(
            entry.id, entry.title, entry.lab, entry.points, "failed", tests={"failed": len(nodes)}
        )
        if name not in taken.files:
            faults = [fault for fault in taken.problems if fault.startswith(f"{name}:")]
            blank.reason = (
                faults[0] if faults else (taken.problems or [f"{name}: not handed in"])[0]
            )
            blank.feedback = blank.reason
            return blank, None
        if nodes and all(node in self.manifest.not_run for node in nodes):
            waits = Ran(collected=[], complete=True)
            return feedback.judge(entry, nodes, self.manifest.not_run, waits, self.root), None
        bases = list(dict.fromkeys(node.partition("[")[0] for node in nodes))
        ran, watched = self._run(entry, taken.files, bases, self.secret_seed, self.manifest.fixed)
        _check_canaries(ran, watched)
        return feedback.judge(entry, nodes, self.manifest.not_run, ran, self.root), ran

    def _run(
        self,
        entry: Entry,
        files: Mapping[str, bytes],
        nodes: Sequence[str],
        seed: int | None,
        fixed: Sequence[str],
    ) -> tuple[Ran, list[canaries.Canary]]:
        """Run one exercise's tests between canaries, on a copy of the files given."""
        own = self.runs / secrets.token_hex(16)
        work, watch = own / "work", own / "canaries"
        try:
            watch.mkdir(parents=True)
            for name, content in files.items():
                file = work / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            private = self.sandbox.private_root
            cwd = self.root if private else self.tree
            below = private_tree.CANARIES if private else f"{RUNS}/{own.name}/canaries"
            before, after = canaries.write(watch, below, torch=self.torch)
            _open(own)
            data = private_tree.data_folders(private=private)
            task = {
                "cwd": str(cwd),
                "path": [str(cwd), *private_tree.import_path()],
                "env": environment(
                    str(cwd / private_tree.WORK if private else work), data.cache, data.folders
                ),
                "nodes": [
                    before[0].node.partition("::")[0],
                    *nodes,
                    after[0].node.partition("::")[0],
                ],
                "entries": [asdict(entry) | {"file": str(cwd / entry.file.relative_to(self.root))}],
                "secret_seed": seed,
                "fixed": list(fixed),
            }
            binds = [
                (str(self.tree), str(self.root)),
                *((place, place) for place in private_tree.python_folders(self.root)),
                (str(work), str(self.root / private_tree.WORK)),
                (str(watch), str(self.root / private_tree.CANARIES)),
                *data.binds,
            ]
            ran = self.sandbox.run(task, binds)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        watched = [*before, *after]
        known = {canary.node for canary in watched}
        if ran.collected is not None:
            ran.collected = [node for node in ran.collected if node not in known]
        ran.canaries = {
            node: str(ran.results.pop(node)["outcome"]) for node in known & set(ran.results)
        }
        return ran, watched


def _check_canaries(ran: Ran, watched: Sequence[canaries.Canary]) -> None:
    """Add to the signs of tampering what a test with a known answer gave away."""
    for canary in watched:
        outcome = ran.canaries.get(canary.node)
        if outcome is not None and (outcome == "passed") != canary.passes:
            ran.tampering.append(
                f"a comparison that must {'hold' if canary.passes else 'fail'} did not"
            )
    missing = [canary for canary in watched if canary.node not in ran.canaries]
    if ran.complete and missing:
        ran.tampering.append("tests with known answers did not report")


def _open(folder: Path) -> None:
    folder.chmod(0o755)
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            Path(place, name).chmod(0o755 if name in folders else 0o644)


def grade_one(
    root: Path,
    submission: Submission,
    lab: str,
    secret_seed: int | None = None,
    limits: Limits | None = None,
    *,
    cache: Path | None = None,
) -> GradedSubmission:
    """Grade one submission with a sandbox of its own; for many, keep a :class:`LabGrader`."""
    with LabGrader(root, lab, secret_seed=secret_seed, limits=limits, cache=cache) as grader:
        return grader.grade(submission)
