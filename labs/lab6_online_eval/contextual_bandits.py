"""Contextual bandits: the best arm depends on who asks. LinUCB and linear Thompson sampling.

Each arm has a ridge regression of its reward on the context ("disjoint" models). The policy needs
of each arm the inverse ``A^-1`` of ``A = I + sum x x'`` and the vector ``b = sum r x``; then
``theta = A^-1 b``, and ``x' A^-1 x`` says how little is known about the arm at x.

The inverse is kept up to date by the Sherman-Morrison formula: O(d^2) a round instead of O(d^3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.bandits import Floats, Ints, Played, checkpoints


class ContextualPolicy(Protocol):
    """Chooses an arm for a context, and takes note of the reward, in each of many runs.

    ``inverse`` is float [runs, arms, d, d], ``response`` float [runs, arms, d], ``context`` float
    [runs, d].
    """

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        """The arm of each run, int [runs]."""
        ...

    def update(
        self, inverse: Floats, response: Floats, context: Floats, action: Ints, reward: Floats
    ) -> None:
        """Enter the rewards (float [runs]) of the chosen arms, in place."""
        ...


@exercise(
    "6.20",
    points=15,
    title="LinUCB: choose and update",
    hint="How uncertain is the prediction at this context, as a standard deviation? And when one "
    "reward comes in, which arm's inverse changes, and by which outer product?",
)
@dataclass(frozen=True)
class LinUcb:
    """The arm with the largest upper confidence bound of a ridge regression.

    ``alpha`` is the width of the bound in standard deviations of the prediction; with 0 the policy
    is greedy.

    Notes
    -----
    Li, Chu, Langford & Schapire (2010), A Contextual-Bandit Approach to Personalized News Article
    Recommendation, WWW, algorithm 1. Sherman & Morrison (1950), Ann. Math. Stat. 21.
    """

    alpha: float

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        """The arm of the largest ``x' theta_a + alpha sqrt(x' A_a^-1 x)``: int [runs].

        ``inverse`` float [runs, arms, d, d] holds the A_a^-1, ``response`` float [runs, arms, d]
        the b_a, ``context`` float [runs, d] the x. ``rng`` is not needed.
        """
        toward = np.einsum("rkij,rj->rki", inverse, context)
        mean = np.einsum("rki,rki->rk", toward, response)
        width = np.sqrt(np.einsum("rki,ri->rk", toward, context))
        return np.asarray((mean + self.alpha * width).argmax(axis=1), dtype=np.int64)

    def update(
        self, inverse: Floats, response: Floats, context: Floats, action: Ints, reward: Floats
    ) -> None:
        """Enter one reward a run (float [runs]) for the arms ``action`` int [runs], in place.

        (A + x x')^-1 = A^-1 - (A^-1 x)(A^-1 x)' / (1 + x' A^-1 x),     b += r x
        """
        run = np.arange(len(action))
        toward = np.einsum("rij,rj->ri", inverse[run, action], context)
        scale = 1 + np.einsum("ri,ri->r", toward, context)
        inverse[run, action] -= toward[:, :, None] * toward[:, None, :] / scale[:, None, None]
        response[run, action] += reward[:, None] * context


class LinThompson(LinUcb):
    """Linear Thompson sampling: theta from ``N(A^-1 b, alpha^2 A^-1)``, then the best arm.

    Only ``x' theta`` matters, and that is normal with mean ``x' A^-1 b`` and standard deviation
    ``alpha sqrt(x' A^-1 x)``: one draw an arm, no square root of a matrix.

    Notes
    -----
    Agrawal & Goyal (2013), Thompson Sampling for Contextual Bandits with Linear Payoffs, ICML,
    algorithm 1, with one model an arm.
    """

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        toward = np.einsum("rkij,rj->rki", inverse, context)
        mean = np.einsum("rki,rki->rk", toward, response)
        width = np.sqrt(np.einsum("rki,ri->rk", toward, context))
        drawn = mean + self.alpha * width * rng.standard_normal(mean.shape)
        return np.asarray(drawn.argmax(axis=1), dtype=np.int64)


class IgnoringContext(LinUcb):
    """LinUCB that sees only the constant: what a bandit without contexts can reach here."""

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        return super().choose(inverse, response, only_constant(context), rng)

    def update(
        self, inverse: Floats, response: Floats, context: Floats, action: Ints, reward: Floats
    ) -> None:
        super().update(inverse, response, only_constant(context), action, reward)


@dataclass(frozen=True)
class LinearWorld:
    """Rewards ``x' theta_a`` plus normal noise: the truth is known, and the model is right.

    ``theta`` float [arms, d]; contexts are a constant 1 and d - 1 coordinates uniform on a sphere;
    ``noise`` is a standard deviation.
    """

    theta: Floats
    noise: float

    @property
    def arms(self) -> int:
        return len(self.theta)

    @property
    def d(self) -> int:
        return self.theta.shape[1]

    def contexts(self, n: int, rng: np.random.Generator) -> Floats:
        """Float [n, d]; the length of the coordinates beside the constant is 1."""
        direction = rng.standard_normal((n, self.d - 1))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return np.concatenate([np.ones((n, 1)), direction], axis=1)


def linear_world(
    arms: int = 5, d: int = 6, *, noise: float = 0.5, common: float = 0.1, seed: int = 0
) -> LinearWorld:
    """A world in which every arm is the best for somebody; ``common`` is the spread of the arms'
    means over all contexts, next to a spread of 0.5 by context.
    """
    require(arms >= 2, "arms", arms, "must be at least 2")
    require(d >= 2, "d", d, "must be at least 2", "a constant and one feature")
    require(noise > 0, "noise", noise, "must be > 0")
    rng = np.random.default_rng(seed)
    theta = np.concatenate(
        [common * rng.standard_normal((arms, 1)), 0.5 * rng.standard_normal((arms, d - 1))], axis=1
    )
    return LinearWorld(theta, noise)


def play_contextual(
    policy: ContextualPolicy,
    world: LinearWorld,
    rounds: int,
    runs: int,
    seed: int,
    *,
    batch: int = 1,
    delay: int = 0,
) -> Played:
    """Let a contextual policy play, in independent runs.

    Parameters
    ----------
    batch
        The policy is updated every ``batch`` rounds, with all that has come in (1: every round).
    delay
        Rounds until a reward is known.

    Returns
    -------
    Played
        Regret is against the best arm *of each context*; ``wins`` holds sums of rewards.

    Raises
    ------
    InputError
        Fewer than two runs, no rounds, a negative delay, a batch below 1.
    """
    require(rounds >= 1, "rounds", rounds, "must be at least 1")
    require(runs >= 2, "runs", runs, "must be at least 2", "an interval needs more than one")
    require(batch >= 1, "batch", batch, "must be at least 1")
    require(delay >= 0, "delay", delay, "must not be negative")
    rng = np.random.default_rng(seed)
    inverse = np.tile(np.eye(world.d), (runs, world.arms, 1, 1))
    response = np.zeros((runs, world.arms, world.d))
    wins, pulls = np.zeros((runs, world.arms)), np.zeros((runs, world.arms))
    run = np.arange(runs)
    read = checkpoints(rounds)
    due = set(read.tolist())
    lost, curve = np.zeros(runs), []
    waiting: list[tuple[Floats, Ints, Floats]] = []
    for t in range(1, rounds + 1):
        context = world.contexts(runs, rng)
        mean = context @ world.theta.T
        action = policy.choose(inverse, response, context, rng)
        reward = mean[run, action] + world.noise * rng.standard_normal(runs)
        lost = lost + mean.max(axis=1) - mean[run, action]
        wins[run, action] += reward
        pulls[run, action] += 1
        waiting.append((context, action, reward))
        if t % batch == 0:
            known = max(len(waiting) - delay, 0)
            for each in waiting[:known]:
                policy.update(inverse, response, *each)
            del waiting[:known]
        if t in due:
            curve.append(lost)
    return Played(read, np.stack(curve, axis=1), wins, pulls)


def inverse_by_definition(contexts: Floats) -> Floats:
    """``(I + X'X)^-1`` for contexts float [n, d]: what the running update must agree with."""
    return np.asarray(np.linalg.inv(np.eye(contexts.shape[1]) + contexts.T @ contexts))


def only_constant(context: Floats) -> Floats:
    """The context with everything but its constant set to 0, same shape."""
    kept = np.zeros_like(context)
    kept[:, 0] = context[:, 0]
    return kept
