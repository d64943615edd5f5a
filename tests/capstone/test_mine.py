"""The learner's own code runs the real thing: in the ranks, in the results, in the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "labs" / "lab5_distillation" / "distillation_loss.py"
PROOF = """

import os as _os
from pathlib import Path as _Path

(_Path(_os.environ["PROOF"]) / f"{_os.getpid()}").write_text(__file__)
"""
SMALL = [
    "--scale", "smoke", "--retrieval-epochs", "1", "--ranker-epochs", "1", "--student-epochs", "1",
    "--student-width", "16", "--ranker-width", "16",
]  # fmt: skip


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def course(*arguments: str, work: Path) -> subprocess.CompletedProcess[str]:
    return run("common.exercises.cli", *arguments, "--work", str(work), env={})


def test_start_check_solve_check_and_the_capstone_runs_on_it(tmp_path: Path) -> None:
    work, out, proof = tmp_path / "work", tmp_path / "runs", tmp_path / "proof"
    proof.mkdir()
    assert course("start", "lab5", work=work).returncode == 0
    mine = work / "lab5_distillation" / "distillation_loss.py"

    unsolved = course("check", "lab5", "5.1", work=work)
    assert unsolved.returncode == 1
    assert "exercise 5.1" in unsolved.stdout + unsolved.stderr
    assert "course hint 5.1" in unsolved.stdout

    stub_run = run(
        "capstone", *SMALL, "--mine", "--out", str(out), "--stages", "train,retrieval,distill",
        env={"LABS_WORK": str(work)},
    )  # fmt: skip
    assert stub_run.returncode == 1
    assert "exercise 5.1" in stub_run.stderr

    mine.write_text(REFERENCE.read_text())
    solved = course("check", "lab5", "5.1", work=work)
    assert solved.returncode == 0, solved.stdout

    mine.write_text(REFERENCE.read_text() + PROOF)
    done = run(
        "capstone", *SMALL, "--mine", "--out", str(out), "--stages", "distill",
        env={"LABS_WORK": str(work), "PROOF": str(proof)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "running your code: " in done.stdout
    assert "work/lab5_distillation" in done.stdout
    results = json.loads((out / "capstone" / "latest" / "results.json").read_text())
    assert results["mine"] is True
    page = (out / "capstone" / "latest" / "report.html").read_text()
    assert "This run used the learner's own code" in page
    loaded_in = list(proof.iterdir())
    assert len(loaded_in) >= 3, "the run itself and both ranks must load the learner's file"
    assert all(path.read_text() == str(mine) for path in loaded_in)
