"""The traps, and the whole lab at its smallest scale."""

import json
import subprocess
import sys

import pytest

from labs.lab5_distillation import traps


@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap.__name__)
def test_every_trap_shows_a_smaller_value_than_the_right_one(trap):
    shown = trap()
    assert shown.wrong[1] < 0.95 * shown.right[1]


@pytest.mark.slow
def test_the_smoke_run_compares_with_a_baseline_and_leaves_bert_open(tmp_path):
    command = [sys.executable, "-m", "labs.lab5_distillation", "--scale", "smoke"]
    subprocess.run([*command, "--out", tmp_path], check=True, timeout=120)
    results = json.loads((tmp_path / "lab5_distillation/latest/results.json").read_text())
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    assert metrics["texts.majority_accuracy"] < metrics["student.baseline_accuracy"]
    assert metrics["student.baseline_accuracy"] < metrics["teacher.accuracy"]
    assert metrics["student.compression"] > 8
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed["L5.bert"] is None
    assert passed["L5.retention"] is not None
