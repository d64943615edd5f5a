"""What a drill reports, and that the faults are real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from capstone import bundle
from capstone.fault_drills import BUDGET, Drill, Fault, describe
from capstone.loaded_bundle import Mismatch, load
from capstone.service_faults import corrupt_copy, poisoned_copy
from labs.lab4_model_serving.load_result import LoadResult
from tests.capstone import tiny_bundle

FAULT = Fault("something", lambda: None, lambda: None, "note")


def drill(status: np.ndarray, fallback: np.ndarray, **counts: int) -> Drill:
    """A drill of one feed every 10 ms: 1 s before, 1 s during, 2 s after the fault."""
    due = np.arange(400) / 100
    latencies = np.where(status == 0, np.inf, 0.01 + 0.02 * fallback)
    result = LoadResult(latencies, np.zeros(400), 4.0, 100.0, 2.0, "test", schedule=due)
    given = {"acknowledged": 10, "refused": 0, "lost": 0} | counts
    return describe(FAULT, result, status, fallback, (1.0, 2.0), **given)


def test_each_phase_has_its_own_numbers() -> None:
    """An outage that is averaged over the whole run looks like nothing."""
    status, fallback = np.full(400, 200), np.zeros(400, bool)
    fallback[100:230] = True
    found = drill(status, fallback)
    assert [phase.n for phase in found.phases] == [100, 100, 200]
    assert [phase.fallback_share for phase in found.phases] == [0.0, 1.0, 0.15]
    assert found.phases[1].p99_ms == pytest.approx(30.0)
    assert found.recovered_s == pytest.approx(0.29)
    assert found.within_budget
    assert found.errors == 0


def test_what_is_not_answered_or_answered_5xx_counts_against_the_budget() -> None:
    """One of 400 is 0.25 %, more than the declared 0.1 %."""
    status, fallback = np.full(400, 200), np.zeros(400, bool)
    status[150] = 503
    one = drill(status, fallback)
    status[151] = 0
    two = drill(status, fallback)
    assert (one.errors, two.errors) == (1, 2)
    assert one.error_share == 1 / 400 > BUDGET
    assert not one.within_budget
    assert two.phases[1].errors == 2


def test_a_corrupt_copy_is_refused_because_of_its_index(tmp_path: Path) -> None:
    """One flipped byte, and the bundle does not load."""
    made = tiny_bundle.build(tmp_path / "made")
    with pytest.raises(Mismatch, match="index"):
        load(corrupt_copy(made, tmp_path / "corrupt"))
    assert load(made.folder).version == made.version


def test_a_poisoned_copy_is_whole_and_answers_nan(tmp_path: Path) -> None:
    """Hashes are right, parts fit: only its answers show it, as with a real bad release."""
    from labs.lab4_model_serving.export import run, session

    made = tiny_bundle.build(tmp_path / "made")
    poisoned = poisoned_copy(made, tmp_path / "poisoned")
    assert bundle.load(poisoned.folder).version == poisoned.version != made.version
    history = np.ones((1, made.max_length), np.int64)
    inputs = {"history": history, "ratings": history, "candidates": np.arange(1, 6)[None]}
    bad, good = (run(session(each.ranker), inputs)["p_engage"] for each in (poisoned, made))
    assert np.isnan(bad).all()
    assert np.isfinite(good).all()
