"""Position bias: how much of a click is the place, and how much the film.

The position-based model says that a person clicks what they look at and like:

    P(click at position j on film i by user u) = examination_j * attraction_ui.

A log shows only the product. Three ways to separate it, and one that only seems to:

* `by_click_through`: clicks by position. Wrong, since the ranker put better films higher.
* `by_random_swaps`: an intervention. Two films change places at random, so that both are seen at
  both places equally often.
* `by_em`: no intervention. The same film for the same user at different places, and the model.

Examination is known up to a factor only, so all of them are relative to the first position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.statistics import Z95
from labs.lab6_online_eval.world import Floats, Ints, World

MOST_ITERATIONS = 2000
ENOUGH_PAIRS = 100
LEAST_VIEWS = 10.0


@dataclass(frozen=True)
class ClickLog:
    """One row a session: ``people`` int [n], ``lists`` int [n, k], ``clicks`` bool [n, k]."""

    people: Ints
    lists: Ints
    clicks: NDArray[np.bool_]

    def __post_init__(self) -> None:
        require(self.lists.ndim == 2, "shape of lists", self.lists.shape, "must be [n, k]")
        require(len(self.lists) >= 2, "sessions", len(self.lists), "must be at least 2")
        require(self.lists.shape[1] >= 2, "positions", self.lists.shape[1], "must be at least 2")
        shape = self.lists.shape
        require(
            self.clicks.shape == shape, "shape of clicks", self.clicks.shape, f"must be {shape}"
        )
        require(
            self.people.shape == (len(self.lists),),
            "shape of people",
            self.people.shape,
            f"must be ({len(self.lists)},), one a session",
        )
        require(
            self.clicks.dtype == np.bool_, "type of clicks", str(self.clicks.dtype), "must be bool"
        )

    @property
    def n(self) -> int:
        return len(self.lists)

    @property
    def k(self) -> int:
        return self.lists.shape[1]


@dataclass(frozen=True)
class Examination:
    """Examination relative to the first position: float [k], its 95 % interval, clicks behind it.

    ``low`` and ``high`` are None where the method gives no interval.
    """

    relative: Floats
    low: Floats | None = None
    high: Floats | None = None

    def worst_error(self, truth: Floats) -> float:
        """Largest relative error over the positions, against ``truth`` [k] (any scale)."""
        return float(np.abs(self.relative / (truth / truth[0]) - 1).max())


def log_fixed_lists(world: World, lists: Ints, n: int, seed: int) -> ClickLog:
    """n sessions of random people, each shown their own row of ``lists`` [n_users, k]."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n)
    return ClickLog(people, lists[people], world.clicks(people, lists[people], rng))


@dataclass(frozen=True)
class SwapLog:
    """Sessions in which the first film changed places with the one at ``partner``, or did not.

    ``partner`` int [n], 1 to k - 1, drawn at random in every session, whether or not the two were
    then ``swapped`` (bool [n], a fair coin).
    """

    log: ClickLog
    partner: Ints
    swapped: NDArray[np.bool_]


def log_random_swaps(world: World, lists: Ints, n: int, seed: int) -> SwapLog:
    """n sessions with one random swap of the first position with another, by a fair coin."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n)
    partner = rng.integers(1, lists.shape[1], n)
    swapped = rng.random(n) < 0.5
    shown = lists[people].copy()
    rows = np.flatnonzero(swapped)
    first = shown[rows, 0].copy()
    shown[rows, 0] = shown[rows, partner[rows]]
    shown[rows, partner[rows]] = first
    return SwapLog(ClickLog(people, shown, world.clicks(people, shown, rng)), partner, swapped)


def by_click_through(log: ClickLog) -> Examination:
    """Click-through by position over that of the first. **Not** examination: see the module."""
    rate = log.clicks.mean(axis=0)
    require(bool(rate[0] > 0), "clicks at the first position", 0, "must be above 0")
    return Examination(rate / rate[0])


def by_random_swaps(swaps: SwapLog) -> Examination:
    """Examination from randomised swaps: ``examination_j / examination_0 = c_j / c_0``.

    Among sessions with partner j the same two films stood at both places, by a coin. So clicks at
    j over clicks at the first position is the ratio of the places, whatever the films are. The
    interval is by the delta method on the logarithm: the clicks at the two places are nearly
    independent counts, so ``Var(log ratio) = 1 / c_j + 1 / c_0``, a little too wide for rates that
    are not small.

    Notes
    -----
    Joachims, Swaminathan & Schnabel (2017), Unbiased Learning-to-Rank with Biased Feedback, WSDM.
    """
    k = swaps.log.k
    ratio, se = np.ones(k), np.zeros(k)
    for position in range(1, k):
        mine = swaps.partner == position
        here = int(swaps.log.clicks[mine, position].sum())
        first = int(swaps.log.clicks[mine, 0].sum())
        require(
            min(here, first) >= 10,
            f"clicks behind position {position}",
            min(here, first),
            "must be at least 10",
            "log more sessions",
        )
        ratio[position], se[position] = here / first, np.sqrt(1 / here + 1 / first)
    return Examination(ratio, ratio * np.exp(-Z95 * se), ratio * np.exp(Z95 * se))


def by_em(log: ClickLog, n_items: int, *, tolerance: float = 1e-5) -> Examination:
    """Examination by expectation maximisation of the position-based model.

    A click says both that the place was looked at and that the film attracts. Without a click the
    E-step divides the blame; with theta the examination and gamma the attraction,

        P(looked | no click) = theta (1 - gamma) / (1 - theta gamma),
        P(attracts | no click) = gamma (1 - theta) / (1 - theta gamma),

    and the M-step averages these over a position's rows (theta) and a pair's rows (gamma). Rows
    of one user, film and position are counted together.

    Parameters
    ----------
    log
        From a ranker that shows the same film to the same user at different places.
    n_items
        Number of films of the world.
    tolerance
        Stops when no relative examination moves more than this in ten steps.

    Raises
    ------
    InputError
        Too few pairs of user and film seen at two positions: with fixed lists place and film can
        not be told apart, and EM would return its starting point as a result. Or fewer than
        `LEAST_VIEWS` rows a pair: each pair has an attraction of its own, and with a handful of
        rows those fit the noise and pull examination with them (by 15 % at seven rows a pair in
        the lab's world, by 2 % at fourteen).

    Notes
    -----
    Wang, Golbandi, Bendersky, Metzler & Najork (2018), Position Bias Estimation for Unbiased
    Learning to Rank in Personal Search, WSDM; Chuklin, Markov & de Rijke (2015),
    Click Models for Web Search.
    """
    cells = _cells(log, n_items)
    at_two = int((np.bincount(cells.pair) >= 2).sum())
    require(
        at_two >= ENOUGH_PAIRS,
        "pairs of user and film seen at two or more positions",
        at_two,
        f"must be at least {ENOUGH_PAIRS}",
        "log with a ranker that randomises, or use random swaps",
    )
    k, n_pairs = log.k, int(cells.pair.max()) + 1
    views = round(float(cells.shown.sum()) / n_pairs, 1)
    require(
        views >= LEAST_VIEWS,
        "rows of the log for each pair of user and film",
        views,
        f"must be at least {LEAST_VIEWS:g}",
        "log more sessions, or fewer users",
    )
    at_position = np.bincount(cells.position, cells.shown, k)
    of_pair = np.bincount(cells.pair, cells.shown, n_pairs)
    missed = cells.shown - cells.clicked
    theta = np.full(k, 0.5)
    gamma = np.full(n_pairs, 2 * cells.clicked.sum() / cells.shown.sum())
    before = theta.copy()
    for step in range(1, MOST_ITERATIONS + 1):
        t, g = theta[cells.position], gamma[cells.pair]
        share = missed / (1 - t * g)
        looked = np.bincount(cells.position, cells.clicked + share * t * (1 - g), k)
        attracts = np.bincount(cells.pair, cells.clicked + share * g * (1 - t), n_pairs)
        theta, gamma = looked / at_position, attracts / of_pair
        # only the product is known: the first position stays just below 1, so that t g < 1
        scale = theta[0] / 0.999
        theta, gamma = theta / scale, np.minimum(gamma * scale, 0.999)
        if step % 10 == 0:
            if np.abs(theta - before).max() < tolerance:
                break
            before = theta.copy()
    return Examination(theta / theta[0])


@dataclass(frozen=True)
class _Cells:
    """Rows of a log counted by user, film and position: all [n_cells]."""

    pair: Ints
    position: Ints
    shown: Floats
    clicked: Floats


def _cells(log: ClickLog, n_items: int) -> _Cells:
    pair = log.people[:, None] * n_items + log.lists
    key = pair * log.k + np.arange(log.k)
    unique, inverse = np.unique(key.ravel(), return_inverse=True)
    shown = np.bincount(inverse).astype(float)
    clicked = np.bincount(inverse, log.clicks.ravel().astype(float)).astype(float)
    _, pair_number = np.unique(unique // log.k, return_inverse=True)
    return _Cells(pair_number, unique % log.k, shown, clicked)
