"""The sensitivity study: its laws against simulation, and its numbers against its own power."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import interleaving_sensitivity as study
from labs.lab6_online_eval.interleaving import credit, run_interleaved
from labs.lab6_online_eval.world import World

K = 6


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    appeal = rng.uniform(0.0, 0.5, (80, 40)) * rng.uniform(0.2, 1.5, (80, 1))
    return World(appeal, np.zeros(40), np.ones(80), np.zeros((80, 40), dtype=bool))


def ranked(world: World, noise: float, seed: int) -> np.ndarray:
    scores = world.click + noise * np.random.default_rng(seed).standard_normal(world.click.shape)
    return np.argsort(-scores, axis=1)[:, :K]


def test_the_law_of_a_sum_is_the_enumeration() -> None:
    """Two clicks of chance .5 and .2, the second counted against: four cases by hand."""
    law = study.law_of_sum(np.array([[0.5, 0.2]]), np.array([[1, -1]]))
    expected = {-2: 0, -1: 0.5 * 0.2, 0: 0.5 * 0.8 + 0.5 * 0.2, 1: 0.5 * 0.8, 2: 0}
    assert dict(zip(law.values, law.chance, strict=True)) == pytest.approx(expected)
    assert law.mean == pytest.approx(0.5 - 0.2)
    assert law.variance == pytest.approx(0.25 + 0.16)


def test_the_laws_are_those_of_simulated_sessions(world: World) -> None:
    """What is drawn from laws is what sessions would give: same mean and variance."""
    a, b = ranked(world, 0.3, 1), ranked(world, 0.05, 2)
    rng = np.random.default_rng(0)
    people = rng.integers(0, world.n_users, 200_000)
    clicks = world.clicks(people, a[people], rng).sum(axis=1)
    law = study.click_law(world, a)
    assert law.mean == pytest.approx(world.expected_clicks(a).mean())
    assert law.mean == pytest.approx(clicks.mean(), rel=0.02)
    assert law.variance == pytest.approx(clicks.var(), rel=0.03)
    drawn = study.draft(world, a, b, 40, seed=0)
    value = credit(*run_interleaved(world, a, b, people, rng))
    assert drawn.law.mean == pytest.approx(drawn.preference, abs=1e-9)
    assert drawn.preference == pytest.approx(value.mean(), abs=4 * value.std() / 447)
    assert drawn.law.variance == pytest.approx(value.var(), rel=0.03)


def test_the_standard_error_of_the_preference_is_its_spread_over_seeds(world: World) -> None:
    a, b = ranked(world, 0.3, 1), ranked(world, 0.05, 2)
    drawn = [study.draft(world, a, b, 10, seed) for seed in range(60)]
    spread = np.std([each.preference for each in drawn], ddof=1)
    assert spread == pytest.approx(np.mean([each.se for each in drawn]), rel=0.3)


def test_the_sessions_that_were_computed_have_the_power_that_was_asked_for(world: World) -> None:
    """The formula's numbers of sessions, tried in 2,000 experiments of each design."""
    a, b = ranked(world, 0.12, 1), ranked(world, 0.05, 2)
    found = study.sensitivity(world, a, b, names=("a", "b"), drafts=60)
    assert found.true_effect == pytest.approx(world.true_effect(a, b))
    assert found.ab_at.power == pytest.approx(0.8, abs=0.03), f"{found.ab_at}"
    assert found.interleaved_at.power == pytest.approx(0.8, abs=0.03), f"{found.interleaved_at}"
    assert found.ratio_low < found.ratio < found.ratio_high
    assert found.ratio == pytest.approx(found.ab_sessions / found.interleaved_sessions, rel=0.02)
    assert found.ratio > 1, "interleaving ought to need fewer sessions"


def test_interleaving_agrees_with_the_truth_on_clear_differences(world: World) -> None:
    lists = {
        "bad": ranked(world, 2.0, 1),
        "fair": ranked(world, 0.2, 2),
        "good": ranked(world, 0, 3),
    }
    found = study.study_interleaving(
        world, lists, small=(("fair", "good"),), drafts=8, experiments=200
    )
    assert found.agreement.share == 1
    assert found.agreement.pairs == (("bad", "fair"), ("bad", "good"), ("fair", "good"))
    assert found.small[0].treatment == "good"
    assert len(found.small[0].ab_curve) == len(found.small[0].interleaved_curve)


def test_equal_rankers_have_no_ratio(world: World) -> None:
    """An effect of 0 needs infinitely many sessions in both designs."""
    a = ranked(world, 0.1, 1)
    with pytest.raises(ValueError, match=r"true effect = 0\.0 must not be 0"):
        study.sensitivity(world, a, a, names=("a", "a"))
