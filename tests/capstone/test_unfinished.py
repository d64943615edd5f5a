"""A run that was killed goes on where it was, with everything that its stages had measured."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from capstone import pipeline
from capstone.config import SCALES
from capstone.unfinished import Unfinished
from capstone.workspace import Workspace
from common.options import RunOptions
from common.results import Results
from common.runner import Run


def make_run(folder: Path) -> Run:
    (folder / "figures").mkdir(parents=True)
    results = Results(
        lab="capstone", scale="smoke", device="cpu", procs=1, seed=0, mine=False,
        config=SCALES["smoke"], hardware={}, versions={},
        started_at=datetime.now(UTC),
    )  # fmt: skip
    return Run(RunOptions(), results, folder, folder)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "out", "smoke", 0, False, SCALES["smoke"])


def record(run: Run, unfinished: Unfinished, space: Workspace) -> None:
    run.metric("before.stage", 1.0, unit="x")
    with unfinished.stage("train", run), run.stage("doc", key="train"):
        with space.stage("train") as folder:
            (folder / "weights").write_text("w")
        run.metric("a.b", 0.5, unit="ratio", n=3, ci95=(0.25, 0.75), how="so")
        run.metric("none", None, unit="ratio", reason="no GPU")
        run.unmeasured("C.x", "too small")
        run.note("a note")
        run.figure("loss", Figure(figsize=(1, 1)), caption="a figure")
        (run.dir / "logs").mkdir()
        (run.dir / "logs" / "a.log").write_text("line")


def test_a_finished_stage_is_replayed_into_another_run(tmp_path: Path, space: Workspace) -> None:
    """Metrics, intervals, reasons, notes, figures and files of the killed run are in the next."""
    first = make_run(tmp_path / "first")
    record(first, Unfinished(space, {"seed": 0}), space)
    again, second = Unfinished(space, {"seed": 0}), make_run(tmp_path / "second")
    assert again.finished("train")
    assert not again.finished("distill")
    again.replay("train", second)
    for name in ("a.b", "none", "time.train_s"):
        assert second.results.metrics[name] == first.results.metrics[name], name
    assert "before.stage" not in second.results.metrics
    assert second.results.unmeasured == {"C.x": "too small"}
    assert second.notes[0] == "a note"
    assert "finished by an earlier process" in second.notes[1]
    assert [figure.caption for figure in second.figures] == ["a figure"]
    assert second.figures[0].path.is_file()
    assert (second.dir / "logs" / "a.log").read_text() == "line"


def test_other_options_begin_anew(tmp_path: Path, space: Workspace) -> None:
    """A run with another seed or epoch count is another run."""
    record(make_run(tmp_path / "first"), Unfinished(space, {"seed": 0}), space)
    assert not Unfinished(space, {"seed": 1}).finished("train")


def test_a_stage_whose_artefact_was_replaced_is_not_finished(
    tmp_path: Path, space: Workspace
) -> None:
    """Its figures would describe weights that no longer exist."""
    record(make_run(tmp_path / "first"), Unfinished(space, {}), space)
    with space.stage("train"):
        pass
    assert not Unfinished(space, {}).finished("train")


def test_a_stage_that_failed_is_not_finished(tmp_path: Path, space: Workspace) -> None:
    unfinished, run = Unfinished(space, {}), make_run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), unfinished.stage("load", run):
        raise KeyboardInterrupt
    assert not unfinished.finished("load")


def test_nothing_is_left_of_a_run_that_ended(tmp_path: Path, space: Workspace) -> None:
    unfinished = Unfinished(space, {})
    record(make_run(tmp_path / "run"), unfinished, space)
    unfinished.clear()
    assert not Unfinished(space, {}).finished("train")
    assert not (space.folder / "unfinished").exists()


def killed_in_train(folder: Path, space: Workspace, **options: int) -> None:
    """A process that is killed (-9) in the middle of a training, after its checkpoint."""
    child = os.fork()
    if child == 0:
        unfinished, run = Unfinished(space, options), make_run(folder)
        unfinished.begin(run)
        with unfinished.stage("train", run), space.stage("train") as made:
            (made / "half").write_text("half")
            unfinished.checkpoints("train").mkdir(parents=True)
            checkpoint = unfinished.checkpoints("train") / "step-18"
            checkpoint.write_text("weights")
            later = run.results.started_at.timestamp() + 30
            os.utime(checkpoint, (later, later))
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_checkpoints_outlive_a_kill_and_go_when_the_stage_is_through(
    tmp_path: Path, space: Workspace
) -> None:
    """An hour of training must not end with the process that led it."""
    with space.stage("train") as made:
        (made / "weights").write_text("of an earlier run")
    killed_in_train(tmp_path / "killed", space)
    assert (space.need("train") / "weights").read_text() == "of an earlier run"
    unfinished = Unfinished(space, {})
    assert [path.name for path in unfinished.checkpoints("train").iterdir()] == ["step-18"]
    record(make_run(tmp_path / "again"), unfinished, space)
    assert not unfinished.checkpoints("train").exists()
    assert [path.name for path in space.folder.glob(".train.*")] == [], "nor what was half-written"


def test_a_training_goes_on_with_another_number_of_ranks(tmp_path: Path, space: Workspace) -> None:
    """A machine with two GPUs died, and one with one GPU is free: nothing has to begin anew."""
    killed_in_train(tmp_path / "killed", space, procs=2, seed=0)
    assert not Unfinished(space, {"procs": 1, "seed": 1}).checkpoints("train").exists()
    fewer = Unfinished(space, {"procs": 1, "seed": 0})
    assert [path.name for path in fewer.checkpoints("train").iterdir()] == ["step-18"]
    record(make_run(tmp_path / "again"), fewer, space)
    for procs in (1, 2):
        assert not Unfinished(space, {"procs": procs, "seed": 0}).checkpoints("train").exists()


@pytest.mark.parametrize(
    ("stage", "fresh", "goes_on"),
    [("impressions", False, True), ("impressions", True, False), ("distill", False, False)],
)
def test_on_other_ranks_only_what_reads_no_stage_that_ran_anew_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, fresh: bool, goes_on: bool
) -> None:
    """Records of stages are of a number of ranks, so those before run anew: a student's teacher is
    another then, simulated impressions are not. ``--fresh`` begins both anew."""
    stages = stage if fresh else f"data,{stage}"
    config = replace(SCALES["smoke"], stages=stages, batch_size=8)
    space = Workspace(tmp_path / "out", "smoke", 0, False, config)
    killed = Unfinished(space, asdict(config) | {"device": "cpu", "procs": 2})
    (killed.checkpoints(stage) / "step-18").mkdir(parents=True)
    found: list[bool] = []
    monkeypatch.setitem(pipeline.STAGES, "data", lambda c: None)
    monkeypatch.setitem(
        pipeline.STAGES, stage, lambda c: found.append((c.checkpoints / "step-18").is_dir())
    )
    run = make_run(tmp_path / "run")
    run.options, run.scale = replace(run.options, out=tmp_path / "out"), "smoke"
    pipeline.run_stages(run, replace(config, fresh=fresh))
    assert found == [goes_on]


def test_a_run_lasts_as_long_as_all_its_processes(tmp_path: Path, space: Workspace) -> None:
    """A report of the last process alone would say that a run of an hour took a minute."""
    for number in range(2):
        killed_in_train(tmp_path / f"killed-{number}", space)
        Unfinished(space, {}).forget("train")
    killed_in_train(tmp_path / "killed", space)
    unfinished, run = Unfinished(space, {}), make_run(tmp_path / "last")
    unfinished.begin(run)
    assert run.results.metrics["time.processes"].value == 4
    assert "sum over the processes" in run.results.metrics["time.processes"].how
    # Two whose last sign of life went with their checkpoints, and one that lived for 30 s.
    assert 30 <= run.results.as_json(())["duration_s"] < 40
    alone, other = Unfinished(space, {"seed": 1}), make_run(tmp_path / "other")
    alone.begin(other)
    assert other.results.metrics["time.processes"].value == 1
    assert other.results.earlier_s == 0


def test_an_interrupted_stage_without_checkpoints_leaves_nothing(
    tmp_path: Path, space: Workspace
) -> None:
    """Ctrl-C in the first stage: there is nothing to go on with."""
    unfinished, run = Unfinished(space, {}), make_run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), unfinished.stage("load", run):
        raise KeyboardInterrupt
    assert not unfinished.folder.parent.exists()
