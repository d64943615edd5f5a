"""FA*IR (Zehlike et al. 2017): a ranking in which every prefix passes a test of representation.

If each position is filled by a coin that shows the protected group with probability p, how few of
it may the first i positions hold before chance is no explanation? That number, for each i, is the
table of minimum targets, and the re-ranker keeps to it at the least loss of score.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from common.errors import InputError, require
from common.exercises import exercise

Targets = NDArray[np.int64]


@exercise(
    "3.17",
    points=5,
    title="Minimum targets of a fair ranking",
    hint="The number of protected among the first i is binomial(i, p) under a fair coin. Which is "
    "the smallest count whose cumulative probability is above alpha? Position 1 is a prefix of "
    "length 1, not 0.",
)
def minimum_targets(k: int, p: float, alpha: float) -> Targets:
    """The least number of protected that each prefix of a ranking must hold (the mtable).

    A prefix of i positions with m protected is accepted if ``F(m; i, p) > alpha``, where F is the
    binomial's cumulative distribution: fewer would have come from a coin with probability p in at
    most a share alpha of cases. ``check_test`` checks the arguments.

    Parameters
    ----------
    k
        Positions, >= 1.
    p
        Share of the protected group, above 0 and below 1.
    alpha
        Chance that the test of *one* prefix rejects a fair coin, 0 to below 1. At 0 nothing is
        asked.

    Returns
    -------
    int64 array of shape [k]
        Entry i - 1 is the target of the first i positions.

    Raises
    ------
    InputError
        For arguments outside those limits.

    References
    ----------
    Zehlike et al.: FA*IR: A Fair Top-k Ranking Algorithm, CIKM 2017, definition 3.1.
    """
    check_test(k, p, alpha)
    lengths = np.arange(1, k + 1)
    # ppf is the smallest m with F(m) >= alpha, and -1 at alpha = 0.
    return np.maximum(binom.ppf(alpha, lengths, p), 0).astype(np.int64)


def check_test(k: int, p: float, alpha: float) -> None:
    """Refuse arguments outside the limits of :func:`minimum_targets`."""
    require(k >= 1, "k", k, "must be >= 1", "try 20")
    require(0 < p < 1, "p", p, "must be above 0 and below 1", "use the group's share of the pool")
    require(0 <= alpha < 1, "alpha", alpha, "must be 0 to below 1", "try 0.1")


def failure_probability(targets: ArrayLike, p: float) -> float:
    """The chance that a ranking by a fair coin misses the target of at least one prefix.

    By dynamic programming over positions: the probabilities of each count of protected so far,
    from which the counts below the target are taken away. O(k^2), exact.

    Parameters
    ----------
    targets : int array of shape [k]
        Not falling.
    p
        The coin's probability of the protected group.

    Raises
    ------
    InputError
        For p outside 0 to 1, no targets, or targets that fall or are negative.
    """
    wanted = _checked_targets(targets)
    require(0 < p < 1, "p", p, "must be above 0 and below 1")
    alive = np.zeros(len(wanted) + 1)
    alive[0] = 1.0
    failed = 0.0
    for target in wanted:
        alive[1:] = alive[1:] * (1 - p) + alive[:-1] * p
        alive[0] *= 1 - p
        failed += float(alive[:target].sum())
        alive[:target] = 0.0
    return failed


@dataclass(frozen=True)
class RankedTest:
    """A test of all prefixes: the level of each one's test, the targets, and the level of all.

    ``failure`` is the probability that a fair coin fails somewhere: the test's real level.
    """

    alpha: float
    targets: Targets
    failure: float


def adjust_alpha(k: int, p: float, alpha: float) -> RankedTest:
    """The strictest targets whose failure probability is at most alpha.

    k tests, one a prefix, reject a fair coin far more often than one. The targets change only at
    the finitely many levels that are values of a binomial's distribution function, and rise with
    the level; so the answer is found by bisection over these levels, exactly.

    Parameters
    ----------
    k, p
        As for :func:`minimum_targets`.
    alpha
        The level that the test of the whole ranking keeps, above 0.

    Returns
    -------
    RankedTest
        ``alpha`` is the largest level of one prefix that gives these targets.

    References
    ----------
    Zehlike et al. 2017, section 4.2.2 (there the level is adjusted by a numerical search).
    """
    check_test(k, p, alpha)
    require(alpha > 0, "alpha", alpha, "must be above 0", "try 0.1")
    # One prefix alone fails at least at every level it rejects at, so none above alpha can do.
    steps = np.unique(np.concatenate([binom.cdf(np.arange(n + 1), n, p) for n in range(1, k + 1)]))
    steps = np.concatenate([[0.0], steps[steps < 1]])
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        if _at_level(k, p, float(steps[middle])).failure <= alpha:
            low = middle
        else:
            high = middle
    return _at_level(k, p, float(steps[low]))


def adjust_alpha_nearest(k: int, p: float, alpha: float) -> RankedTest:
    """The targets whose failure probability is nearest to alpha, be it above: fairsearchcore's.

    The level is bisected between 0 and alpha until the tables at both ends differ by one (in the
    sum of their targets), and the nearer end is taken. The level returned is a midpoint of the
    bisection, one of many with the same table. The reference implementation leaves the target of
    the last position out of its failure probability; where that target matters, its table is
    another one (k = 30, p = .3, alpha = .15: there .0797, here .075).

    Parameters as for :func:`adjust_alpha`.
    """
    check_test(k, p, alpha)
    require(alpha > 0, "alpha", alpha, "must be above 0", "try 0.1")
    low, high = _at_level(k, p, 0.0), _at_level(k, p, alpha)
    while high.targets.sum() - low.targets.sum() > 1 and high.alpha - low.alpha > 1e-16:
        middle = _at_level(k, p, (low.alpha + high.alpha) / 2)
        if middle.failure <= alpha:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda test: abs(test.failure - alpha))


def _at_level(k: int, p: float, alpha: float) -> RankedTest:
    targets = minimum_targets(k, p, alpha)
    return RankedTest(alpha, targets, failure_probability(targets, p))


def first_violation(protected: ArrayLike, targets: ArrayLike) -> int | None:
    """The first position, from 1, at which a ranking misses its target; None if it nowhere does.

    Parameters
    ----------
    protected : bool array of shape [m]
        Whether each position holds one of the protected group, best position first; m >= k.
    targets : int array of shape [k]
    """
    wanted = _checked_targets(targets)
    held = np.asarray(protected, dtype=bool)
    require(len(held) >= len(wanted), "ranked", len(held), f"must be >= {len(wanted)}, the targets")
    missed = np.flatnonzero(np.cumsum(held[: len(wanted)]) < wanted)
    return int(missed[0]) + 1 if missed.size else None


def proportional_targets(k: int, share: float) -> Targets:
    """At least ``floor(share * i)`` protected among the first i: a target without a test.

    Stricter than a test at any usual level, which allows for chance (Geyik et al. 2019, KDD).

    Parameters
    ----------
    k
        Positions, >= 1.
    share
        0 to 1.

    Returns
    -------
    int64 array of shape [k]
    """
    require(k >= 1, "k", k, "must be >= 1", "try 20")
    require(0 <= share <= 1, "share", share, "must be 0 to 1")
    # 0.29 * 100 is 28.999...: a target must not be lost to the last bit.
    return np.floor(share * np.arange(1, k + 1) + 1e-9).astype(np.int64)


def fair_top_k(scores: ArrayLike, protected: ArrayLike, targets: ArrayLike) -> NDArray[np.intp]:
    """The k best that meet every target, each group in the order of its scores.

    Position by position: if the target would be missed, the best of the protected, otherwise the
    best of all. No one is ever placed below a worse one of their own group.

    Parameters
    ----------
    scores : float array of shape [n]
        Higher is better; ties keep the order of the rows.
    protected : bool array of shape [n]
    targets : int array of shape [k], k <= n
        See :func:`minimum_targets`, :func:`adjust_alpha`, :func:`proportional_targets`.

    Returns
    -------
    int array of shape [k]
        Row numbers, best position first.

    Raises
    ------
    InputError
        For NaN among the scores, lengths that differ, fewer rows than targets, a target that
        asks for more than one a position, or more protected than there are.

    References
    ----------
    Zehlike et al. 2017, algorithm 1.
    """
    values, members, wanted = _checked_pool(scores, protected, targets)
    order = np.argsort(-values, kind="stable")
    inside, outside = order[members[order]], order[~members[order]]
    require(
        int(wanted[-1]) <= len(inside),
        "last target",
        int(wanted[-1]),
        f"must be <= {len(inside)}, the protected in the pool",
        "lower p or k",
    )
    ranking = np.empty(len(wanted), dtype=np.intp)
    taken, others = 0, 0
    for position, target in enumerate(wanted):
        left = taken < len(inside)
        forced = left and (taken < target or others == len(outside))
        # A row before another of the same score stays before it.
        better = (
            left
            and others < len(outside)
            and _before(values, int(inside[taken]), int(outside[others]))
        )
        if forced or better:
            ranking[position] = inside[taken]
            taken += 1
        else:
            ranking[position] = outside[others]
            others += 1
    return ranking


def minimum_share(
    scores: ArrayLike, protected: ArrayLike, share: float, k: int
) -> NDArray[np.intp]:
    """The k best of which at least a share is protected, ordered by score.

    A quota on the *set* shown. It says nothing of the order in it: those who come in by the quota
    have the lowest scores and stand at the end, where few look.

    Parameters
    ----------
    scores, protected : arrays of shape [n]
    share
        0 to 1; at least ``floor(share * k)`` are protected.
    k
        Positions, 1 to n.

    Returns
    -------
    int array of shape [k]
        Row numbers, best position first.

    Raises
    ------
    InputError
        As for :func:`fair_top_k`.
    """
    require(k >= 1, "k", k, "must be >= 1", "try 20")
    require(0 <= share <= 1, "share", share, "must be 0 to 1")
    quota = np.zeros(k, dtype=np.int64)
    quota[-1] = floor(share * k + 1e-9)
    values, members, _ = _checked_pool(scores, protected, quota)
    order = np.argsort(-values, kind="stable")
    inside, outside = order[members[order]], order[~members[order]]
    require(quota[-1] <= len(inside), "quota", int(quota[-1]), f"must be <= {len(inside)}")
    held = max(int(members[order[:k]].sum()), int(quota[-1]))
    chosen = np.concatenate([inside[:held], outside[: k - held]])
    return chosen[np.lexsort((chosen, -values[chosen]))]


def _before(values: NDArray[np.float64], first: int, second: int) -> bool:
    return bool((-values[first], first) < (-values[second], second))


def _checked_targets(targets: ArrayLike) -> Targets:
    wanted = np.asarray(targets, dtype=np.int64)
    require(wanted.ndim == 1 and len(wanted) >= 1, "shape of targets", wanted.shape, "must be [k]")
    rising = bool(np.all(np.diff(wanted, prepend=0) >= 0))
    require(rising, "targets", wanted.tolist(), "must not be negative and not fall")
    return wanted


def _checked_pool(
    scores: ArrayLike, protected: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Targets]:
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(protected)
    wanted = _checked_targets(targets)
    if values.shape != given.shape or values.ndim != 1:
        raise InputError(f"scores {values.shape} and protected {given.shape} must both be [n]")
    if np.isnan(values).any():
        raise InputError(f"scores are NaN in {int(np.isnan(values).sum())} rows; leave them out")
    members = given.astype(bool)
    if not np.array_equal(members, given):
        raise InputError(f"protected holds {given[members != given][0]!r}; use True and False")
    require(len(wanted) <= len(values), "k", len(wanted), f"must be <= {len(values)}, the rows")
    possible = bool(np.all(wanted <= np.arange(1, len(wanted) + 1)))
    require(possible, "targets", wanted.tolist(), "must be <= i for the first i positions")
    return values, members, wanted
