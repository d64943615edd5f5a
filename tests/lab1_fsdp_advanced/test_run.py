"""The whole lab at its smallest scale."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_smoke_run_trains_alike_with_every_strategy_and_resumes(tmp_path):
    command = [sys.executable, "-m", "labs.lab1_fsdp_advanced", "--scale", "smoke"]
    subprocess.run(
        [*command, "--device", "cpu", "--procs", "2", "--out", tmp_path], check=True, timeout=180
    )
    results = json.loads((tmp_path / "lab1_fsdp_advanced/latest/results.json").read_text())
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {"L1.billion": None, "L1.equivalence": True, "L1.resume": True}
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    losses = [value for name, value in metrics.items() if name.endswith("validation_loss")]
    assert len(losses) == 4
    assert max(losses) - min(losses) < 1e-4
    assert metrics["full_shard.parameters_bytes"] < 0.51 * metrics["no_shard.parameters_bytes"]
