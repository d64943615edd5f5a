"""The simulated world: what it draws is what it says is true."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval.world import Change, Service, World, simulate

LISTS = (np.tile(np.arange(10), (50, 1)), np.tile(np.arange(5, 15), (50, 1)))


@pytest.fixture(scope="module")
def world() -> World:
    """Fifty people and fifteen films, the later ones liked more and known less."""
    rng = np.random.default_rng(0)
    appeal = np.linspace(0.05, 0.3, 15) * rng.uniform(0.5, 1.0, (50, 15))
    awareness = np.linspace(0.8, 0.0, 15)
    return World(appeal, awareness, rng.uniform(0.5, 2.0, 50), np.zeros((50, 15), dtype=bool))


def test_simulated_clicks_have_the_true_effect(world: World) -> None:
    """Each person's clicks a session, averaged over people as equals, within four errors."""
    people = np.tile(np.arange(50), 400)
    arm = np.repeat([0, 1], len(people) // 2)
    sessions = simulate(world, LISTS, arm, people, days=10, seed=1)
    mean, error = np.zeros((2, 50)), np.zeros((2, 50))
    for number in (0, 1):
        part = sessions.where(sessions.arm == number)
        n = np.bincount(part.person, minlength=50)
        mean[number] = np.bincount(part.person, part.clicks, 50) / n
        squares = np.bincount(part.person, part.clicks**2, 50) / n
        error[number] = (squares - mean[number] ** 2) / n
    found = float((mean[1] - mean[0]).mean())
    allowed = 4 * float(np.sqrt(error.sum())) / 50
    truth = world.true_effect(*LISTS)
    assert abs(found - truth) < allowed, (found, truth, allowed)
    assert allowed < 0.1 * truth


def test_a_changing_effect_begins_and_ends_where_it_is_said_to() -> None:
    """Novelty 1.5 begins at 2.5 times the effect and ends at 1; learning the other way round."""
    ends = np.array([0.0, 1e6])
    assert Change(novelty=1.5).factor(ends) == pytest.approx([2.5, 1.0])
    assert Change(learning=1.5).factor(ends) == pytest.approx([1.0, 2.5])


@pytest.mark.parametrize("number", [-1, 2])
def test_who_is_in_no_arm_is_not_simulated_without_clicks(world: World, number: int) -> None:
    """-1 is "not in the experiment": such units would have come, and never clicked anything."""
    arm = np.array([0, 1, number, 1])
    with pytest.raises(InputError, match="units in an arm without lists = 1"):
        simulate(world, LISTS, arm, np.arange(4), days=7, seed=0)


def test_each_arm_has_its_own_service(world: World) -> None:
    """One service for two arms is refused in a sentence."""
    with pytest.raises(InputError, match="services = 1 must be 2"):
        simulate(
            world, LISTS, np.array([0, 1]), np.arange(2), days=7, seed=0, services=(Service(),)
        )
