"""The whole lab at its smallest scale, and what it refuses."""

import json
import subprocess
import sys

import pytest

from labs.lab1_fsdp_advanced.config import SCALES

COMMAND = [sys.executable, "-m", "labs.lab1_fsdp_advanced", "--scale", "smoke", "--device", "cpu"]


@pytest.mark.slow
def test_the_smoke_run_trains_alike_with_every_strategy_and_resumes(tmp_path):
    subprocess.run([*COMMAND, "--procs", "2", "--out", tmp_path], check=True, timeout=240)
    results = json.loads((tmp_path / "lab1_fsdp_advanced/latest/results.json").read_text())
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {
        "L1.billion": None,
        "L1.billion_learns": None,
        "L1.equivalence": True,
        "L1.by_hand": True,
        "L1.resume": True,
        "L1.memory": True,
        "L1.learns": None,
        "L1.mfu": None,
    }
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    losses = [value for name, value in metrics.items() if name.endswith("_shard.validation_loss")]
    losses += [metrics["zero_1.validation_loss"], metrics["shard_grad_op.validation_loss"]]
    assert len(losses) == 5
    assert max(losses) - min(losses) < 1e-4
    first = metrics["no_shard.first_loss"]
    assert metrics["hybrid_shard.first_loss"] == pytest.approx(first, abs=1e-4)
    assert metrics["full_shard.parameters_bytes"] < 0.51 * metrics["no_shard.parameters_bytes"]
    for strategy in ("no_shard", "zero_1", "shard_grad_op", "full_shard", "hybrid_shard"):
        measured = metrics[f"{strategy}.peak_bytes"]
        assert metrics[f"{strategy}.peak_formula_bytes"] == pytest.approx(measured, rel=0.15)
        assert metrics[f"{strategy}.peak_tracker_bytes"] == pytest.approx(measured, rel=0.15)
    assert metrics["variant.full.peak_bytes"] < metrics["variant.fp32.peak_bytes"]
    assert metrics["variant.full.hfu"] > metrics["variant.full.mfu"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "2", "steps = 2 must be at least 4"),
        ("--accumulation", "3", "global_batch = 8 must be a multiple of accumulation = 3"),
        ("--procs", "3", "global_batch = 8 must be a multiple of 3 rank"),
        ("--max-norm", "0", "max_norm = 0.0 must be > 0"),
        ("--strategies", "HALF_SHARD", "HALF_SHARD"),
    ],
)
def test_bad_options_are_one_clear_error_with_status_2(tmp_path, option, value, message):
    run = subprocess.run(
        [*COMMAND, option, value, "--out", tmp_path], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2, run.stderr
    assert message in run.stdout + run.stderr
    assert not list(tmp_path.glob("*/2*")), "a run that was refused leaves no results"


def test_what_is_left_to_the_machine_is_larger_on_gpus():
    cpu, gpu = SCALES["full"].on("cpu", 2), SCALES["full"].on("cuda", 8)
    assert (cpu.model, cpu.context, cpu.compile) == ("1B", 256, False)
    assert (gpu.model, gpu.context, gpu.compile) == ("1.3B", 2048, True)
    assert gpu.global_batch == 8 * 8
    assert (cpu.strategies, cpu.checkpointing) == (("FULL_SHARD",), "full")
    assert (len(gpu.strategies), gpu.checkpointing) == (5, "none")
    assert SCALES["standard"].on("cuda", 8) == SCALES["standard"]
