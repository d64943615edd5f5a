"""Multi-armed bandits: which arm next, when every round of finding out costs a reward.

A policy sees, of each arm, how often it won and lost so far, and chooses one. All policies here are
written for many independent runs at once, so that a regret curve has an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr, xlogy

from common.errors import require
from common.exercises import exercise
from common.statistics import Z95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TINY = 1e-12
HALVINGS = 14


class Policy(Protocol):
    """Chooses an arm in each run, and takes note of what came of it.

    ``wins`` and ``losses`` are float [runs, arms]: sums of rewards and of 1 - reward.
    """

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        """The arm of round t (1, 2, ...) in each run: int [runs]."""
        ...

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        """Enter the rewards (float [runs], 0 to 1) of the chosen arms, in place."""
        ...


class Counting:
    """The update that every policy needs which keeps nothing but sums."""

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        run = np.arange(len(action))
        wins[run, action] += reward
        losses[run, action] += 1 - reward


@dataclass(frozen=True)
class EpsilonGreedy(Counting):
    """With probability ``epsilon`` any arm, otherwise the best so far: regret linear in t."""

    epsilon: float

    def __post_init__(self) -> None:
        require(0 <= self.epsilon <= 1, "epsilon", self.epsilon, "must be from 0 to 1", "try 0.1")

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        return explore(self.epsilon, wins, losses, rng)


@dataclass(frozen=True)
class DecayingEpsilonGreedy(Counting):
    """``epsilon_t = min(1, c K / (gap^2 t))``: regret logarithmic, if ``gap`` was guessed right.

    ``gap`` must be at most the distance from the best arm to the second; ``c`` > 5 in the theorem.

    Notes
    -----
    Auer, Cesa-Bianchi & Fischer (2002), Machine Learning 47, figure 3 and theorem 3.
    """

    gap: float
    c: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.gap < 1, "gap", self.gap, "must be in (0, 1)", "try 0.1")
        require(self.c > 0, "c", self.c, "must be > 0")

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        epsilon = min(1.0, self.c * wins.shape[1] / (self.gap**2 * t))
        return explore(epsilon, wins, losses, rng)


@dataclass(frozen=True)
class Ucb1(Counting):
    """The arm of the largest ``mean + sqrt(2 ln t / n)``: optimism where little is known.

    Notes
    -----
    Auer, Cesa-Bianchi & Fischer (2002), figure 1. Each arm is tried once first.
    """

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        n = wins + losses
        index = sample_mean(wins, losses) + np.sqrt(2 * np.log(t) / np.maximum(n, TINY))
        return best(np.where(n > 0, index, np.inf))


@dataclass(frozen=True)
class KlUcb(Counting):
    """The arm of the largest q that its record does not rule out: ``n kl(mean, q) <= ln t``.

    The Bernoulli divergence in place of UCB1's distance: near 0 and 1 it knows that the variance is
    small, and reaches the Lai-Robbins bound.

    Notes
    -----
    Garivier & Cappe (2011), The KL-UCB Algorithm for Bounded Stochastic Bandits and Beyond, COLT,
    algorithm 1 with c = 0.
    """

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        n = wins + losses
        index = kl_upper(sample_mean(wins, losses), np.log(t) / np.maximum(n, TINY))
        return best(np.where(n > 0, index, np.inf))


@exercise(
    "6.19",
    points=10,
    title="Thompson sampling: choose and update",
    hint="The posterior of an arm is a Beta distribution. What must be drawn, how many times a "
    "round, and which of its two counts does a failure raise?",
)
@dataclass(frozen=True)
class ThompsonSampling:
    """Choose each arm as often as it is the best one in the posterior.

    An arm with w wins and l losses has the posterior ``Beta(a + w, b + l)`` under the prior
    ``Beta(a, b)``. One value is drawn for *every arm of every run*, and the arm of the largest is
    played.

    Notes
    -----
    Thompson (1933), Biometrika 25; Chapelle & Li (2011), An Empirical Evaluation of Thompson
    Sampling, NeurIPS, algorithm 2; Agrawal & Goyal (2012), COLT.
    """

    a: float = 1.0
    b: float = 1.0

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        """The arm of each run, int [runs], for ``wins`` and ``losses`` float [runs, arms].

        ``t`` is not needed: what remains uncertain is in the posterior.
        """
        drawn = rng.beta(self.a + wins, self.b + losses)
        return np.asarray(drawn.argmax(axis=1), dtype=np.int64)

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        """Enter ``reward`` float [runs], 0 or 1, of the arms ``action`` int [runs], in place."""
        run = np.arange(len(action))
        wins[run, action] += reward
        losses[run, action] += 1 - reward


@dataclass(frozen=True)
class Played:
    """What a policy did in ``runs`` independent runs.

    ``rounds`` int [c]: where the curve was read; ``regret`` float [runs, c]: sum over the rounds so
    far of the best arm's mean less the chosen arm's; ``wins``, ``pulls`` float [runs, arms]: at the
    end.
    """

    rounds: Ints
    regret: Floats
    wins: Floats
    pulls: Floats

    @property
    def mean(self) -> Floats:
        """Mean regret over runs, float [c]."""
        return np.asarray(self.regret.mean(axis=0))

    @property
    def half_width(self) -> Floats:
        """Half of the 95 % interval of the mean, float [c]."""
        spread = self.regret.std(axis=0, ddof=1) / np.sqrt(len(self.regret))
        return np.asarray(Z95 * spread)


def play(
    policy: Policy, means: Sequence[float], rounds: int, runs: int, seed: int, *, batch: int = 1
) -> Played:
    """Let a policy play Bernoulli arms, in independent runs.

    Parameters
    ----------
    means
        The true mean of each arm, in [0, 1]; at least two.
    batch
        Rewards come back to the policy ``batch`` rounds at a time; 1: at once.

    Returns
    -------
    Played
        The regret is that of the chosen means, not of the drawn rewards: same expectation, less
        noise.

    Raises
    ------
    InputError
        Fewer than two arms or runs, a mean outside [0, 1], fewer rounds than arms.
    """
    truth = checked_means(means)
    require(rounds >= len(truth), "rounds", rounds, f"must be at least {len(truth)}, one an arm")
    require(runs >= 2, "runs", runs, "must be at least 2", "an interval needs more than one")
    require(batch >= 1, "batch", batch, "must be at least 1")
    rng = np.random.default_rng(seed)
    wins, losses = np.zeros((runs, len(truth))), np.zeros((runs, len(truth)))
    read = checkpoints(rounds)
    lost, curve = np.zeros(runs), []
    loss = truth.max() - truth
    waiting: list[tuple[Ints, Floats]] = []
    due = set(read.tolist())
    for t in range(1, rounds + 1):
        action = policy.choose(wins, losses, t, rng)
        reward = (rng.random(runs) < truth[action]).astype(float)
        lost = lost + loss[action]
        waiting.append((action, reward))
        if t % batch == 0:
            for each in waiting:
                policy.update(wins, losses, *each)
            waiting.clear()
        if t in due:
            curve.append(lost)
    for each in waiting:
        policy.update(wins, losses, *each)
    return Played(read, np.stack(curve, axis=1), wins, wins + losses)


def explore(epsilon: float, wins: Floats, losses: Floats, rng: np.random.Generator) -> Ints:
    """The best arm so far, or with probability ``epsilon`` any: int [runs]; untried arms first."""
    runs, arms = wins.shape
    greedy = best(np.where(wins + losses > 0, sample_mean(wins, losses), np.inf))
    return np.where(rng.random(runs) < epsilon, rng.integers(0, arms, runs), greedy)


def best(index: Floats) -> Ints:
    """The arm of the largest index, int [runs]; of equals the first."""
    return np.asarray(index.argmax(axis=1), dtype=np.int64)


def sample_mean(wins: Floats, losses: Floats) -> Floats:
    """Mean reward of each arm, 0 where it was not played; same shape."""
    return np.asarray(wins / np.maximum(wins + losses, TINY))


def kl_bernoulli(p: Floats, q: Floats) -> Floats:
    """``p ln(p/q) + (1-p) ln((1-p)/(1-q))``, elementwise; infinite if q rules p out."""
    return np.asarray(rel_entr(p, q) + rel_entr(1 - np.asarray(p), 1 - np.asarray(q)))


def kl_upper(mean: Floats, budget: Floats, *, halvings: int = HALVINGS) -> Floats:
    """The largest q >= mean with ``kl(mean, q) <= budget``, by bisection; same shape.

    The start is Pinsker's ``mean + sqrt(budget / 2)``, which is never below it.
    """
    mean = low = np.asarray(mean, dtype=float)
    high = np.minimum(low + np.sqrt(np.asarray(budget) / 2), 1 - TINY)
    high = np.maximum(high, low)
    entropy = xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)
    for _ in range(halvings):
        middle = (low + high) / 2
        inside = np.clip(middle, TINY, 1 - TINY)
        cross = -mean * np.log(inside) - (1 - mean) * np.log(1 - inside)
        allowed = entropy + cross <= budget
        low, high = np.where(allowed, middle, low), np.where(allowed, high, middle)
    return np.asarray((low + high) / 2)


def checkpoints(rounds: int, n: int = 60) -> Ints:
    """Up to n rounds from 1 to ``rounds``, evenly spaced in the logarithm."""
    return np.unique(np.geomspace(1, rounds, n).round().astype(np.int64))


def checked_means(means: Sequence[float]) -> Floats:
    """Means of arms as float [arms]; `InputError` unless at least two, all in [0, 1]."""
    truth = np.asarray(means, dtype=float)
    require(truth.ndim == 1 and len(truth) >= 2, "arms", truth.shape, "must be at least 2")
    outside = int(np.count_nonzero(~((truth >= 0) & (truth <= 1))))
    require(outside == 0, "means outside [0, 1]", outside, "must be 0", "use probabilities")
    return truth
