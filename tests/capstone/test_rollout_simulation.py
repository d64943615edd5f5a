"""Rollouts in the simulated world: how often the rule is right."""

from __future__ import annotations

import numpy as np

from capstone.rollout import read_plan
from capstone.rollout_simulation import ArmLaw, arm_law, characteristics, simulate_rollout

RNG = np.random.default_rng(0)
EXAMINED = 1 / np.log2(np.arange(10) + 2.0)
CLICK = RNG.beta(2, 8, (200, 10)) * EXAMINED
HIDE = np.full((200, 10), 0.004) * EXAMINED
CHAMPION = arm_law({"click": CLICK, "hide": HIDE})
REPEATS = 25


def law(clicks: float = 1.0, hides: float = 1.0, **bad: float) -> ArmLaw:
    return arm_law({"click": CLICK * clicks, "hide": HIDE * hides}, **bad)


def test_the_law_has_the_mean_of_the_world() -> None:
    """Rollouts draw from this law, so its mean must be the sum of the chances."""
    assert np.isclose(CHAMPION.clicks.mean, CLICK.sum(axis=1).mean())
    assert np.isclose(CHAMPION.clicks.chance.sum(), 1.0)
    p = 1 - np.prod(1 - HIDE, axis=1)
    assert np.isclose(CHAMPION.hidden, p.mean())


def test_windows_draw_from_the_law() -> None:
    """A window's mean and squares are those of a real sample, or the interval would be wrong."""
    rng = np.random.default_rng(1)
    found = CHAMPION.window(200_000, rng)
    assert abs(found.moments.mean - CHAMPION.clicks.mean) < 0.01
    assert abs(found.moments.variance / CHAMPION.clicks.variance - 1) < 0.02
    assert abs(found.hidden / found.sessions - CHAMPION.hidden) < 0.002


def test_harm_is_stopped_and_gain_is_promoted_and_chance_is_neither() -> None:
    """The operating characteristics: the bad never pass, the good do, the equal almost never."""
    plan = read_plan()
    good = characteristics("good", CHAMPION, law(1.25), plan, repeats=REPEATS)
    equal = characteristics("equal", CHAMPION, law(), plan, repeats=REPEATS)
    bait = characteristics("bait", CHAMPION, law(1.1, 3.0), plan, repeats=REPEATS)
    harmful = characteristics("harmful", CHAMPION, law(0.6, 2.0), plan, repeats=REPEATS)
    broken = characteristics("broken", CHAMPION, law(1.0, error=0.1), plan, repeats=REPEATS)
    assert good.promoted >= 0.9, good.promoted
    assert equal.promoted <= 0.1, equal.promoted
    for found in (bait, harmful, broken):
        assert found.stopped == 1.0, (found.name, found.stopped, found.promoted)
    assert bait.effect > 0, "bait earns clicks, and is stopped by its hides alone"
    assert harmful.exposed < good.exposed, "harm is seen sooner than a gain is proven"


def test_a_rollout_is_a_function_of_its_seed() -> None:
    """Operating characteristics that cannot be repeated cannot be checked."""
    plan = read_plan()
    first, second = (simulate_rollout(CHAMPION, law(1.1), plan, seed=5) for _ in range(2))
    assert first == second
    assert first != simulate_rollout(CHAMPION, law(1.1), plan, seed=6)
