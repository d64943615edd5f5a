"""Interleaving: both rankers in one list, and the clicks say whose films are preferred.

In an A/B test each person sees one ranker, and the difference between people is noise. Here every
session compares the two, with the same person, the same moment and the same place on the page. It
answers one question, which of the two is preferred, and not by how many clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.world import Floats, Ints, World

Bools = NDArray[np.bool_]
A, B = 0, 1


@exercise(
    "6.4",
    points=10,
    title="Team-draft interleaving",
    hint="Two captains pick players in turns, and a coin says who begins each round. What does a "
    "captain do whose best player is in the other team already?",
)
def team_draft(
    a: Sequence[int], b: Sequence[int], k: int, a_first: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """One interleaved list, and which ranker's team each film is in.

    Round by round each ranker adds, at the end of the list, its best film that is not in the list
    yet. ``a_first[r]`` says who begins round r. The list ends at k films, in the middle of a round
    if k is odd.

    Parameters
    ----------
    a, b
        The rankers' lists, best first; each at least k different films.
    k
        Length of the interleaved list.
    a_first
        One fair coin a round, ``(k + 1) // 2`` of them: True if A picks first.

    Returns
    -------
    (films, teams)
        k films, and k teams: 0 for A, 1 for B.

    Notes
    -----
    Radlinski, Kurup & Joachims (2008), How Does Clickthrough Data Reflect Retrieval Quality?,
    CIKM, algorithm 2.

    Examples
    --------
    >>> team_draft([1, 2, 3], [2, 4, 5], 3, [True, False])
    ([1, 2, 4], [0, 1, 1])
    """
    _check_lists(np.asarray([a]), np.asarray([b]), k, np.asarray([a_first]))
    # BEGIN SOLUTION
    films: list[int] = []
    teams: list[int] = []
    for first in a_first:
        for team in (A, B) if first else (B, A):
            if len(films) < k:
                films.append(next(film for film in (a, b)[team] if film not in films))
                teams.append(team)
    return films, teams
    # END SOLUTION


def team_draft_many(a: Ints, b: Ints, a_first: Bools) -> tuple[Ints, NDArray[np.int8]]:
    """`team_draft` for many sessions at once: the same lists for the same coins.

    Parameters
    ----------
    a, b
        Int [n, k] each: the rankers' lists of every session, as long as the result.
    a_first
        Bool [n, (k + 1) // 2].

    Returns
    -------
    (films, teams)
        int [n, k] and int8 [n, k], 0 for A and 1 for B.
    """
    k = a.shape[1]
    _check_lists(a, b, k, a_first)
    n, rows = len(a), np.arange(len(a))
    lists = np.stack([a, b])
    taken = np.zeros((2, n, k), dtype=bool)
    films = np.empty((n, k), dtype=np.int64)
    teams = np.empty((n, k), dtype=np.int8)
    for position in range(k):
        first = a_first[:, position // 2]
        team = np.where(first == (position % 2 == 0), A, B)
        best = taken[team, rows].argmin(axis=1)
        film = lists[team, rows, best]
        taken |= lists == film[None, :, None]
        films[:, position], teams[:, position] = film, team
    return films, teams


def coins(n: int, k: int, rng: np.random.Generator) -> Bools:
    """A fair coin for every round of n sessions, bool [n, (k + 1) // 2]."""
    return rng.random((n, (k + 1) // 2)) < 0.5


def credit(clicks: Bools, teams: NDArray[np.int8]) -> Floats:
    """Clicks on B's team minus clicks on A's team, float [n]: positive if B is preferred."""
    return np.asarray((clicks * (2.0 * teams - 1)).sum(axis=1))


def balanced_interleaving(a: Sequence[int], b: Sequence[int], k: int, a_first: bool) -> list[int]:
    """The older method: walk both lists with two pointers, and skip what is in the list already.

    Notes
    -----
    Joachims (2003), Evaluating Retrieval Performance Using Clickthrough Data. One coin a list.
    """
    _check_lists(np.asarray([a]), np.asarray([b]), k, np.zeros((1, (k + 1) // 2), dtype=bool))
    films: list[int] = []
    at_a = at_b = 0
    while len(films) < k:
        if at_a < at_b or (at_a == at_b and a_first):
            film, at_a = a[at_a], at_a + 1
        else:
            film, at_b = b[at_b], at_b + 1
        if film not in films:
            films.append(film)
    return films


def balanced_credit(
    films: Sequence[int], clicked: Sequence[bool], a: Sequence[int], b: Sequence[int]
) -> int:
    """Who wins a session of balanced interleaving: 1 for B, -1 for A, 0 for a tie.

    The lists are cut where either first holds everything down to the lowest click; the one that
    holds more of the clicked films above that cut wins.
    """
    chosen = [film for film, click in zip(films, clicked, strict=True) if click]
    if not chosen:
        return 0
    lowest = max(films.index(film) for film in chosen)
    deepest = films[lowest]
    ranks = [each.index(deepest) for each in (list(a), list(b)) if deepest in each]
    cut = min(ranks) + 1
    of_a, of_b = (sum(film in each[:cut] for film in chosen) for each in (list(a), list(b)))
    return int(np.sign(of_b - of_a))


@dataclass(frozen=True)
class Preference:
    """Result of an interleaved experiment; positive prefers B.

    Attributes
    ----------
    effect, ci95, p
        Mean over users of their mean credit a session, its interval at level 1 - alpha, and the
        two-sided p of the t-test over users.
    wins_a, wins_b, ties
        Users by the sign of their credit.
    sign_p
        Exact binomial test of the wins; None if all users tie.
    """

    effect: float
    ci95: tuple[float, float]
    p: float
    se: float
    n_users: int
    n_sessions: int
    wins_a: int
    wins_b: int
    ties: int
    sign_p: float | None


def compare_interleaved(unit: Ints, credits: Floats, *, alpha: float = 0.05) -> Preference:
    """The test of an interleaved experiment: one value a user, and the t-test of mean 0.

    Sessions of one user share a taste and are not independent, so they are averaged first.

    Parameters
    ----------
    unit
        Int [n]: the user of each session.
    credits
        Float [n], from `credit`.

    Raises
    ------
    InputError
        Fewer than two users, values that are not finite, or credit that never varies.

    Notes
    -----
    Chapelle, Joachims, Radlinski & Yue (2012), Large-scale Validation and Analysis of Interleaved
    Search Evaluation, TOIS 30(1).
    """
    from scipy.stats import binomtest  # the serving of interleaved feeds does without it
    from scipy.stats import t as student_t

    require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
    require(unit.shape == credits.shape, "shape of unit", unit.shape, f"must be {credits.shape}")
    bad = int(np.count_nonzero(~np.isfinite(credits)))
    require(bad == 0, "credits that are not finite", bad, "must be 0")
    _, index = np.unique(unit, return_inverse=True)
    sessions = np.bincount(index)
    require(len(sessions) >= 2, "users", len(sessions), "must be at least 2")
    mine = np.bincount(index, credits) / sessions
    spread = float(mine.std(ddof=1))
    require(
        spread > 0, "variance of the credit", 0.0, "must be above 0", "are the rankers identical?"
    )
    n = len(mine)
    effect, se = float(mine.mean()), spread / sqrt(n)
    half = float(student_t.ppf(1 - alpha / 2, n - 1)) * se
    wins_a, wins_b = int((mine < 0).sum()), int((mine > 0).sum())
    decided = wins_a + wins_b
    return Preference(
        effect=effect,
        ci95=(effect - half, effect + half),
        p=float(2 * student_t.sf(abs(effect) / se, n - 1)),
        se=se,
        n_users=n,
        n_sessions=len(credits),
        wins_a=wins_a,
        wins_b=wins_b,
        ties=n - decided,
        sign_p=float(binomtest(wins_b, decided).pvalue) if decided else None,
    )


def run_interleaved(
    world: World, a: Ints, b: Ints, people: Ints, rng: np.random.Generator
) -> tuple[Bools, NDArray[np.int8]]:
    """Simulated interleaved sessions: clicks bool [n, k] and teams int8 [n, k].

    ``a``, ``b`` int [n_users, k]; ``people`` int [n]: whose session each is.
    """
    films, teams = team_draft_many(a[people], b[people], coins(len(people), a.shape[1], rng))
    return world.clicks(people, films, rng), teams


def _check_lists(a: Ints, b: Ints, k: int, a_first: Bools) -> None:
    require(k >= 1, "k", k, "must be at least 1")
    for name, lists in (("a", a), ("b", b)):
        require(lists.ndim == 2, f"shape of {name}", lists.shape, "must be [n, k]")
        require(lists.shape[1] >= k, f"films of {name}", lists.shape[1], f"must be at least {k}")
        ordered = np.sort(lists, axis=1)
        twice = int((ordered[:, 1:] == ordered[:, :-1]).any(axis=1).sum())
        require(twice == 0, f"lists of {name} that hold a film twice", twice, "must be 0")
    require(len(a) == len(b), "lists of b", len(b), f"must be {len(a)}, as many as of a")
    rounds = (len(a), (k + 1) // 2)
    require(
        a_first.shape == rounds, "shape of a_first", a_first.shape, f"must be {rounds}, one a round"
    )
