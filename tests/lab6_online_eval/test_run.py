"""The lab's run, its traps, and its bad inputs, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from labs.lab6_online_eval import traps

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "labs/lab6_online_eval"


def run_lab(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labs.lab6_online_eval", "--out", str(tmp_path), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_smoke_run_measures_every_claim_but_the_capstones(tmp_path: Path) -> None:
    done = run_lab(tmp_path, "--scale", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "lab6_online_eval/latest/results.json").read_text())
    outcome = {row["id"]: row["passed"] for row in results["deliverables"]}
    assert outcome == {
        "L6.aa": True,
        "L6.srm": True,
        "L6.cuped": True,
        "L6.nsw": True,
        "L6.ranking_ab": None,
    }
    metrics = results["metrics"]
    assert metrics["nsw.effect"]["value"] == pytest.approx(1794.34, abs=0.01)
    assert metrics["assignment.v2_independence_p"]["value"] > 0.001
    assert metrics["assignment.v1_independence_p"]["value"] < 1e-20
    assert {entry["name"] for entry in results["data"]} == {"ml-100k", "nsw"}
    report = (tmp_path / "lab6_online_eval/latest/report.html").read_text()
    assert "Simulated:" in report


def test_a_bad_option_is_one_clear_error(tmp_path: Path) -> None:
    done = run_lab(tmp_path, "--aa-tests", "3")
    assert done.returncode == 2
    assert "aa_tests = 3 must be >= 100; try 2000" in done.stderr
    assert not any(tmp_path.iterdir())


def test_the_traps_show_a_wrong_and_a_right_number() -> None:
    shown = {trap.__name__: trap() for trap in traps.TRAPS}
    assert shown["one_hash_pass"].wrong[1] == [[23600, 26514], [26268, 23618]]
    assert shown["ratings_as_units"].wrong[1] > 0.5 > 0.1 > shown["ratings_as_units"].right[1]
    late, before = (
        shown["covariate_after_treatment"].wrong,
        shown["covariate_after_treatment"].right,
    )
    assert late[1] < 0.1
    assert before[1] == pytest.approx(0.2, abs=0.02)
    assert shown["peeking"].wrong[1] > 4 * shown["peeking"].right[1]


def test_the_quiz_has_five_answerable_questions() -> None:
    questions = tomllib.loads((LAB / "quiz.toml").read_text())["question"]
    assert [question["id"] for question in questions] == [f"6.q{i}" for i in range(1, 6)]
    for question in questions:
        assert len(question["options"]) == 4
        assert 0 <= question["answer"] < 4
        assert question["why"]
