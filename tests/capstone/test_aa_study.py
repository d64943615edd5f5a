"""A/A, coverage, interleaving and the whole study, at sizes of a second."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.aa_study import study_aa, study_coverage
from capstone.experiment_study import (
    KINDS,
    ExperimentStudy,
    candidate_lists,
    covered,
)
from capstone.interleaved import compare_designs, film_world
from common.errors import InputError
from tests.capstone.small_world import PEOPLE, small_study, small_world, two_arms

K = 10
CHAMPION = two_arms().ranked(two_arms().champion, K)
CANDIDATE = two_arms().ranked(two_arms().candidate, K)


def test_aa_stays_quiet_and_peeking_does_not() -> None:
    """What is found in A/A is false: 5 % at one planned look, far more when every look counts."""
    found = study_aa(small_world(), CHAMPION, repeats=100, users=1000, looks=10, seed=1)
    assert found.quiet, (found.planned, found.planned.ci95)
    assert found.naive.value > 2 * found.planned.value
    assert found.naive.ci95[0] <= found.naive_expected <= found.naive.ci95[1]
    assert found.always_valid.value <= found.planned.value
    assert found.srm.found == 0, "hashing splits evenly: an alarm at p < .001 is a fault"
    assert found.variance_reduction > 0


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """One interval that holds the truth is luck or skill; a hundred tell which."""
    found = study_coverage(small_world(), CHAMPION, CANDIDATE, repeats=100, users=600, seed=2)
    low, high = found.held.ci95
    assert low <= 0.95 <= high, found.held


def test_interleaving_agrees_with_the_world() -> None:
    """Its sign is the effect's, and it needs fewer sessions than the A/B test for it."""
    found = compare_designs(
        small_world(), CHAMPION, CANDIDATE, sessions=3000, drafts=20, experiments=200, seed=3
    )
    assert found.true_effect > 0
    assert found.agrees, (found.preference.effect, found.true_effect)
    assert found.decided, found.preference.ci95
    assert found.sensitivity is not None, found.reason
    assert found.sensitivity.interleaved_sessions < found.sensitivity.ab_sessions


def test_lab_6_sees_the_same_clicks() -> None:
    """The sensitivity is lab 6's: its world must have this world's click probabilities."""
    world = small_world()
    seen = film_world(world, PEOPLE)
    p = world.probabilities(np.arange(PEOPLE), CHAMPION)["click"] * world.examination(K)
    assert np.allclose(seen.click_probability(np.arange(PEOPLE), CHAMPION), p, atol=1e-6)


def test_the_candidates_are_what_they_are_called() -> None:
    """A harmful candidate that harms nobody would make its stop look easy, or impossible."""
    world = small_world()
    lists = candidate_lists(world, two_arms())
    assert set(lists) == {"champion", *KINDS}
    effect = {name: world.true_effect(lists["champion"], each) for name, each in lists.items()}
    assert effect["good"]["clicks"] > 0
    assert effect["harmful"]["clicks"] < effect["equal"]["clicks"] == 0
    assert effect["bait"]["hides"] > 0
    for name, each in lists.items():
        assert each.shape == (PEOPLE, K), name
        assert all(len(set(row)) == K for row in each.tolist()), f"{name} shows an item twice"


@pytest.fixture(scope="module")
def study() -> ExperimentStudy:
    return small_study()


def test_the_study_has_every_design_in_one_table(study: ExperimentStudy) -> None:
    """Estimates of different things must not be compared: each row says what it estimates."""
    designs = [row.design for row in study.rows]
    assert designs[:2] == ["A/B test", "team-draft interleaving"]
    assert sum(design.startswith("off-policy") for design in designs) == 5
    whole = study.rows[-1]
    assert whole.refused
    assert whole.holds_truth is None
    assert len(covered(study.rows)) >= 4
    assert set(study.rollouts) == set(KINDS)


def test_the_broken_and_the_harmful_are_stopped_in_the_study(study: ExperimentStudy) -> None:
    """What the stage reports of them are the figures that a claim rests on."""
    for name in ("harmful", "broken"):
        assert study.rollouts[name].stopped == 1.0, study.rollouts[name]
    assert study.rollouts["equal"].promoted <= 0.25
    assert not study.stops["equal"].report.stopped


def test_too_small_a_study_is_refused() -> None:
    """A look needs a hundred units, or the p-values of A/A are not those of the method."""
    with pytest.raises(InputError, match="users"):
        study_aa(small_world(), CHAMPION, users=500, looks=10)
