"""From a folder of submissions to grades: what ``course grade`` does, step by step."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from common.errors import EXIT_FAILED, EXIT_OK, InputError, require
from common.exercises.catalog import Entry, discover, find_lab, lab_folders
from common.grading import gradebook, grades_csv, junit, private_tree, submissions
from common.grading.batch import Batch, Fault, Job
from common.grading.fingerprint import fingerprint
from common.grading.model import GradedExercise, GradedSubmission, Submission
from common.grading.output_folder import PRIVATE, folder_names, only_one
from common.results import commit, write_json, write_text

WORKER = [sys.executable, "-m", "common.grading.worker"]
LARGEST_SEED = (1 << 31) - 1
LONGEST_S = 86_400
LEAST_MB, MOST_MB = 256, 1 << 20
MB_A_JOB = 3072
"""Memory that a grader of a lab with torch takes: the machine's decides on ``--jobs``."""
LARGEST_LISTING = 16 * 2**20
DEEPEST = 3
SPARE_S = 60.0


@dataclass(frozen=True)
class Request:
    """The arguments of ``course grade``; None leaves the choice to it."""

    root: Path
    submissions: Path
    lab: str | None
    out: Path
    jobs: int | None
    secret_seed: int | None
    timeout_s: float
    memory_mb: int
    reset: bool

    def check(self) -> None:
        """Raise :class:`InputError` for what cannot be."""
        require(self.jobs is None or self.jobs >= 1, "--jobs", self.jobs, "must be at least 1")
        seed = self.secret_seed
        within = seed is None or 0 <= seed <= LARGEST_SEED
        require(within, "--secret-seed", seed, f"must lie in 0 to {LARGEST_SEED:,}")
        within = 1 <= self.timeout_s <= LONGEST_S
        require(within, "--timeout", self.timeout_s, f"must lie in 1 to {LONGEST_S:,} seconds")
        within = LEAST_MB <= self.memory_mb <= MOST_MB
        require(within, "--memory", self.memory_mb, f"must lie in {LEAST_MB} to {MOST_MB:,} MB")
        out, given = self.out.resolve(), self.submissions.resolve()
        if out.is_relative_to(given) or given.is_relative_to(out):
            raise InputError(f"--out {self.out} and {self.submissions} lie in each other; name two")


def grade_class(request: Request) -> int:
    """Grade, write and say what came out; the exit status."""
    request.check()
    root, out = request.root, request.out
    found = submissions.find(request.submissions)
    lab = find_lab(root, request.lab) if request.lab else only_lab(root, found)
    entries = [entry for entry in discover(root) if entry.lab == lab]
    if not entries:
        raise InputError(f"{lab} has no exercises")
    with only_one(out):
        kept = _settle(out, lab, request)
        limits = {
            "exercise_s": request.timeout_s,
            "test_s": request.timeout_s / 3,
            "memory_mb": request.memory_mb,
        }
        tree = private_tree.digest(root, lab)
        what = (tree, str(kept["secret_seed"]), json.dumps(limits))
        todo = [
            Job(each, folder, fingerprint(each.path, each.problem, *what))
            for each, folder in zip(found, folder_names(found))
        ]
        sealed = hashlib.sha256(f"{kept['salt']} {kept['secret_seed']}".encode()).hexdigest()
        seed_hash = f"sha256 {sealed}"

        def publish(graded: Mapping[str, GradedSubmission], faults: Mapping[str, Fault]) -> None:
            about = gradebook.About(
                lab=lab,
                title=title(root, lab),
                finished_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                seed_hash=seed_hash,
                tree_hash=f"sha256 {tree}",
                commit=commit(),
            )
            write_class(out, entries, about, graded, faults)

        batch = Batch(
            out=out,
            points={entry.id: entry.points for entry in entries},
            worker=WORKER,
            setup={
                "root": str(root),
                "lab": lab,
                "secret_seed": kept["secret_seed"],
                "limits": limits,
                "cache": str((out / PRIVATE / "manifests").resolve()),
            },
            publish=publish,
            jobs=request.jobs or machine_jobs(),
            deadline_s=len(entries) * (request.timeout_s + SPARE_S),
        )
        print(f"{lab}: {len(found)} submissions, {len(entries)} exercises", flush=True)
        recorded = out / PRIVATE / "batch.json"
        print(f"secret seed {kept['secret_seed']}, kept in {recorded}", flush=True)
        try:
            before = batch.run(todo)
        except KeyboardInterrupt:
            done = f"{len(batch.graded)} of {len(found)} submissions are graded and kept"
            print(f"\nstopped: {done} ({out / 'gradebook.html'}); the same command goes on")
            raise
        _say(out, batch, before)
        return EXIT_FAILED if batch.faults else EXIT_OK


def write_class(
    out: Path,
    entries: Sequence[Entry],
    about: gradebook.About,
    graded: Mapping[str, GradedSubmission],
    faults: Mapping[str, Fault],
) -> None:
    """Write what is about the whole class: ``grades.csv``, ``junit.xml``, ``gradebook.html``."""
    ordered = {folder: graded[folder] for folder in sorted(graded)}
    missing = [faults[folder] for folder in sorted(faults)]
    exercises = [
        GradedExercise(entry.id, entry.title, entry.lab, entry.points, "not run")
        for entry in entries
    ]
    without = [(fault.student, about.lab) for fault in missing]
    write_text(out / "grades.csv", grades_csv.as_csv(list(ordered.values()), without))
    write_text(out / "junit.xml", junit.as_junit(list(ordered.values())))
    page = gradebook.render(ordered, missing, exercises, about)
    write_text(out / "gradebook.html", page)


def only_lab(root: Path, found: Sequence[Submission]) -> str:
    """The one lab that the submissions hold; :class:`InputError` when there is none, or several."""
    labs = [folder.name for folder in lab_folders(root)]
    held: dict[str, int] = {}
    for each in found:
        for lab in _folders(each.path) & set(labs):
            held[lab] = held.get(lab, 0) + 1
    if len(held) == 1:
        return next(iter(held))
    if not held:
        raise InputError(
            f"no submission holds a folder of a lab; give --lab, one of {', '.join(labs)}"
        )
    named = ", ".join(f"{lab} ({held[lab]})" for lab in labs if lab in held)
    raise InputError(f"the submissions hold {named}; one lab is graded at a time: give --lab")


def _folders(path: Path) -> set[str]:
    """Names of the upper folders of a submission, links not followed; none when unreadable."""
    found: set[str] = set()
    try:
        if path.is_symlink():
            return found
        if path.is_dir():
            for place, folders, _ in os.walk(path):
                found.update(folders)
                if len(Path(place).relative_to(path).parts) >= DEEPEST - 1:
                    folders.clear()
        elif path.stat().st_size <= LARGEST_LISTING:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    found.update(PurePosixPath(name).parts[:DEEPEST])
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return set()
    return found


def machine_jobs() -> int:
    """As many as there are cores, and memory for."""
    import psutil

    memory = psutil.virtual_memory().available >> 20
    return max(1, min(len(os.sched_getaffinity(0)), memory // MB_A_JOB))


def title(root: Path, lab: str) -> str:
    """The heading of a lab's lesson."""
    folder = next(folder for folder in lab_folders(root) if folder.name == lab)
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line[2:].strip() for line in lines if line.startswith("# ")), lab)


def _settle(out: Path, lab: str, request: Request) -> dict[str, Any]:
    """The lab and the secret seed of this output folder: kept from before, or new."""
    file = out / PRIVATE / "batch.json"
    kept: dict[str, Any] = {}
    if request.reset:
        file.unlink(missing_ok=True)
        shutil.rmtree(out / PRIVATE / "records", ignore_errors=True)
    elif file.is_file():
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            recorded = (kept["lab"], int(kept["secret_seed"]), str(kept["salt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} is damaged ({error}); give --reset to grade all again"
            ) from error
        if recorded[0] != lab:
            raise InputError(
                f"--out {out} holds grades of {recorded[0]}, not of {lab}; name another folder"
            )
    seed = request.secret_seed
    if seed is None:
        seed = kept.get("secret_seed", secrets.randbelow(LARGEST_SEED + 1))
    settled = {
        "schema": 1,
        "lab": lab,
        "secret_seed": seed,
        "salt": kept.get("salt", secrets.token_hex(16)),
    }
    if settled != kept:
        write_json(file, settled)
    return settled


def _say(out: Path, batch: Batch, before: int) -> None:
    graded = list(batch.graded.values())
    print(
        f"graded {len(graded) - before} now, {before} before; without a grade: {len(batch.faults)}"
    )
    if graded:
        shares = [100 * each.score / each.max_score for each in graded]
        print(
            f"median {median(shares):.0f} % of the points; "
            f"with all points: {sum(share == 100 for share in shares)}; "
            f"with problems in the files: {sum(each.broken for each in graded)}; "
            f"with a module left out: {sum(bool(each.left_out) for each in graded)}; "
            f"with alerts: {sum(bool(each.alerts) for each in graded)}"
        )
    waiting = sorted({x.id for each in graded for x in each.exercises if x.status == "not run"})
    if waiting:
        print(f"not run on this machine, so without points: {', '.join(waiting)}")
    for fault in batch.faults.values():
        print(f"  {fault.student!r}: {fault.reason}")
    print(f"see {out / 'gradebook.html'} and {out / 'grades.csv'}")
