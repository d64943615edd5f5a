"""A whole run as its own process: exit status, what it writes, and what it never leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunError
from common.latency import LatencySummary
from common.runner import Run, _named, _published

ROOT = Path(__file__).resolve().parents[2]
STORY = '''
import os, sys, tempfile, time
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, RunError
from common.runner import Claim, Run, main


@dataclass(frozen=True)
class Config:
    mode: str = "pass"
    """What the story does."""


def story(run: Run, config: Config) -> None:
    with run.stage("Make a number"):
        (run.dir / "artefact.txt").write_text("kept")
        (run.work / "scratch.txt").write_text("not kept")
        print("work", run.work, flush=True)
        run.metric("area.a", 0.25 if config.mode == "miss" else 0.75, unit="ratio", n=4)
        run.note("a note")
    if config.mode == "sleep":
        print("sleeping", flush=True)
        time.sleep(120)
    elif config.mode == "input":
        raise InputError("steps = 0 must be > 0")
    elif config.mode == "run":
        raise RunError("the server died (log: x.log)")
    elif config.mode == "crash":
        raise ZeroDivisionError("a bug")
    elif config.mode == "full":
        with open("/dev/full", "w") as stream:
            stream.write("x")
    elif config.mode == "big":
        (run.dir / "big").write_bytes(bytes(2_000_000))
    elif config.mode == "unsolved":
        raise NotImplementedError("exercise 9.1: Make a number")
    elif config.mode == "overlay":
        from labs.lab6_online_eval import assignment
        run.note(f"assignment from {assignment.__file__}")


main(
    os.environ.get("TINY_LAB", "lab9_tiny"),
    {"smoke": Config(), "standard": Config(), "full": Config()},
    story,
    title="Lab 9: tiny",
    claims=(
        Claim("T.a", "a above 0.5", "area.a", ">", 0.5),
        Claim("T.b", "b below 1", "area.b", "<", 1),
    ),
    reading=("a book",),
)
'''


class Lab:
    """The tiny lab in a folder of its own, run as a learner runs one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "runs" / "lab9_tiny"
        self.script = folder / "story.py"
        self.script.write_text(STORY)
        self.env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        self.env.pop("LABS_WORK", None)
        (folder / "tmp").mkdir()

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.script), "--device", "cpu", "--procs", "1", *arguments],
            cwd=self.folder,
            env=self.env | options.pop("env", {}),
            text=True,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            preexec_fn=options.pop(
                "preexec_fn", lambda: signal.signal(signal.SIGINT, python_ctrl_c)
            ),
            **options,
        )

    def run(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, out or "", err

    def results(self) -> dict[str, Any]:
        return json.loads((self.package / "latest" / "results.json").read_text())

    def left(self) -> list[str]:
        """Everything of the package, hidden or not, and what stayed in the temporary folder."""
        package = os.listdir(self.package) if self.package.exists() else []
        return sorted([*package, *os.listdir(self.folder / "tmp")])


python_ctrl_c = signal.default_int_handler


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def one_line(err: str) -> str:
    assert err.count("\n") == 1, f"one line is due, not {err!r}"
    assert err.startswith("error: ")
    return err.removeprefix("error: ").rstrip()


def test_a_run_writes_its_folder_and_ends_with_the_scorecard(lab: Lab) -> None:
    status, out, err = lab.run("--scale", "smoke", "--seed", "3")
    assert (status, err) == (0, "")
    stamp = os.readlink(lab.package / "latest")
    assert lab.left() == [stamp, "latest"], "the temporary folder goes, the run stays"
    written = sorted(
        str(p.relative_to(lab.package / stamp)) for p in (lab.package / stamp).rglob("*")
    )
    assert written == ["artefact.txt", "config.json", "figures", "report.html", "results.json"]
    results = lab.results()
    assert (results["scale"], results["seed"], results["procs"], results["mine"]) == (
        "smoke",
        3,
        1,
        False,
    )
    assert results["config"] == json.loads((lab.package / stamp / "config.json").read_text())
    assert [row["passed"] for row in results["deliverables"]] == [True, None]
    assert results["metrics"]["time.make_a_number_s"]["unit"] == "s"
    for part in ("T.a", "passed", "not shown", "area.b was not measured", f"{stamp}/report.html"):
        assert part in out, f"{part!r} is not on the terminal"


@pytest.mark.parametrize(
    ("mode", "status", "message"),
    [
        ("input", 2, "steps = 0 must be > 0"),
        ("run", 1, "the server died (log: x.log)"),
        ("full", 1, "No space left on device: nothing was published"),
    ],
)
def test_a_story_that_fails_leaves_one_line_and_no_folder(
    lab: Lab, mode: str, status: int, message: str
) -> None:
    assert lab.run()[0] == 0
    before = lab.left()
    answer, _, err = lab.run("--mode", mode)
    assert answer == status
    assert one_line(err) == message
    assert lab.left() == before


def test_a_bug_keeps_its_traceback_and_leaves_no_folder(lab: Lab) -> None:
    status, _, err = lab.run("--mode", "crash")
    assert status == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: a bug" in err
    assert lab.left() == []


def test_the_traceback_of_an_expected_error_is_there_on_request(lab: Lab) -> None:
    _, _, err = lab.run("--mode", "run", env={"LABS_TRACEBACK": "1"})
    assert "Traceback" in err
    assert err.endswith("error: the server died (log: x.log)\n")


def test_a_full_disk_under_the_run_folder_leaves_nothing_half_written(lab: Lab) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    status, _, err = lab.run("--mode", "big", preexec_fn=limit)
    assert status == 1
    assert one_line(err) == "File too large: nothing was published"
    assert lab.left() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_file_system_without_room_is_one_line_and_status_1(lab: Lab) -> None:
    small = lab.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a file system")
    try:
        status, _, err = lab.run("--mode", "big", "--out", str(small))
        assert status == 1
        assert one_line(err) == "No space left on device: nothing was published"
        assert os.listdir(small / "lab9_tiny") == []
        (small / "filler").write_bytes(bytes(4096))
        with (
            (small / "filler").open("ab", buffering=0) as filler,
            pytest.raises(OSError, match="space"),
        ):
            while True:
                filler.write(bytes(4096))
        status, _, err = lab.run("--out", str(small))
        assert status == 1
        assert "No space left on device" in one_line(err)
        assert os.listdir(small / "lab9_tiny") == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_terminal_that_takes_no_output_is_one_line(lab: Lab) -> None:
    with open("/dev/full", "w") as full:
        status, _, err = lab.run(stdout=full)
    assert status == 1
    assert one_line(err) == "No space left on device: nothing was published"
    assert lab.left() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(
    lab: Lab, how: signal.Signals
) -> None:
    assert lab.run()[0] == 0
    before, latest = lab.left(), os.readlink(lab.package / "latest")
    process = lab.start("--mode", "sleep")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("sleeping"):
            break
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert one_line(err) == "interrupted: nothing was written, nothing is left running"
    assert (lab.left(), os.readlink(lab.package / "latest")) == (before, latest)
    assert lab.run()[0] == 0
    assert os.readlink(lab.package / "latest") != latest


def test_a_run_killed_with_sigkill_is_cleaned_up_by_the_next(lab: Lab) -> None:
    process = lab.start("--mode", "sleep")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("sleeping"):
            break
    process.kill()
    process.communicate(timeout=30)
    assert [name for name in os.listdir(lab.package) if not name.startswith(".")] == []
    assert lab.run()[0] == 0
    assert sorted(os.listdir(lab.package)) == sorted(
        [os.readlink(lab.package / "latest"), "latest"]
    )


def test_a_missed_deliverable_is_a_result_and_only_strict_fails_on_it(lab: Lab) -> None:
    assert lab.run("--mode", "miss")[0] == 0
    assert [row["passed"] for row in lab.results()["deliverables"]] == [False, None]
    status, _, err = lab.run("--mode", "miss", "--strict")
    assert (status, err) == (1, "")
    assert len(lab.left()) == 3, "a strict run that missed is still a complete run"
    assert lab.run("--strict")[0] == 0, "not shown is not missed"


def test_out_that_cannot_be_used_is_bad_input(lab: Lab) -> None:
    (lab.folder / "file").write_text("")
    status, out, err = lab.run("--out", "file/runs")
    assert (status, out) == (2, "")
    assert one_line(err) == "--out = 'file/runs' is below file, which is a file; name a folder"
    status, _, err = lab.run("--out", "/proc/runs")
    assert status == 2
    assert "--out /proc/runs: cannot write there" in one_line(err)
    assert "name a folder you can write" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_without_permission_is_bad_input(lab: Lab) -> None:
    (lab.folder / "closed").mkdir(mode=0o500)
    status, _, err = lab.run("--out", "closed")
    assert status == 2
    assert "Permission denied" in one_line(err)


def test_mine_without_solutions_is_bad_input(lab: Lab) -> None:
    (lab.folder / "empty").mkdir()
    status, _, err = lab.run("--mine", env={"LABS_WORK": "empty"})
    assert status == 2
    assert one_line(err).startswith("--mine: no solution of lab9_tiny in ")
    assert "course start" in err
    assert lab.left() == []


def test_your_own_file_is_run_and_the_terminal_results_and_report_say_so(lab: Lab) -> None:
    """A figure of your code must never pass for one of the reference, nor the other way round."""
    own = lab.folder / "solutions" / "lab6_online_eval" / "assignment.py"
    own.parent.mkdir(parents=True)
    own.write_text('"""My own."""\n')
    (own.parent / "notes.py").write_text("# replaces nothing of ours")
    lab.package = lab.folder / "runs" / "lab6_online_eval"
    status, out, err = lab.run(
        "--mode",
        "overlay",
        "--mine",
        env={"LABS_WORK": "solutions", "TINY_LAB": "lab6_online_eval"},
    )
    assert (status, err) == (0, "")
    named = "solutions/lab6_online_eval/assignment.py"
    assert f"running your code: {named}\n" in out
    assert "This run used your own code" in out
    assert lab.results()["mine"] is True
    page = (lab.package / "latest" / "report.html").read_text()
    assert "This run used the learner's own code" in page
    assert f"<code>{named}</code>" in page
    assert f"assignment from {own}" in page, "our file ran in place of the learner's"


def test_many_files_of_your_own_are_named_by_folder() -> None:
    """In a student's repository every stub is one; two dozen paths would hide what comes next."""
    few = ["work/lab2/a.py", "work/lab2/b.py"]
    assert _named(few) == "work/lab2/a.py, work/lab2/b.py"
    many = [f"work/lab2/{name}.py" for name in "abc"] + ["work/capstone/gates.py"]
    assert _named(many) == "4 files: work/lab2 (3), work/capstone (1)"


def test_an_exercise_that_is_not_solved_yet_is_one_line(lab: Lab) -> None:
    own = lab.folder / "work" / "lab6_online_eval" / "assignment.py"
    own.parent.mkdir(parents=True)
    own.write_text("")
    status, _, err = lab.run("--mode", "unsolved", env={"LABS_WORK": str(lab.folder / "work")})
    assert status == 1
    assert "exercise 9.1: Make a number (not solved yet)" in one_line(err)
    assert lab.left() == []


def test_cuda_without_a_gpu_is_bad_input(lab: Lab) -> None:
    status, _, err = lab.run("--device", "cuda", env={"CUDA_VISIBLE_DEVICES": ""})
    assert status == 2
    assert one_line(err).startswith("--device cuda: no GPU is visible here")
    assert lab.left() == []


def test_two_runs_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    first = lab.start("--mode", "sleep")
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("sleeping"):
            break
    assert lab.run()[0] == 0
    hidden = [name for name in os.listdir(lab.package) if name.endswith(".partial")]
    assert len(hidden) == 1, "the folder of the run in progress was removed"
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    assert len(lab.left()) == 2


def test_an_interrupt_after_the_run_does_not_deny_it(tmp_path: Path) -> None:
    """ "Nothing was written" would be untrue once the folder is in place."""

    def interrupted(error: BaseException) -> None:
        with _published(tmp_path):
            raise error

    with pytest.raises(RunError, match=f"^interrupted; the run itself is complete: {tmp_path}$"):
        interrupted(KeyboardInterrupt())
    with pytest.raises(RunError, match=r"^\[Errno 28\] No space.*; the run itself is complete"):
        interrupted(OSError(28, "No space left on device"))


class Bare(Run):
    """A Run without a folder, for what it records."""

    def __init__(self) -> None:
        from types import SimpleNamespace

        self.results = SimpleNamespace(metrics={}, unmeasured={}, data=[])  # type: ignore[assignment]
        self.notes, self.figures = [], []


def test_numbers_of_any_library_are_recorded_as_plain_ones() -> None:
    import numpy as np

    run = Bare()
    run.metric("a.f", np.float32(0.5), unit="ratio", n=np.int64(3), ci95=tuple(np.ones(2)))
    run.metric("a.i", 3, unit="count")
    run.metric("a.b", np.bool_(True), unit="count")
    run.metric("a.t", True, unit="count")
    text = json.dumps({name: metric.as_json() for name, metric in run.results.metrics.items()})
    assert json.loads(text)["a.f"] == {"value": 0.5, "unit": "ratio", "n": 3, "ci95": [1.0, 1.0]}
    assert json.loads(text)["a.i"]["value"] == 3
    assert "true" not in text


def test_a_claim_is_set_aside_only_with_a_reason() -> None:
    run = Bare()
    for empty in ("", "  "):
        with pytest.raises(ValueError, match=r"T\.a needs a reason"):
            run.unmeasured("T.a", empty)
    run.unmeasured("T.a", "only 26k vectors here")
    assert run.results.unmeasured == {"T.a": "only 26k vectors here"}


def test_a_latency_is_three_percentiles_with_n_and_how() -> None:
    run = Bare()
    run.latency("serving", LatencySummary.of([0.001] * 200, how="closed loop"))
    assert list(run.results.metrics) == ["serving.p50_ms", "serving.p95_ms", "serving.p99_ms"]
    assert {metric.n for metric in run.results.metrics.values()} == {200}
    assert {metric.how for metric in run.results.metrics.values()} == {"closed loop"}


def test_a_stage_that_fails_has_no_time() -> None:
    run = Bare()

    def fail() -> None:
        with run.stage("Train the teacher (1 of 2)", key="train"):
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert run.results.metrics == {}
    with run.stage("Train the teacher (1 of 2)"):
        time.sleep(0.01)
    assert list(run.results.metrics) == ["time.train_the_teacher_1_of_2_s"]
    assert run.results.metrics["time.train_the_teacher_1_of_2_s"].value >= 0.01
