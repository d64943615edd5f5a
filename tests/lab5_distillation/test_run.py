"""The lab from the command line: its smallest scale, and an option that is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURED_WITH_INTERVAL = (
    "teacher.accuracy",
    "student.accuracy",
    "student.baseline_accuracy",
    "student.retention",
    "student.baseline_retention",
    "student.distillation_gain",
    "student.agreement",
    "student.baseline_agreement",
)


def run_lab(out, *options):
    command = [sys.executable, "-m", "labs.lab5_distillation", "--out", str(out), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.slow
def test_the_smoke_run_compares_with_a_baseline_and_leaves_bert_open(tmp_path):
    done = run_lab(tmp_path, "--scale", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "lab5_distillation/latest"
    results = json.loads((run / "results.json").read_text())
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    for name in MEASURED_WITH_INTERVAL:
        entry = results["metrics"][name]
        low, high = entry["ci95"]
        assert low <= entry["value"] <= high, name
        assert entry["n"] == metrics["texts.test"], name
        assert entry["how"], name
    assert metrics["texts.test"] == 1200
    assert metrics["texts.train"] == 4800
    assert metrics["texts.majority_accuracy"] < metrics["student.baseline_accuracy"]
    assert metrics["student.baseline_accuracy"] < metrics["teacher.accuracy"]
    assert metrics["student.compression"] > 8

    def ratio(one, other):
        return pytest.approx(metrics[one] / metrics[other])

    student, baseline, teacher = (
        "student.accuracy", "student.baseline_accuracy", "teacher.accuracy"
    )  # fmt: skip
    assert metrics["student.retention"] == ratio(student, teacher)
    assert metrics["student.baseline_retention"] == ratio(baseline, teacher)
    assert metrics["student.compression"] == ratio("teacher.parameters", "student.parameters")
    assert metrics["student.distillation_gain"] == pytest.approx(
        metrics[student] - metrics[baseline]
    )

    claims = {entry["id"]: entry for entry in results["deliverables"]}
    assert set(claims) == {"L5.retention", "L5.bert"}
    kept = claims["L5.retention"]
    assert kept["measured"] == metrics["student.retention"]
    assert kept["passed"] is (kept["measured"] > 0.95)
    assert claims["L5.bert"]["passed"] is None
    assert claims["L5.bert"]["measured"] is None
    assert "bert.retention" not in metrics
    assert "no fine-tuned BERT-Large" in claims["L5.bert"]["reason"]
    assert [entry["name"] for entry in results["data"]] == ["docstrings"]
    assert (run / "figures/frontier.png").stat().st_size > 0
    assert (run / "report.html").stat().st_size > 0


def test_a_bad_option_is_one_clear_error(tmp_path):
    done = run_lab(tmp_path, "--scale", "smoke", "--alpha", "3")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "alpha = 3.0 must be from 0 to 1; try 0.9" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
