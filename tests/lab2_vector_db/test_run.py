import json
import subprocess
import sys

import pytest

from labs.lab2_vector_db import traps


@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap.__name__)
def test_every_trap_shows_two_different_values(trap):
    shown = trap()
    assert shown.wrong[1] != shown.right[1]


@pytest.mark.slow
def test_the_smoke_run_measures_recall_and_leaves_the_10m_claim_open(tmp_path):
    command = [sys.executable, "-m", "labs.lab2_vector_db", "--scale", "smoke", "--out", tmp_path]
    subprocess.run(command, check=True, timeout=120)
    results = json.loads((tmp_path / "lab2_vector_db/latest/results.json").read_text())
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {"L2.latency": None, "L2.recall": True}
    assert results["metrics"]["index.same_after_reload"]["value"] == 1
