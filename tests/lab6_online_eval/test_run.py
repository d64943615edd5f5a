"""The lab from the command line: its smallest scale, and options that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labs.lab6_online_eval.claims import CLAIMS

ROOT = Path(__file__).resolve().parents[2]
NEEDS_MORE = {"L6.power"}
BY_LUCK = {"L6.ranking_ab", "L6.sequential", "L6.validated"}
KNOWN = {"nsw.experiment.effect": (1794.3433, 0.002), "nsw.experiment.se": (670.9966, 0.001)}


def run_lab(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labs.lab6_online_eval", "--out", str(out), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A smoke run's folder and its results."""
    out = tmp_path_factory.mktemp("lab6")
    done = run_lab(out, "--scale", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = out / "lab6_online_eval/latest"
    return folder, json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_smoke_run_shows_every_claim_that_its_size_can_show(finished) -> None:
    """What is an interval's luck at this size may miss; what is a mechanism may not."""
    _, results = finished
    claims = {entry["id"]: entry for entry in results["deliverables"]}
    assert set(claims) == {claim.id for claim in CLAIMS}
    for name, entry in claims.items():
        if name in NEEDS_MORE:
            assert entry["passed"] is None, entry
            assert entry["reason"]
        elif name in BY_LUCK:
            assert entry["passed"] is not None, entry
        else:
            assert entry["passed"] is True, entry


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_method_has_its_validation_and_known_answers_come_out(finished) -> None:
    """False positives, coverage and power of each; the job training's published numbers."""
    from labs.lab6_online_eval.methods import catalogue

    folder, results = finished
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    for name, method in catalogue().items():
        assert {f"aa.{name}.fpr", f"ab.{name}.coverage", f"ab.{name}.power"} <= set(metrics)
        if method.flawed:
            assert f"{name} (a mistake)" in (folder / "validation.md").read_text()
    assert metrics["validation.flawed_offered"] == 0
    for name, (value, within) in KNOWN.items():
        assert metrics[name] == pytest.approx(value, abs=within)
    assert {entry["name"] for entry in results["data"]} == {"ml-100k", "nsw", "open-bandit"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_experiment_ends_in_a_memo_and_says_what_is_simulated(finished) -> None:
    """A product manager reads decision.md; nobody may take the people for real ones."""
    folder, results = finished
    memo = (folder / "decision.md").read_text()
    assert memo.startswith("# Decision: new_ranker")
    assert "was not computed" not in memo
    assert (folder / "decision.html").stat().st_size > 2000
    assert "Simulated" in (folder / "report.html").read_text()
    assert results["metrics"]["experiment.units"]["value"] > 3000
    assert results["metrics"]["experiment.clicks.p"]["value"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--validation", "3"), "validation = 3 must be >= 200; try 2000"),
        (("--treatment", "nobody"), "treatment = 'nobody' must be one of popularity"),
        (("--treatment", "ease"), "treatment = 'ease' must not be control"),
        (("--experiment", "there_is_no.toml"), "there_is_no.toml"),
    ],
)
def test_a_bad_option_is_one_clear_error(tmp_path: Path, options, message: str) -> None:
    """Status 2, the value, the limit and the fix; nothing is written."""
    done = run_lab(tmp_path, "--scale", "smoke", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
