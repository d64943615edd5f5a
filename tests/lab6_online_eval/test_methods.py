"""All methods together: names, and a validation in processes that leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from labs.lab6_online_eval.methods import catalogue, validate_all

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = """
from labs.lab6_online_eval.methods import catalogue, validate_all
if __name__ == "__main__":
    for verdict in validate_all(list(catalogue()), n=100_000, workers=2):
        pass
"""


def test_every_method_has_a_name_of_its_own_and_an_effect_to_find() -> None:
    """The metrics are named after them; an effect of 0 would make power mean nothing."""
    found = catalogue()
    assert len(found) > 40
    assert all(name == method.name and method.effect != 0 for name, method in found.items())
    assert sum(method.flawed for method in found.values()) >= 10


@pytest.mark.slow
def test_processes_give_the_verdicts_of_one() -> None:
    """The seed decides, not the number of processes."""
    names = ["welch", "did"]
    alone = {each.name: each for each in validate_all(names, n=200, seed=3)}
    together = {each.name: each for each in validate_all(names, n=200, seed=3, workers=2)}
    assert alone == together


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_run(number: signal.Signals) -> None:
    """A run that is killed, or stopped by Ctrl-C, leaves nothing that goes on computing."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=ROOT, env=environment)
    try:
        started = psutil.Process(run.pid)
        deadline = time.monotonic() + 60
        workers: list[psutil.Process] = []
        while len(workers) < 3 and time.monotonic() < deadline:  # two, and the resource tracker
            time.sleep(0.1)
            workers = started.children(recursive=True)
        assert len(workers) >= 3
        run.send_signal(number)
        _, alive = psutil.wait_procs([started, *workers], timeout=60)
        assert alive == []
    finally:
        run.kill()
