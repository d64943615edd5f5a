"""Regret against theory: what no policy can undercut, what UCB1 never exceeds, and what was paid.

Regret after T rounds: ``sum_t (mu* - mu_{a_t})``, the reward given up to find the best arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from common.errors import require
from common.statistics import Z95
from labs.lab6_online_eval.bandits import (
    Floats,
    Ints,
    Played,
    checked_means,
    checkpoints,
    kl_bernoulli,
)


def lai_robbins_constant(means: Sequence[float]) -> float:
    """``sum over worse arms of gap / kl(mu, mu*)``: the least regret for each unit of ln T.

    A policy whose regret is below every power of T on *every* instance has, as T grows,
    ``regret / ln T`` at least this.

    Notes
    -----
    Lai & Robbins (1985), Advances in Applied Mathematics 6, theorem 1. It is a limit: at a finite T
    a good policy may lie below ``C ln T``, and it need not have the slope yet.
    """
    truth = checked_means(means)
    top = truth.max()
    worse = truth[truth < top]
    return float(((top - worse) / kl_bernoulli(worse, np.full_like(worse, top))).sum())


def ucb1_bound(means: Sequence[float], rounds: ArrayLike) -> Floats:
    """What UCB1's expected regret never exceeds, at each of ``rounds``: same shape.

        8 sum_{worse} ln T / gap  +  (1 + pi^2 / 3) sum gap

    Notes
    -----
    Auer, Cesa-Bianchi & Fischer (2002), Finite-time Analysis of the Multiarmed Bandit Problem,
    Machine Learning 47, theorem 1. It holds for every T.
    """
    truth = checked_means(means)
    gap = (truth.max() - truth)[truth < truth.max()]
    logs = np.log(np.asarray(rounds, dtype=float))
    return np.asarray(8 * (1 / gap).sum() * logs + (1 + np.pi**2 / 3) * gap.sum())


@dataclass(frozen=True)
class LogFit:
    """``regret = intercept + slope ln t`` by least squares, with the 95 % interval of the slope.

    The interval is over runs (each run's own slope), since the points of one curve are not
    independent.
    """

    slope: float
    low: float
    high: float
    intercept: float


def log_fit(played: Played, *, start: float = 0.1) -> LogFit:
    """Fit the late part of a regret curve: from ``start`` times the last round on.

    Raises
    ------
    InputError
        ``start`` outside (0, 1), or fewer than five points left.
    """
    require(0 < start < 1, "start", start, "must be in (0, 1)", "try 0.1")
    late = played.rounds >= start * played.rounds[-1]
    require(int(late.sum()) >= 5, "points of the curve", int(late.sum()), "must be at least 5")
    x = np.log(played.rounds[late])
    centred = x - x.mean()
    slopes = played.regret[:, late] @ centred / (centred @ centred)
    slope = float(slopes.mean())
    half = Z95 * float(slopes.std(ddof=1)) / sqrt(len(slopes))
    intercept = float(played.mean[late].mean() - slope * x.mean())
    return LogFit(slope, slope - half, slope + half, intercept)


def ab_then_commit(
    means: Sequence[float], per_arm: int, rounds: int, runs: int, seed: int
) -> Played:
    """An A/B test as a bandit: each arm ``per_arm`` times, then for good the one that looked best.

    The regret of the test grows linearly to ``per_arm * sum(gaps)``; after it, by the chosen arm's
    gap in each round.

    Notes
    -----
    Explore-then-commit: Lattimore & Szepesvari (2020), Bandit Algorithms, chapter 6.
    """
    truth = checked_means(means)
    arms = len(truth)
    require(per_arm >= 1, "per_arm", per_arm, "must be at least 1")
    require(runs >= 2, "runs", runs, "must be at least 2")
    require(rounds >= per_arm * arms, "rounds", rounds, f"must be at least {per_arm * arms}")
    rng = np.random.default_rng(seed)
    wins = rng.binomial(per_arm, truth, (runs, arms)).astype(float)
    chosen: Ints = wins.argmax(axis=1)
    gap = truth.max() - truth
    read = checkpoints(rounds)
    test = per_arm * arms
    tested = np.minimum(read, test) * gap.mean()
    regret = tested + np.maximum(read - test, 0) * gap[chosen][:, None]
    pulls = np.full((runs, arms), float(per_arm))
    left = rounds - test
    pulls[np.arange(runs), chosen] += left
    wins[np.arange(runs), chosen] += rng.binomial(left, truth[chosen])
    return Played(read, regret, wins, pulls)
