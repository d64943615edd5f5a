"""Many submissions: one that dies touches no other, and what is done is done."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, RunError
from common.grading import batch as module
from common.grading.batch import Batch, Fault, Job
from common.grading.fingerprint import fingerprint
from common.grading.model import GradedSubmission, Submission
from common.grading.output_folder import PRIVATE, RESERVED, folder_names, only_one

ROOT = Path(__file__).resolve().parents[2]
POINTS = {"5.1": 3, "5.2": 4}

# A grader of another kind: a submission says what is to happen to the process that grades it.
STAND_IN = """
import os, sys, time
from pathlib import Path
from common.grading.model import GradedExercise, GradedSubmission
from common.grading.worker import connect, serve

connection, setup = connect(int(sys.argv[1]))
if setup["refuse"]:
    sys.exit("the reference fails its own test")

def grade(request):
    said = Path(request["path"], "answer.txt").read_text()
    with open(setup["journal"], "a") as journal:
        journal.write(f"{request['student']} {os.getpid()}\\n")
    if said == "crash":
        os._exit(9)
    if said == "raise":
        raise ValueError("the grader has a fault")
    if said == "hang":
        time.sleep(600)
    status = {"right": "passed"}.get(said, "failed")
    rows = [("5.1", 3), ("5.2", 4)][: 1 if said == "half" else 2]
    exercises = [GradedExercise(i, i, "lab5_tiny", p, status, "") for i, p in rows]
    return GradedSubmission(request["student"], "lab5_tiny", exercises)

serve(connection, grade)
"""

# `course grade` with that grader, as a program: to be interrupted and killed.
PROGRAM = """
import sys
from pathlib import Path
from tests.common.test_grading_batch import grader, jobs

folder = Path(sys.argv[1])
batch = grader(folder, jobs=2)
batch.run(jobs(folder))
"""


def hand_in(folder: Path, **answers: str) -> None:
    for student, answer in answers.items():
        file = folder / "submissions" / student / "answer.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(answer)


def jobs(folder: Path) -> list[Job]:
    paths = sorted((folder / "submissions").iterdir())
    return [Job(Submission(path.name, path), path.name, fingerprint(path)) for path in paths]


def grader(folder: Path, *, refuse: bool = False, **changed: Any) -> Batch:
    script = folder / "stand_in.py"
    script.write_text(STAND_IN)
    out = folder / "grades"
    (out / PRIVATE).mkdir(parents=True, exist_ok=True)

    def publish(graded: Mapping[str, GradedSubmission], faults: Mapping[str, Fault]) -> None:
        (out / "published").write_text(f"{sorted(graded)} {sorted(faults)}")

    setup = {"journal": str(folder / "journal"), "refuse": refuse}
    settings = {"jobs": 1, **changed}
    return Batch(out, POINTS, [sys.executable, str(script)], setup, publish, **settings)


def journal(folder: Path) -> list[str]:
    """Students in the order in which a worker was asked to grade them."""
    file = folder / "journal"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_worker_that_dies_takes_no_other_submission_with_it(tmp_path: Path) -> None:
    """Those before and after get their grades; the dead one has none, not a zero."""
    hand_in(tmp_path, ada="right", bob="crash", cyd="raise", dan="wrong", eve="half", fay="right")
    batch = grader(tmp_path)
    assert batch.run(jobs(tmp_path)) == 0
    scores = {name: each.score for name, each in batch.graded.items()}
    assert scores == {"ada": 7, "dan": 0, "fay": 7}
    reasons = {name: fault.reason for name, fault in batch.faults.items()}
    assert reasons["bob"] == "the grader ended with status 9"
    assert reasons["cyd"].endswith("ValueError: the grader has a fault")
    assert "not of the exercises of this lab" in reasons["eve"]
    assert not (batch.out / "bob" / "results.json").exists()
    results = json.loads((batch.out / "ada" / "results.json").read_text())
    assert results["score"] == 7


def test_a_worker_that_hangs_is_stopped(tmp_path: Path) -> None:
    """One submission that gets past every limit costs its own time, not the batch."""
    hand_in(tmp_path, ada="hang", bob="right")
    batch = grader(tmp_path, deadline_s=1.5)
    batch.run(jobs(tmp_path))
    assert "did not end within 1.5 s" in batch.faults["ada"].reason
    assert batch.graded["bob"].score == 7


def test_a_grader_that_does_not_start_is_one_error(tmp_path: Path) -> None:
    """When the reference fails its own tests no submission is to blame, and none is tried."""
    hand_in(tmp_path, ada="right", bob="right")
    with pytest.raises(RunError, match=r"nothing can be graded: .* the reference fails its own"):
        grader(tmp_path, refuse=True, jobs=2).run(jobs(tmp_path))
    assert journal(tmp_path) == []


def test_an_unchanged_submission_is_not_graded_again(tmp_path: Path) -> None:
    """A second run grades what is new, changed or without a grade, and nothing else."""
    hand_in(tmp_path, ada="right", bob="crash", cyd="wrong")
    grader(tmp_path).run(jobs(tmp_path))
    hand_in(tmp_path, bob="right", cyd="right!", dan="right")
    (tmp_path / "journal").unlink()
    again = grader(tmp_path)
    assert again.run(jobs(tmp_path)) == 1
    assert journal(tmp_path) == ["bob", "cyd", "dan"]
    assert again.faults == {}
    assert {name: each.score for name, each in again.graded.items()} == {
        "ada": 7,
        "bob": 7,
        "cyd": 0,
        "dan": 7,
    }


def test_a_damaged_record_is_graded_again(tmp_path: Path) -> None:
    """What a disk or an editor broke is no grade."""
    hand_in(tmp_path, ada="right", bob="right", cyd="right", dan="right", eve="right")
    grader(tmp_path).run(jobs(tmp_path))
    records = tmp_path / "grades" / PRIVATE / "records"
    whole = (records / "ada.json").read_text()
    damages = {"ada": "", "bob": "{", "cyd": '{"key": 1}', "dan": whole[: len(whole) // 2]}
    for student, damage in damages.items():
        (records / f"{student}.json").write_text(damage)
    again = grader(tmp_path)
    assert again.run(jobs(tmp_path)) == 1
    assert {name: each.score for name, each in again.graded.items()} == {
        "ada": 7,
        "bob": 7,
        "cyd": 7,
        "dan": 7,
        "eve": 7,
    }


def test_a_fault_leaves_no_older_result(tmp_path: Path) -> None:
    """Results of what a student handed in before are no results of what they handed in now."""
    hand_in(tmp_path, ada="right")
    grader(tmp_path).run(jobs(tmp_path))
    hand_in(tmp_path, ada="crash")
    batch = grader(tmp_path)
    batch.run(jobs(tmp_path))
    assert list(batch.faults) == ["ada"]
    assert list((batch.out / "ada").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_after_a_stop(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and ``kill -9`` leave no process, no half-written grade, and nothing to do twice."""
    hand_in(tmp_path, ada="right", bob="right", cyd="hang", dan="hang", eve="right")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    until(lambda: len(journal(tmp_path)) == 4, "two graded, two in hand")
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == -number
    pids = [int(line.split()[1]) for line in (tmp_path / "journal").read_text().splitlines()]
    until(lambda: not any(map(alive, pids)), "no worker is left")
    private = tmp_path / "grades" / PRIVATE
    if number == signal.SIGINT:
        published = (tmp_path / "grades" / "published").read_text()
        assert published == "['ada', 'bob'] ['cyd', 'dan', 'eve']"
        assert list(private.glob("run-*")) == []
    hand_in(tmp_path, cyd="right", dan="wrong")
    (tmp_path / "journal").unlink()
    batch = grader(tmp_path)
    assert batch.run(jobs(tmp_path)) == 2
    assert journal(tmp_path) == ["cyd", "dan", "eve"]
    assert len(batch.graded) == 5
    assert [path.name for path in private.iterdir()] == ["records"]


def until(true: Callable[[], bool], what: str, within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is kept and what to do; with space again the batch goes on."""
    hand_in(tmp_path, ada="right", bob="right")

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_text", full)
        with pytest.raises(RunError, match=r"is full: 0 submissions .* the same command"):
            grader(tmp_path).run(jobs(tmp_path))
    batch = grader(tmp_path)
    batch.run(jobs(tmp_path))
    assert len(batch.graded) == 2


def test_two_batches_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """The second would give out the first one's half."""
    with only_one(tmp_path):
        second = only_one(tmp_path)
        with pytest.raises(InputError, match="another `course grade`"):
            second.__enter__()
    with only_one(tmp_path):
        pass


def test_folders_of_hostile_names_stay_below_the_output() -> None:
    """A name is a student's own choice: no path, no reserved file, no clash, no length limit."""
    names = ["ada", "ADA", "..", "gradebook.html", "a/b", "-rf", "=1+1", "x" * 300, "Søren K."]
    names += ["\u202eexe.ada", "line\nend", "bad\udcff", ".grading", "ada"]
    found = folder_names([Submission(name, Path(f"{n}.zip")) for n, name in enumerate(names)])
    assert len({name.casefold() for name in found}) == len(names), found
    assert found[0] == "ada"
    assert found[8].startswith("S")
    for name in found:
        assert name.isprintable(), name
        assert "/" not in name
        assert name[0] not in ".-=", name
        assert len(name.encode()) <= 80
        assert name not in RESERVED


def test_a_fingerprint_changes_with_the_files_and_follows_nothing(tmp_path: Path) -> None:
    """It reads no pipe, no link and no device: to be hashed must not hang or lead elsewhere."""
    (tmp_path / "secret").write_text("before")
    work = tmp_path / "ada" / "lab5_tiny"
    work.mkdir(parents=True)
    (work / "sums.py").write_text("x = 1")
    (work / "link.py").symlink_to(tmp_path / "secret")
    os.mkfifo(work / "pipe.py")
    with (work / "huge.bin").open("wb") as stream:
        stream.truncate(10 * 2**30)
    found = {fingerprint(tmp_path / "ada", "seed 1")}
    (tmp_path / "secret").write_text("after")
    assert fingerprint(tmp_path / "ada", "seed 1") in found
    found.add(fingerprint(tmp_path / "ada", "seed 2"))
    (work / "sums.py").write_text("x = 2")
    found.add(fingerprint(tmp_path / "ada", "seed 1"))
    (work / "sums.py").rename(work / "other.py")
    found.add(fingerprint(tmp_path / "ada", "seed 1"))
    assert len(found) == 4
