"""The benchmark: what it measures, and that both sides answer alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labs.lab6_online_eval import bench_sides
from labs.lab6_online_eval.bench import Bench, largest_difference


def test_both_sides_answer_alike_on_the_same_file(tmp_path: Path) -> None:
    """Effects, intervals and p-values of all five metrics to 1e-9: a fast wrong answer is none."""
    table = tmp_path / "units.parquet"
    bench_sides.write_users(table, 20_000, seed=1)
    ours, theirs = bench_sides.by_scan(table), bench_sides.by_tea_tasting(table)
    assert set(ours) == set(theirs) == set(bench_sides.METRICS)
    assert largest_difference(ours, theirs) < 1e-9


def test_a_difference_is_seen() -> None:
    """An effect off by a tenth of the interval's width, or a p off by 0.2, is reported as such."""
    theirs = {"revenue": (1.0, 0.0, 2.0, 0.05)}
    assert largest_difference({"revenue": (1.2, 0.0, 2.0, 0.05)}, theirs) == pytest.approx(0.1)
    assert largest_difference({"revenue": (1.0, 0.0, 2.0, 0.25)}, theirs) == pytest.approx(0.2)


@pytest.mark.parametrize("change", [{"users": 10}, {"repetitions": 0}, {"cores": 0}])
def test_too_little_to_compare_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Bench(**change)


@pytest.mark.slow
def test_the_benchmark_leaves_its_claims_to_ten_million_users(tmp_path: Path) -> None:
    """A small run times both sides and judges agreement alone; three processes, about 10 s."""
    command = [sys.executable, "-m", "labs.lab6_online_eval.bench", "--scale", "smoke"]
    subprocess.run([*command, "--out", tmp_path], check=True, timeout=200)
    results = json.loads((tmp_path / "lab6_online_eval_bench/latest/results.json").read_text())
    for side in ("lab", "tea_tasting"):
        for what in ("s", "cpu_s", "peak_gib"):
            assert results["metrics"][f"bench.{side}_{what}"]["value"] > 0, (side, what)
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {
        "L6B.seconds": None, "L6B.memory": None, "L6B.speed": None, "L6B.agreement": True,
    }  # fmt: skip
