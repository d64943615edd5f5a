"""A/A: the same feed in both arms, many times. What is found is false, and can be counted.

Every repeat assigns people anew by the service's hash, draws their simulated sessions, and goes
through the analysis' own functions: sample ratio, CUPED, test. Only the log is left out, which
would cost minutes. Beside the one planned look stand ten looks taken naively, stopping at the first
p < .05, and ten looks at an always-valid p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.experiment_log import BEFORE, Floats, Ints
from capstone.world import World
from common.errors import require
from common.statistics import proportion_ci
from labs.lab6_online_eval.assignment import assign_many
from labs.lab6_online_eval.confidence_sequences import always_valid_p, tuning_for_looks
from labs.lab6_online_eval.peeking import naive_false_positives
from labs.lab6_online_eval.significance import Comparison, compare
from labs.lab6_online_eval.srm import srm_test

Chances = NDArray[np.float32]
ALPHA = 0.05
HALVES = (0.5, 0.5)


@dataclass(frozen=True)
class Share:
    """How many of the repeats it happened in, with Wilson's 95 % interval."""

    found: int
    n: int

    @property
    def value(self) -> float:
        return self.found / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        return proportion_ci(self.found, self.n)


@dataclass(frozen=True)
class AAStudy:
    """What A/A repeats showed: the shares that raised an alarm.

    Attributes
    ----------
    planned
        p < .05 at the one planned look, with CUPED.
    naive, always_valid
        p < .05 at any of ``looks`` looks: by the same test, and by an always-valid p.
    srm
        Sample ratio alarms (p < .001).
    naive_expected
        What integration says of the naive looks (lab 6).
    effects
        Float [n]: the planned estimates.
    variance_reduction
        Mean share of the variance that CUPED removed.
    """

    planned: Share
    naive: Share
    always_valid: Share
    srm: Share
    naive_expected: float
    effects: Floats
    variance_reduction: float
    users: int
    looks: int

    @property
    def quiet(self) -> bool:
        """Whether the false positives of the planned look are compatible with .05."""
        low, high = self.planned.ci95
        return low <= ALPHA <= high


def study_aa(
    world: World,
    lists: Ints,
    *,
    repeats: int = 200,
    users: int = 2000,
    looks: int = 10,
    seed: int = 0,
) -> AAStudy:
    """Repeat an A/A test of ``lists`` [n_people, k] with ``users`` units.

    Parameters
    ----------
    repeats
        At least 2; fewer than 200 give a wide interval.
    looks
        Equally spaced, the last at the end.
    """
    require(repeats >= 2, "repeats", repeats, "must be at least 2", "try 200")
    require(users >= 100 * looks, "users", users, f"must be at least {100 * looks}: 100 a look")
    rng = np.random.default_rng(seed)
    chance = _chance(world, lists)
    sizes = np.linspace(0, users, looks + 1)[1:].astype(int)
    tuned_for = tuning_for_looks([float(size) for size in sizes])
    unit_ids = np.array([f"unit-{number}" for number in range(users)])
    hits = dict.fromkeys(("planned", "naive", "always_valid", "srm"), 0)
    effects, reductions = np.empty(repeats), np.empty(repeats)
    for number in range(repeats):
        arm = assign_many(unit_ids, f"aa-{seed}-{number}", HALVES)
        people = rng.integers(0, len(lists), users)
        clicks, before = _sessions(chance, people, 1, rng), _sessions(chance, people, BEFORE, rng)
        tests = [_test(clicks[:size], before[:size], arm[:size]) for size in sizes]
        p = np.array([test.p for test in tests])
        valid = always_valid_p(
            [test.effect for test in tests], [test.se for test in tests], sizes, tuned_for=tuned_for
        )
        hits["planned"] += bool(p[-1] < ALPHA)
        hits["naive"] += bool((p < ALPHA).any())
        hits["always_valid"] += bool((valid < ALPHA).any())
        hits["srm"] += srm_test(np.bincount(arm, minlength=2).tolist(), HALVES).mismatch
        effects[number], reductions[number] = tests[-1].effect, tests[-1].variance_reduction
    counted = {name: Share(found, repeats) for name, found in hits.items()}
    return AAStudy(
        **counted,
        naive_expected=naive_false_positives(looks),
        effects=effects,
        variance_reduction=float(reductions.mean()),
        users=users,
        looks=looks,
    )


@dataclass(frozen=True)
class Coverage:
    """A/B repeats: how many intervals held the true effect, and how many excluded 0.

    ``first``: the first of them.
    """

    held: Share
    significant: Share
    true_effect: float
    first: Comparison


def study_coverage(
    world: World,
    control: Ints,
    treatment: Ints,
    *,
    repeats: int = 200,
    users: int = 2000,
    seed: int = 0,
) -> Coverage:
    """Repeat the A/B test of two feeds: its 95 % interval is to hold the truth 95 % of the time.

    Parameters
    ----------
    control, treatment
        Int [n_people, k]: the feed of everybody in either arm.
    """
    require(repeats >= 2, "repeats", repeats, "must be at least 2", "try 200")
    rng = np.random.default_rng([seed, 1])
    chances = [_chance(world, lists) for lists in (control, treatment)]
    truth = world.true_effect(control, treatment)["clicks"]
    unit_ids = np.array([f"unit-{number}" for number in range(users)])
    tests: list[Comparison] = []
    for number in range(repeats):
        arm = assign_many(unit_ids, f"ab-{seed}-{number}", HALVES)
        people = rng.integers(0, len(control), users)
        before = _sessions(chances[0], people, BEFORE, rng)
        served = [_sessions(chance, people, 1, rng) for chance in chances]
        tests.append(_test(np.where(arm == 1, served[1], served[0]), before, arm))
    held = sum(test.ci95[0] <= truth <= test.ci95[1] for test in tests)
    significant = sum(test.p < ALPHA for test in tests)
    return Coverage(Share(held, repeats), Share(significant, repeats), truth, tests[0])


def _chance(world: World, lists: Ints) -> Chances:
    """P(click) at each place, [n_people, k]."""
    click = world.probabilities(np.arange(len(lists)), lists)["click"]
    return np.asarray(click * world.examination(lists.shape[1]), dtype=np.float32)


def _sessions(chance: Chances, people: Ints, n: int, rng: np.random.Generator) -> Floats:
    """Mean clicks a session of n sessions each, float [len(people)]."""
    mine = chance[people]
    total = np.zeros(len(people))
    for _ in range(n):
        total += (rng.random(mine.shape, dtype=np.float32) < mine).sum(axis=1)
    return total / n


def _test(clicks: Floats, before: Floats, arm: Ints) -> Comparison:
    control, treatment = arm == 0, arm == 1
    return compare(
        clicks[control],
        clicks[treatment],
        control_covariate=before[control],
        treatment_covariate=before[treatment],
    )
