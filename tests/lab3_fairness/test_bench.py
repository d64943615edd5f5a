import json
import subprocess
import sys

import pytest

from common.errors import InputError
from labs.lab3_fairness.bench import Bench


@pytest.mark.slow
def test_the_benchmark_times_both_sides_and_leaves_its_claims_to_larger_scales(tmp_path):
    command = [sys.executable, "-m", "labs.lab3_fairness.bench", "--scale", "smoke"]
    subprocess.run([*command, "--out", tmp_path], check=True, timeout=200)
    results = json.loads((tmp_path / "lab3_fairness_bench/latest/results.json").read_text())
    metrics = results["metrics"]
    for name in ("fairlearn_s", "audit_s", "cells_s", "rows_s", "monte_carlo_error"):
        assert metrics[f"bench.{name}"]["value"] > 0, name
    order = [
        metrics[f"bench.speed_ratio_{word}"]["value"] for word in ("smallest", "median", "largest")
    ]
    assert order == sorted(order)
    # Two quantities of 5 replicates each: far apart or not, but on the same scale.
    assert metrics["bench.largest_difference"]["value"] < 0.2
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {"L3.bench_speed": None, "L3.bench_agreement": None}


@pytest.mark.parametrize("change", [{"n_boot": 1}, {"repetitions": 1}, {"seeds": 5}])
def test_too_little_to_compare_is_refused(change):
    with pytest.raises(InputError, match="must be"):
        Bench(**change)
