"""Plackett-Luce: a ranker that draws its lists, and knows how probable each film was at each place.

Only a log with such probabilities can say what another ranker would have done. A ranker that always
shows the same list has a propensity of 1 for what it shows, and says nothing of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import require
from labs.lab6_online_eval.position_bias import ClickLog
from labs.lab6_online_eval.world import Floats, Ints, World

NODES = 64


@dataclass(frozen=True)
class LoggingRanker:
    """A Plackett-Luce ranker over each user's candidates.

    ``candidates`` int [n_users, m]: the films it may show. ``logits`` float [n_users, m]: the next
    film is drawn with probability proportional to ``exp(logit)`` among those not drawn yet.
    ``placement`` float [n_users, m, k]: probability of each candidate at each position.
    """

    candidates: Ints
    logits: Floats
    placement: Floats

    @property
    def k(self) -> int:
        return self.placement.shape[2]

    def draw(self, people: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """One list a session: films int [n, k], and their columns among the candidates [n, k].

        Adding Gumbel noise to the logits and sorting is a draw from Plackett-Luce.
        """
        noisy = self.logits[people] + rng.gumbel(size=(len(people), self.logits.shape[1]))
        columns = np.argsort(-noisy, axis=1)[:, : self.k]
        return self.candidates[people[:, None], columns], columns

    def placement_of(self, lists: Ints) -> Floats:
        """Probability of each film of ``lists`` [n_users, k] at its place; 0: never shown there."""
        return self._of(lists)[:, np.arange(lists.shape[1]), np.arange(lists.shape[1])]

    def examined(self, lists: Ints, examination: Floats) -> Floats:
        """How much each film of ``lists`` is looked at in the log: ``sum_j theta_j p_ij``.

        ``lists`` int [n_users, k], ``examination`` float [k] -> float [n_users, k].
        """
        return np.asarray(self._of(lists) @ examination)

    def _of(self, lists: Ints) -> Floats:
        """The placement of each film of ``lists``: float [n_users, k, k], 0 if not a candidate."""
        same = lists[:, :, None] == self.candidates[:, None, :]
        found = self.placement[np.arange(len(lists))[:, None], same.argmax(axis=2)]
        return np.where(same.any(axis=2)[:, :, None], found, 0.0)


def plackett_luce(scores: Floats, candidates: Ints, k: int, temperature: float) -> LoggingRanker:
    """The stochastic version of a ranker: logits are its scores in standard deviations over
    the candidates of a user, divided by ``temperature`` (towards 0: always the same list).

    Parameters
    ----------
    scores
        Float [n_users, n_items].
    candidates
        Int [n_users, m], k < m.
    """
    require(temperature > 0, "temperature", temperature, "must be above 0", "try 1.0")
    require(1 <= k < candidates.shape[1], "k", k, f"must be from 1 to {candidates.shape[1] - 1}")
    own = np.take_along_axis(scores, candidates, axis=1)
    require(bool(np.isfinite(own).all()), "scores of candidates", "not finite", "must be finite")
    spread = np.maximum(own.std(axis=1, keepdims=True), 1e-12)
    logits = (own - own.mean(axis=1, keepdims=True)) / spread / temperature
    return LoggingRanker(candidates, logits, placement_probabilities(logits, k))


def placement_probabilities(logits: Floats, k: int, nodes: int = NODES) -> Floats:
    """P(item i is drawn at position j) under Plackett-Luce: [n, m] logits -> float [n, m, k].

    Give each item an independent exponential clock of rate ``w_i = exp(logit_i)``: the order in
    which they ring is Plackett-Luce. With F_i(t) = 1 - exp(-w_i t),

        P(i at position j) = integral of w_i exp(-w_i t) P(exactly j of the others rang by t) dt.

    The number of others that rang is Poisson-binomial; its law at each t is the inverse Fourier
    transform of the product of ``1 - F + F z`` over the others. The integral is a Gauss-Legendre
    rule on ``log t``, where the integrand is smooth.

    Notes
    -----
    Plackett (1975), The Analysis of Permutations, JRSS C 24(2); clocks: Yellott (1977).
    """
    n, m = logits.shape
    points = m + 1 - m % 2  # odd: no root of unity is -1, where a factor could vanish
    roots = np.exp(2j * np.pi * np.arange(points) / points)
    back = np.exp(-2j * np.pi * np.outer(np.arange(points), np.arange(k)) / points) / points
    x, weight = np.polynomial.legendre.leggauss(nodes)
    worth = np.exp(logits - logits.max(axis=1, keepdims=True))
    # once the k + 1 most probable have rung, the first k positions are taken
    slowest = np.sort(worth, axis=1)[:, -min(k + 1, m)]
    low, high = np.log(1e-6), np.log(40 / slowest)
    result = np.zeros((n, m, k))
    for node in range(nodes):
        t = np.exp(low + (high - low) * (x[node] + 1) / 2)
        wt = worth * t[:, None]
        rang = -np.expm1(-wt)
        factor = 1 - rang[:, :, None] + rang[:, :, None] * roots
        others = factor.prod(axis=1, keepdims=True) / factor
        density = wt * np.exp(-wt) * (weight[node] * (high - low) / 2)[:, None]
        result += density[:, :, None] * (others @ back).real
    return np.clip(result, 0.0, 1.0)


@dataclass(frozen=True)
class LoggedLists:
    """A click log with what the logging ranker knew: ``propensity`` float [n, k], the probability
    of each shown film at its place, and ``ranker``, which drew the lists."""

    log: ClickLog
    propensity: Floats
    ranker: LoggingRanker


def log_lists(world: World, ranker: LoggingRanker, n: int, seed: int) -> LoggedLists:
    """n sessions of random people with lists drawn by ``ranker``, their clicks and propensities."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n)
    lists, columns = ranker.draw(people, rng)
    propensity = ranker.placement[people[:, None], columns, np.arange(ranker.k)]
    return LoggedLists(
        ClickLog(people, lists, world.clicks(people, lists, rng)), propensity, ranker
    )
