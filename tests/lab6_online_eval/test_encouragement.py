"""Encouragement in the lab's world, and the real voucher with a simulated outcome."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval.encouragement import (
    encouragement_experiment,
    read_voucher,
    simulate_purchases,
)
from labs.lab6_online_eval.instrumental_variables import (
    analyse_encouragement,
    two_stage_least_squares,
)
from labs.lab6_online_eval.world import World


def small_world() -> World:
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, 0.5, 60)
    appeal = np.clip(0.2 * activity[:, None] * rng.random((60, 30)), 0, 0.9)
    return World(appeal, 0.5 * rng.random(30), 0.4 * activity, np.zeros((60, 30), dtype=bool))


def test_the_effect_on_those_who_accept_is_found_and_the_choice_misleads() -> None:
    """The active accept, and click more anyway: as treated is far off, the coin is not."""
    world = small_world()
    order = np.argsort(world.click, axis=1)
    poor, good = order[:, 10:15], order[:, -5:]
    data = encouragement_experiment(world, poor, good, n_units=20_000, seed=1)
    found = analyse_encouragement(data.outcome, data.received, data.assigned)
    assert found.one_sided
    assert abs(found.cace.effect - data.true_cace) < 4 * found.cace.se
    assert abs(found.itt.effect - data.true_itt) < 4 * found.itt.se
    assert found.as_treated.effect > data.true_cace + 4 * found.as_treated.se


def test_the_voucher_moves_people_as_published() -> None:
    """Thornton (2008): 34 % fetch their result without a voucher, 79 % with one."""
    voucher = read_voucher(load("nsw"))
    assert voucher.learned[~voucher.offered].mean() == pytest.approx(0.339, abs=0.001)
    assert voucher.learned[voucher.offered].mean() == pytest.approx(0.791, abs=0.001)


def test_two_sided_noncompliance_with_clusters() -> None:
    """Real voucher and take-up, simulated purchases: 20 outcomes average to the effect of 0.5."""
    voucher = read_voucher(load("nsw"))
    found, by_choice = [], []
    for seed in range(20):
        outcome = simulate_purchases(voucher, np.random.default_rng(seed))
        found.append(
            two_stage_least_squares(
                outcome,
                voucher.learned.astype(float),
                np.column_stack([voucher.offered, voucher.value]),
                clusters=voucher.village,
            ).estimate
        )
        learned = outcome[voucher.learned].mean() - outcome[~voucher.learned].mean()
        by_choice.append(learned)
    assert np.mean([each.effect for each in found]) == pytest.approx(0.5, abs=0.1)
    assert sum(each.covers(0.5) for each in found) >= 17
    assert np.mean(by_choice) > 1.0


def test_too_few_units_are_refused() -> None:
    world = small_world()
    lists = np.zeros((60, 5), dtype=np.int64)
    with pytest.raises(ValueError, match="n_units = 10 must be at least 100"):
        encouragement_experiment(world, lists, lists, n_units=10, seed=0)
