"""How many sessions interleaving needs, against an A/B test, to find the same difference.

Both designs see sessions of people drawn at random, one session a person. The A/B side is known
without simulation: the law of clicks a session follows from the world. For the interleaved side
drafts are simulated, and given the list and the teams the law of the credit is known too. So the
counts of whole experiments can be drawn from those laws, thousands at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm
from scipy.stats import t as student_t

from common.errors import require
from common.statistics import Z95, proportion_ci
from labs.lab6_online_eval.interleaving import coins, team_draft_many
from labs.lab6_online_eval.world import Floats, Ints, World

EXPERIMENTS = 2000


@dataclass(frozen=True)
class Law:
    """A whole number a session and its distribution: ``values`` [m], ``chance`` [m]."""

    values: Floats
    chance: Floats

    @property
    def mean(self) -> float:
        return float(self.values @ self.chance)

    @property
    def variance(self) -> float:
        return float((self.values - self.mean) ** 2 @ self.chance)

    def moments(self, sessions: int, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Mean and sample variance in n experiments of ``sessions`` sessions each: float [n]."""
        counts = rng.multinomial(sessions, self.chance, size=n)
        mean = counts @ self.values / sessions
        squares = counts @ self.values**2
        return mean, (squares - sessions * mean**2) / (sessions - 1)


def law_of_sum(chance: Floats, sign: NDArray[np.int64]) -> Law:
    """The law of ``sum_j sign_j * click_j`` over all rows, clicks independent within one.

    ``chance`` float [n, k]: click probabilities; ``sign`` int [n, k], -1 or 1.
    """
    n, k = chance.shape
    law = np.zeros((n, 2 * k + 1))
    law[:, k] = 1.0
    for position in range(k):
        p = chance[:, position, None]
        moved = np.where(
            sign[:, position, None] > 0, np.roll(law, 1, axis=1), np.roll(law, -1, axis=1)
        )
        law = (1 - p) * law + p * moved
    mixture = law.mean(axis=0)
    return Law(np.arange(-k, k + 1.0), mixture / mixture.sum())


def click_law(world: World, lists: Ints) -> Law:
    """Clicks a session of a random person with ``lists`` [n_users, k]: exact."""
    chance = world.click_probability(np.arange(world.n_users), lists)
    return law_of_sum(chance, np.ones(chance.shape, dtype=np.int64))


@dataclass(frozen=True)
class Drafts:
    """Simulated drafts of two rankers: the credit's law, and its mean with a standard error."""

    law: Law
    preference: float
    se: float


def draft(world: World, a: Ints, b: Ints, drafts: int, seed: int) -> Drafts:
    """Team drafts of every user, ``drafts`` each, and what the world says of their credit.

    ``preference`` is the mean credit a session (B's clicks less A's), of the true click
    probabilities: the only noise left is the drafts' own coins.
    """
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(world.n_users), drafts)
    films, teams = team_draft_many(a[people], b[people], coins(len(people), a.shape[1], rng))
    chance = world.click_probability(people, films)
    sign = 2 * teams.astype(np.int64) - 1
    # users are all of them, not a sample: the error is the coins' within a user
    expected = (chance * sign).sum(axis=1).reshape(world.n_users, drafts)
    within = expected.var(axis=1, ddof=1).mean() if drafts > 1 else np.nan
    se = sqrt(float(within) / len(people))
    return Drafts(law_of_sum(chance, sign), float(expected.mean()), se)


@dataclass(frozen=True)
class PowerAt:
    """Share of simulated experiments of ``sessions`` that found the difference, Wilson 95 %."""

    sessions: int
    power: float
    low: float
    high: float


@dataclass(frozen=True)
class Sensitivity:
    """One pair of rankers in both designs.

    Attributes
    ----------
    true_effect
        Clicks a session of ``treatment`` less those of ``control``: the world's, exact.
    preference
        Mean interleaved credit a session; its sign is to agree with ``true_effect``.
    ab_sessions, interleaved_sessions
        Sessions in all (both arms) for the power asked for, by the normal formula.
    ratio, ratio_low, ratio_high
        ``ab_sessions / interleaved_sessions`` and its 95 % interval (error of the drafts).
    ab_at, interleaved_at
        Measured power at those numbers of sessions.
    ab_curve, interleaved_curve
        Measured power along a grid of sessions.
    """

    control: str
    treatment: str
    alpha: float
    power: float
    true_effect: float
    preference: float
    ab_sessions: int
    interleaved_sessions: int
    ratio: float
    ratio_low: float
    ratio_high: float
    ab_at: PowerAt
    interleaved_at: PowerAt
    ab_curve: tuple[PowerAt, ...]
    interleaved_curve: tuple[PowerAt, ...]


def sensitivity(
    world: World,
    control: Ints,
    treatment: Ints,
    *,
    names: tuple[str, str],
    drafts: int = 40,
    alpha: float = 0.05,
    power: float = 0.8,
    experiments: int = EXPERIMENTS,
    seed: int = 0,
) -> Sensitivity:
    """Sessions for the same power in both designs, and the power that these sessions then have.

        n_AB = 2 (z_a + z_b)^2 (s_c^2 + s_t^2) / effect^2        both arms together
        n_IL = (z_a + z_b)^2 s_credit^2 / preference^2

    with ``z_a`` of alpha / 2 and ``z_b`` of the power. The ratio does not depend on either.

    Raises
    ------
    InputError
        Rankers whose true clicks are equal, or whose preference cannot be told from 0 with this
        number of drafts: then there is no ratio.
    """
    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    require(alpha < power < 1, "power", power, "must be between alpha and 1", "try 0.8")
    require(drafts >= 2, "drafts", drafts, "must be at least 2")
    of_control, of_treatment = click_law(world, control), click_law(world, treatment)
    effect = of_treatment.mean - of_control.mean
    require(effect != 0, "true effect", effect, "must not be 0", "choose two rankers that differ")
    drawn = draft(world, control, treatment, drafts, seed)
    require(
        abs(drawn.preference) > 3 * drawn.se,
        "preference",
        drawn.preference,
        f"must be above 3 standard errors ({drawn.se:.2g} each)",
        "simulate more drafts",
    )
    z = float(norm.isf(alpha / 2) + norm.ppf(power))
    ab = 2 * z**2 * (of_control.variance + of_treatment.variance) / effect**2
    interleaved = z**2 * drawn.law.variance / drawn.preference**2
    spread = 2 * Z95 * drawn.se / abs(drawn.preference)
    rng = np.random.default_rng([seed, 1])

    def ab_power(sessions: int) -> PowerAt:
        return _ab_power(of_control, of_treatment, sessions, alpha, experiments, rng)

    def interleaved_power(sessions: int) -> PowerAt:
        return _interleaved_power(drawn.law, sessions, alpha, experiments, rng)

    grid = np.geomspace(interleaved / 8, ab * 2, 15)
    return Sensitivity(
        control=names[0],
        treatment=names[1],
        alpha=alpha,
        power=power,
        true_effect=effect,
        preference=drawn.preference,
        ab_sessions=2 * ceil(ab / 2),
        interleaved_sessions=ceil(interleaved),
        ratio=ab / interleaved,
        ratio_low=ab / interleaved * float(np.exp(-spread)),
        ratio_high=ab / interleaved * float(np.exp(spread)),
        ab_at=ab_power(2 * ceil(ab / 2)),
        interleaved_at=interleaved_power(ceil(interleaved)),
        ab_curve=tuple(ab_power(2 * ceil(n / 2)) for n in grid),
        interleaved_curve=tuple(interleaved_power(ceil(n)) for n in grid),
    )


def _ab_power(
    control: Law, treatment: Law, sessions: int, alpha: float, n: int, rng: np.random.Generator
) -> PowerAt:
    """Welch's test in n experiments with ``sessions // 2`` sessions an arm."""
    each = max(sessions // 2, 2)
    mean_c, var_c = control.moments(each, n, rng)
    mean_t, var_t = treatment.moments(each, n, rng)
    a, b = var_c / each, var_t / each
    dof = (a + b) ** 2 / np.maximum((a**2 + b**2) / (each - 1), 1e-300)
    return _power_at(mean_t - mean_c, np.sqrt(a + b), np.maximum(dof, 1.0), sessions, alpha)


def _interleaved_power(
    law: Law, sessions: int, alpha: float, n: int, rng: np.random.Generator
) -> PowerAt:
    """The t-test of mean credit 0 in n experiments."""
    mean, variance = law.moments(max(sessions, 2), n, rng)
    se = np.sqrt(variance / max(sessions, 2))
    return _power_at(mean, se, np.full(n, max(sessions, 2) - 1.0), sessions, alpha)


def _power_at(effect: Floats, se: Floats, dof: Floats, sessions: int, alpha: float) -> PowerAt:
    found = int((np.abs(effect) > student_t.ppf(1 - alpha / 2, dof) * se).sum())
    return PowerAt(sessions, found / len(effect), *proportion_ci(found, len(effect)))


@dataclass(frozen=True)
class Agreement:
    """Interleaving against the truth, over pairs of rankers: all [n_pairs]."""

    pairs: tuple[tuple[str, str], ...]
    true_effect: Floats
    preference: Floats
    se: Floats

    @property
    def share(self) -> float:
        """Share of the pairs in which the preferred ranker is the one with more clicks."""
        return float((np.sign(self.true_effect) == np.sign(self.preference)).mean())

    @property
    def tau(self) -> float:
        """Kendall's tau between the size of the preference and of the effect."""
        return float(kendalltau(self.true_effect, self.preference).statistic)


def agreement(world: World, lists: dict[str, Ints], *, drafts: int, seed: int) -> Agreement:
    """Every pair of the rankers in ``lists`` interleaved, against their true clicks."""
    require(len(lists) >= 2, "rankers", len(lists), "must be at least 2")
    pairs = tuple(combinations(lists, 2))
    drawn = [draft(world, lists[a], lists[b], drafts, seed + n) for n, (a, b) in enumerate(pairs)]
    return Agreement(
        pairs,
        np.array([world.true_effect(lists[a], lists[b]) for a, b in pairs]),
        np.array([each.preference for each in drawn]),
        np.array([each.se for each in drawn]),
    )


@dataclass(frozen=True)
class InterleavingStudy:
    """What `study_interleaving` measured: small differences in both designs, and every pair."""

    small: tuple[Sensitivity, ...]
    agreement: Agreement


def study_interleaving(
    world: World,
    lists: dict[str, Ints],
    *,
    small: tuple[tuple[str, str], ...],
    drafts: int = 40,
    experiments: int = EXPERIMENTS,
    seed: int = 0,
) -> InterleavingStudy:
    """Sensitivity for the pairs of names in ``small``, agreement over all pairs of ``lists``."""
    return InterleavingStudy(
        tuple(
            sensitivity(
                world,
                lists[control],
                lists[treatment],
                names=(control, treatment),
                drafts=drafts,
                experiments=experiments,
                seed=seed,
            )
            for control, treatment in small
        ),
        agreement(world, lists, drafts=max(drafts // 4, 2), seed=seed),
    )
