"""The whole way on a small made-up world, and the truth that it is held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labs.lab6_online_eval.analysis_study import study_analysis, true_effects
from labs.lab6_online_eval.experiment import Kind, Metric, Role
from labs.lab6_online_eval.world import World, simulate
from tests.lab6_online_eval.logs import experiment

CLICKS = Metric("clicks", Kind.MEAN, Role.SUCCESS, "click")
RATE = Metric("rate", Kind.RATIO, Role.SUCCESS, "click", denominator="session")
SLOW = Metric(
    "p90", Kind.QUANTILE, Role.GUARDRAIL, "latency_ms", quantile=0.9, higher_is_better=False,
    margin=0.2, cuped=False,
)  # fmt: skip


def small_world() -> tuple[World, tuple[np.ndarray, np.ndarray]]:
    """Forty people, thirty films; the treatment shows everyone a better five."""
    rng = np.random.default_rng(0)
    appeal = np.sort(rng.uniform(0.02, 0.5, (40, 30)), axis=1)
    world = World(appeal, np.zeros(30), rng.uniform(0.1, 0.6, 40), np.zeros((40, 30), dtype=bool))
    control, treatment = np.tile(np.arange(10, 15), (40, 1)), np.tile(np.arange(20, 25), (40, 1))
    return world, (control, treatment)


def test_the_truth_is_the_mean_of_many_simulated_units() -> None:
    """40,000 units in each arm against the formula: clicks by unit that came, and by session."""
    world, lists = small_world()
    truth = true_effects(world, lists, experiment(metrics=(CLICKS, RATE, SLOW)))
    assert set(truth) == {"clicks", "rate"}
    people = np.repeat(np.arange(40), 2000)
    arm = np.tile([0, 1], len(people) // 2)
    run = simulate(world, lists, arm, people, days=10, seed=1)
    by_arm = []
    for number in (0, 1):
        mine = run.where(run.arm == number)
        total = mine.clicks.sum()
        by_arm.append((total / len(np.unique(mine.unit)), total / mine.n))
    clicks, rate = np.subtract(by_arm[1], by_arm[0])
    assert clicks == pytest.approx(truth["clicks"], rel=0.05)
    assert rate == pytest.approx(truth["rate"], rel=0.05)


def test_the_study_finds_a_large_effect_and_decides(tmp_path: Path) -> None:
    """From assignment to decision: shipped, and the truth within four standard errors."""
    world, lists = small_world()
    plan = experiment(metrics=(CLICKS, RATE, SLOW))
    found = study_analysis(world, lists, plan, tmp_path, units=900, seed=4)
    assert found.analysis.failed_checks == ()
    assert found.analysis.decision.value == "ship"
    assert [told.name for told in found.told] == ["clicks", "rate"]
    for told in found.told:
        se = (told.interval[1] - told.interval[0]) / (2 * 1.96)
        assert abs(told.estimate - told.truth) < 4 * se, told
        assert told.covered == (told.interval[0] <= told.truth <= told.interval[1])
