"""What may be concluded from data that a bandit collected: biased means, and two repairs.

A bandit plays an arm again only while it looks good. An arm that was unlucky early stays as it is,
one that was lucky is measured again and corrected: over many experiments the sample means are too
low, and their errors are not normal. The propensities with which the arms were drawn repair it, if
they were logged and kept away from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import ndtr

from common.errors import require
from common.statistics import Z95
from labs.lab6_online_eval.bandits import Counting, Floats, Ints, checked_means

TRIES = 20
ESTIMATORS = ("sample_mean", "ipw", "adaptive_weighted")


@dataclass(frozen=True)
class AdaptiveLog:
    """Two-armed experiments whose shares move from batch to batch, as sums by batch.

    ``propensity`` float [n, batches, 2]: chance of each arm in the batch, known before it;
    ``count``, ``total``, ``squares`` float [n, batches, 2]: rewards of the arm in the batch;
    ``size`` rows a batch.
    """

    propensity: Floats
    count: Floats
    total: Floats
    squares: Floats
    size: int


def collect(
    means: tuple[float, float],
    n: int,
    rng: np.random.Generator,
    *,
    batches: int = 25,
    size: int = 100,
    floor: float = 0.05,
) -> AdaptiveLog:
    """n experiments under two-armed Gaussian Thompson sampling, rewards normal with variance 1.

    After each batch, arm 1 gets the posterior probability (flat prior) that it is the better one,

        e = Phi((m_1 - m_0) / sqrt(1/n_0 + 1/n_1)),

    but never less than ``floor`` nor more than 1 - ``floor``. The first batch is split evenly.

    Raises
    ------
    InputError
        ``floor`` outside (0, 0.5], fewer than two batches, batches of fewer than four rows.
    """
    require(0 < floor <= 0.5, "floor", floor, "must be in (0, 0.5]", "try 0.05")
    require(batches >= 2, "batches", batches, "must be at least 2")
    require(size >= 4, "size", size, "must be at least 4")
    shape = n, batches, 2
    propensity, count, total, squares = (np.zeros(shape) for _ in range(4))
    share = np.full(n, 0.5)
    seen, summed = np.zeros((n, 2)), np.zeros((n, 2))
    for batch in range(batches):
        ones = rng.binomial(size, share)
        propensity[:, batch] = np.stack([1 - share, share], axis=1)
        count[:, batch] = np.stack([size - ones, ones], axis=1)
        drawn = count[:, batch]
        noise = rng.standard_normal((n, 2)) * np.sqrt(drawn)
        total[:, batch] = drawn * np.asarray(means) + noise
        # about their mean, m normal values have a chi-square sum of squares on m - 1 degrees
        within = 2 * rng.standard_gamma(np.maximum(drawn - 1, 0) / 2)
        squares[:, batch] = within + total[:, batch] ** 2 / np.maximum(drawn, 1)
        seen, summed = seen + drawn, summed + total[:, batch]
        mean = summed / np.maximum(seen, 1)
        spread = np.sqrt((1 / np.maximum(seen, 1)).sum(axis=1))
        share = np.clip(ndtr((mean[:, 1] - mean[:, 0]) / spread), floor, 1 - floor)
    return AdaptiveLog(propensity, count, total, squares, size)


@dataclass(frozen=True)
class ArmEstimate:
    """Estimated mean of each arm and its standard error: float [n, 2] each."""

    mean: Floats
    se: Floats


def sample_mean(log: AdaptiveLog) -> ArmEstimate:
    """The plain mean and its usual standard error: biased, and not normal, on adaptive data."""
    count, total = log.count.sum(axis=1), log.total.sum(axis=1)
    mean = total / np.maximum(count, 1)
    spread = log.squares.sum(axis=1) - count * mean**2
    variance = spread / np.maximum(count - 1, 1)
    return ArmEstimate(mean, np.sqrt(variance / np.maximum(count, 1)))


def inverse_propensity(log: AdaptiveLog) -> ArmEstimate:
    """``mean of 1{A = a} Y / e``: unbiased; its variance grows with 1/e, its tails with it."""
    return _weighted(log, np.zeros_like(log.total), np.ones_like(log.propensity))


def adaptive_weighted(log: AdaptiveLog) -> ArmEstimate:
    """Adaptively weighted doubly robust means, whose errors are asymptotically normal.

        G_t = m_{t-1} + 1{A_t = a} (Y_t - m_{t-1}) / e_t,     h_t = sqrt(e_t),
        Q   = sum h_t G_t / sum h_t,     se^2 = sum h_t^2 (G_t - Q)^2 / (sum h_t)^2

    ``m_{t-1}`` is the arm's mean *before* the batch. G alone is unbiased, but its variance, about
    1/e_t, differs from row to row with what has happened; h_t levels it, so that a central limit
    theorem for martingales holds.

    Notes
    -----
    Hadad, Hirshberg, Zhan, Wager & Athey (2021), Confidence intervals for policy evaluation in
    adaptive experiments, PNAS 118(15), equations 3 to 6 with the constant allocation rate. The
    propensities must not fall faster than 1/t: hence the floor.
    """
    seen = np.cumsum(log.count, axis=1) - log.count
    summed = np.cumsum(log.total, axis=1) - log.total
    before = summed / np.maximum(seen, 1)
    return _weighted(log, before, np.sqrt(log.propensity))


def top_two_thompson(wins: Floats, losses: Floats, rng: np.random.Generator) -> Ints:
    """The leader of a posterior draw, or with probability 1/2 the first other arm to lead one.

    Plain Thompson sampling hardly plays the second best once the best is nearly known, which is
    right for reward and wrong for being sure. Float [runs, arms] -> int [runs].

    Notes
    -----
    Russo (2016), Simple Bayesian Algorithms for Best Arm Identification, COLT, with beta = 1/2.
    After `TRIES` draws that the leader wins, the last draw's second is taken.
    """
    drawn = rng.beta(1 + wins, 1 + losses)
    leader = drawn.argmax(axis=1)
    chosen = leader.copy()
    open_runs = np.flatnonzero(rng.random(len(wins)) < 0.5)
    for _ in range(TRIES):
        drawn = rng.beta(1 + wins[open_runs], 1 + losses[open_runs])
        chosen[open_runs] = drawn.argmax(axis=1)
        open_runs = open_runs[chosen[open_runs] == leader[open_runs]]
        if not len(open_runs):
            return np.asarray(chosen, dtype=np.int64)
    drawn = rng.beta(1 + wins[open_runs], 1 + losses[open_runs])
    drawn[np.arange(len(open_runs)), leader[open_runs]] = -1
    chosen[open_runs] = drawn.argmax(axis=1)
    return np.asarray(chosen, dtype=np.int64)


class TopTwo(Counting):
    """Top-two Thompson sampling as a policy, see `top_two_thompson`."""

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        return top_two_thompson(wins, losses, rng)


class Uniform(Counting):
    """Every arm in turn: an experiment with equal shares."""

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        return np.full(len(wins), (t - 1) % wins.shape[1], dtype=np.int64)


def share_identified(means: tuple[float, ...], wins: Floats, pulls: Floats) -> float:
    """Share of runs whose best posterior mean is the truly best arm's: float [runs, arms] each."""
    truth = checked_means(means)
    guess = ((1 + wins) / (2 + pulls)).argmax(axis=1)
    return float((guess == truth.argmax()).mean())


@dataclass(frozen=True)
class Reliability:
    """One estimator of one arm's mean over n simulated adaptive experiments.

    ``bias`` with its Monte Carlo standard error ``bias_se``; ``coverage`` of its 95 % interval;
    ``rmse``: root mean square error.
    """

    estimator: str
    arm: int
    bias: float
    bias_se: float
    coverage: float
    rmse: float


def reliability(means: tuple[float, float], n: int, seed: int) -> tuple[Reliability, ...]:
    """Bias and coverage of the three estimators for both arms, on the same n experiments."""
    log = collect(means, n, np.random.default_rng(seed))
    result = []
    estimates = sample_mean(log), inverse_propensity(log), adaptive_weighted(log)
    for name, estimate in zip(ESTIMATORS, estimates, strict=True):
        for arm, truth in enumerate(means):
            error = estimate.mean[:, arm] - truth
            held = np.abs(error) <= Z95 * estimate.se[:, arm]
            result.append(
                Reliability(
                    estimator=name,
                    arm=arm,
                    bias=float(error.mean()),
                    bias_se=float(error.std(ddof=1)) / sqrt(n),
                    coverage=float(held.mean()),
                    rmse=float(np.sqrt((error**2).mean())),
                )
            )
    return tuple(result)


def _weighted(log: AdaptiveLog, model: Floats, weight: Floats) -> ArmEstimate:
    """Weighted mean of doubly robust scores and its standard error, from sums by batch.

    In a batch, the score is ``m`` for rows of the other arm and ``m + (y - m) / e`` for its own.
    """
    total = weight.sum(axis=1) * log.size
    own, e = log.count, log.propensity
    residual = log.total - own * model
    scores = log.size * model + residual / e
    mean = (weight * scores).sum(axis=1) / total
    gap = model - mean[:, None]
    squared = log.squares - 2 * model * log.total + own * model**2
    spread = log.size * gap**2 + 2 * gap * residual / e + squared / e**2
    return ArmEstimate(mean, np.sqrt((weight**2 * spread).sum(axis=1)) / total)
