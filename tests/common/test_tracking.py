"""Experiment trackers: MLflow for real; one that is missing is named before the run starts."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.errors import InputError
from common.tracking import require_tracker

ROOT = Path(__file__).resolve().parents[2]
STORY = """
from dataclasses import dataclass
from common.runner import main


@dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (0.1, 0.2)
    '''Rates.'''


def story(run, config):
    run.metric("area.a", 0.75, unit="ratio")
    run.metric("area.gone", None, unit="s", reason="no clock")


main("lab9_tiny", {"smoke": Config(), "standard": Config(), "full": Config()}, story, title="Tiny")
"""


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    script = folder / "story.py"
    script.write_text(STORY)
    base = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, str(script), "--device", "cpu", "--out", "runs", *arguments],
        cwd=folder,
        env=base | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_no_tracker_is_always_there() -> None:
    require_tracker("none")
    require_tracker("mlflow")


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_tracker_that_is_not_installed_is_bad_input_before_anything_runs(tmp_path: Path) -> None:
    answer = run(tmp_path, "--track", "wandb")
    assert answer.returncode == 2
    assert answer.stderr == (
        "error: --track wandb: the package is not installed; pip install wandb\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_the_folder_a_tracker_left_is_not_taken_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="pip install wandb"):
        require_tracker("wandb")


@pytest.mark.slow
def test_mlflow_receives_configuration_and_metrics_in_a_file_beside_the_runs(
    tmp_path: Path,
) -> None:
    answer = run(tmp_path, "--scale", "smoke", "--seed", "7", "--track", "mlflow")
    assert answer.returncode == 0, answer.stderr
    name = os.readlink(tmp_path / "runs" / "lab9_tiny" / "latest")
    database = sqlite3.connect(tmp_path / "runs" / "mlflow.db")
    try:
        assert database.execute("select name, status from runs").fetchall() == [(name, "FINISHED")]
        metrics = database.execute("select key, value from metrics").fetchall()
        assert metrics == [("area.a", 0.75)], "a metric without a value is not sent as a number"
        parameters = dict(database.execute("select key, value from params").fetchall())
        tags = dict(database.execute("select key, value from tags").fetchall())
    finally:
        database.close()
    assert parameters["rates"] == "[0.1, 0.2]"
    assert (parameters["scale"], parameters["seed"], parameters["mine"]) == ("smoke", "7", "False")
    assert tags["results"].endswith(f"{name}/results.json")
    assert not (tmp_path / "mlruns").exists(), "nothing is littered beside the runs"


@pytest.mark.slow
def test_a_tracking_server_that_is_not_there_does_not_cost_the_run(tmp_path: Path) -> None:
    """Hours of training must not be lost to a tracker."""
    answer = run(tmp_path, "--track", "mlflow", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert answer.returncode == 1
    last = answer.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: --track mlflow: http://127.0.0.1:9 cannot be written to")
    assert "the run itself is complete: " in last
    assert "Traceback" not in answer.stderr
    assert (tmp_path / "runs" / "lab9_tiny" / "latest" / "results.json").exists()
