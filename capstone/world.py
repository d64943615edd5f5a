"""A **simulated** feed world, so that a feed has outcomes: people who look, click, stay and hide.

MovieLens holds ratings, not exposures: no click-through, position bias or lift can be read from
it. Tastes, popularity and satisfaction here are fitted to the real ratings
(:mod:`capstone.world_fit`); how people look down a list, how often they click and hide, freshness,
creators and drift are invented constants, all of them below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from capstone.catalogue import N_CREATORS, simulated_creators
from capstone.counter_hash import hash64, uniform
from capstone.data import Feed, Ints, Sequence
from capstone.smoothed_bootstrap import Neighbours
from capstone.world_fit import RANK, fit
from common.errors import require
from labs.lab6_online_eval.world import World as FilmWorld

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
HEADS = ("click", "long_view", "hide", "share")
"""Given examined, given a click, given examined, given a long view."""
CLICK_ON_CHOSEN = 0.15
"""Mean P(click | examined) of a film that the user really chose to watch (invented)."""
ACTIVITY_IN_CLICKS = 0.5
"""Share of a user's log activity that makes them click more; the rest makes them come often."""
HIDE_PER_DISLIKE = 0.08
"""P(hide | examined, not clicked) of a film that the user would surely rate <= 2 (invented)."""
FRESHNESS, FRESH_DAYS = 0.8, 7.0
"""Gain in the logit of a click of a brand-new item, and the days in which it falls to 1/e."""
OLDEST, ARRIVALS = 365.0, 28
"""Days before day 0 that the oldest item appeared; days over which new items arrive."""
CREATOR_SPREAD = 0.25
"""Standard deviation of a creator's effect on the logit of a click."""
POPULARITY_DRIFT, TASTE_DRIFT, HALF_LIFE = 0.5, 0.5, 14.0
"""Standard deviations of the day's effects (logit of an item; taste in units of the spread between
users) and the days in which half of an effect is forgotten."""
WHIM = 0.7
"""Standard deviation of a user's own liking of an item in the logit: by hash, in no data at all."""
UTILITY = {"clicks": 0.0, "long_views": 1.0, "hides": -4.0, "shares": 1.0}
"""What a session is worth: a product's decision, and so outside of the world."""
COUNTS = ("clicks", "long_views", "hides", "shares")
_CELLS = 1 << 19
_USER, _ITEM, _BIRTH, _CREATOR, _PAIR = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Responses:
    """Simulated reactions of each session, bool [n, k] by position.

    A share comes with a long view, a long view with a click; nobody clicks and hides one item.
    """

    clicks: Bools
    long_views: Bools
    hides: Bools
    shares: Bools

    def counts(self) -> dict[str, NDArray[np.float64]]:
        """Events of each session by name [n], and their ``utility``."""
        return _with_utility(
            {name: getattr(self, name).sum(axis=1).astype(float) for name in COUNTS}
        )


@dataclass(frozen=True, eq=False)
class World:
    """Simulated behaviour of ``n_users`` people (from 0) towards items 1..n_items; 0 is padding.

    Users 0..942 are MovieLens' (its id less 1), items 1..1682 its films. Each one beyond is a
    **neighbour**: the traits of real user ``u % 943`` (film ``1 + (i - 1) % 1682``) and a deviation
    by hash, so that a million of them need no table. The last ``n_new_items`` appear one after the
    other over days 0..27.

    Attributes
    ----------
    people : float32 [943, RANK + 2]
        Taste, click intercept (logit), level of satisfaction.
    films : float32 [1682, RANK + 1]
        Taste, level of satisfaction; the click's slope is in the tastes' product.
    slope : float
        Logit of a click per unit of taste.
    satisfaction : float [6]
        Mean, weight of taste, spread, and the thresholds of a rating >= 3, >= 4 and 5.
    count : float [1682]
        Real interactions of each film.
    activity : float [943]
        Real interactions of each user.
    creator : int [1683]
        Simulated creators of the films; a generated item has its model's.
    creator_effect : float [N_CREATORS + 1]
        On the logit of a click.
    born : float [1682]
        Day on which a film appeared, <= 0: in the order of the real years, on an invented scale.
    seed : int
        Of everything that is drawn.
    """

    people: NDArray[np.float32]
    films: NDArray[np.float32]
    slope: float
    satisfaction: NDArray[np.float64]
    count: NDArray[np.float64]
    activity: NDArray[np.float64]
    creator: Ints
    creator_effect: NDArray[np.float64]
    born: NDArray[np.float64]
    seed: int
    n_users: int
    n_items: int
    n_new_items: int = 0

    def __post_init__(self) -> None:
        require(
            self.n_users >= len(self.people),
            "n_users", self.n_users, f"must be at least {len(self.people)}, the real ones",
        )  # fmt: skip
        require(
            self.n_items - self.n_new_items >= len(self.films) and self.n_new_items >= 0,
            "n_items - n_new_items", self.n_items - self.n_new_items,
            f"must be at least {len(self.films)}, the real films",
        )  # fmt: skip

    @cached_property
    def _people(self) -> Neighbours:
        return Neighbours(self.people)

    @cached_property
    def _films(self) -> Neighbours:
        return Neighbours(self.films)

    @staticmethod
    def examination(k: int) -> NDArray[np.float64]:
        """P(look at position j) = ``1 / log2(j + 2)`` for j = 0..k-1: that of lab 6's world."""
        return FilmWorld.examination(k)

    def items_on(self, day: int) -> int:
        """Items that have appeared by the end of ``day``: ids 1 to this number."""
        old = self.n_items - self.n_new_items
        return old + self.n_new_items * min(max(day + 1, 0), ARRIVALS) // ARRIVALS

    def appeared(self, items: Ints) -> NDArray[np.float64]:
        """Day on which each item appeared, same shape; generated old ones at random before 0."""
        old = self.n_items - self.n_new_items
        day = -OLDEST * uniform(hash64(self.seed, _BIRTH, items))
        real = items <= len(self.films)
        day[real] = self.born[np.maximum(items[real], 1) - 1]
        new = items > old
        order = items[new] - old - 1
        day[new] = -(-(order + 1) * ARRIVALS // max(self.n_new_items, 1)) - 1
        return day

    def creators(self, items: Ints) -> Ints:
        """Simulated creator of each item, same shape; 0 for padding."""
        return self.creator[np.where(items > 0, (items - 1) % len(self.films) + 1, 0)]

    def traits(self, users: Ints) -> NDArray[np.float32]:
        """Rows of ``people`` for users [n], generated ones included."""
        return self._people.rows(users, hash64(self.seed, _USER, users))

    def features(self, items: Ints) -> NDArray[np.float32]:
        """Rows of ``films`` for items of any shape (ids from 1), generated ones included."""
        numbers = np.maximum(items, 1) - 1
        return self._films.rows(numbers, hash64(self.seed, _ITEM, numbers))

    def drift(self, day: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What ``day`` adds: to the click logit of each film [1682], to everybody's taste [RANK].

        Two mean-reverting walks (AR(1)) that start from 0 on day 0 and depend on (seed, day) only.
        """
        require(0 <= day <= 3650, "day", day, "must be from 0 to 3650")
        moved = day_walk(self.seed, int(day), len(self.films) + RANK)
        scale = TASTE_DRIFT * self.people[:, :RANK].std(axis=0)
        return POPULARITY_DRIFT * moved[: len(self.films)], scale * moved[len(self.films) :]

    def probabilities(self, users: Ints, items: Ints, day: int = 0) -> dict[str, Floats]:
        """Conditional probability of each of :data:`HEADS`: users [n], items [n, k] -> [n, k].

        With the logit l = intercept_u + slope * taste_ui + freshness + creator + drift + whim,
        ``P(click | examined) = sigmoid(l)`` and ``P(hide | examined) = h * P(dislike) * (1 -
        P(click))``. Satisfaction s_ui is normal: ``P(long view | click) = P(rating >= 4)``,
        ``P(share | long view) = P(5) / P(rating >= 4)``, ``P(dislike) = P(rating <= 2)``. Padding
        gets 0 everywhere.
        """
        users, items = np.asarray(users), np.asarray(items)
        _check(self, users, items)
        step = max(1, _CELLS // max(items.shape[1], 1))
        parts = [
            self._block(users[start : start + step], items[start : start + step], day)
            for start in range(0, max(len(users), 1), step)
        ]
        return {head: np.concatenate([part[head] for part in parts]) for head in HEADS}

    def respond(self, users: Ints, lists: Ints, day: int, rng: np.random.Generator) -> Responses:
        """Simulated reactions to one session each: users [n], lists [n, k]."""
        return draw(
            self.probabilities(users, lists, day), self.examination(np.shape(lists)[1]), rng
        )

    def expected(
        self, lists: Ints, day: int = 0, users: Ints | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """True mean counts a session [n] of clicks, long views, hides, shares, and the utility.

        ``lists`` [n, k] belong to ``users`` [n]; without them to users 0..n-1.
        """
        lists = np.asarray(lists)
        p = self.probabilities(np.arange(len(lists)) if users is None else users, lists, day)
        examined = self.examination(lists.shape[1])
        clicks = p["click"] * examined
        long_views = clicks * p["long_view"]
        cells = {
            "clicks": clicks,
            "long_views": long_views,
            "hides": p["hide"] * examined,
            "shares": long_views * p["share"],
        }
        return _with_utility({name: cell.sum(axis=1, dtype=float) for name, cell in cells.items()})

    def true_effect(
        self, control: Ints, treatment: Ints, users: Ints | None = None, day: int = 0
    ) -> dict[str, float]:
        """True effect of lists ``treatment`` [n, k] on each mean count a session: no sampling.

        Keys ``clicks``, ``long_views``, ``hides``, ``shares`` and ``utility``; users as equals.
        """
        before, after = (self.expected(each, day, users) for each in (control, treatment))
        return {name: float((after[name] - before[name]).mean()) for name in before}

    def ratings(self, users: Ints, items: Ints) -> tuple[Floats, Floats, Floats]:
        """P(rating <= 2), P(>= 4), P(5) if they watched it: users [n], items [n, k] -> [n, k]."""
        return self._ratings(self.traits(users), self.features(items))

    def resized(self, n_users: int, n_items: int, n_new_items: int) -> World:
        """The same world with other numbers of generated people and items."""
        return replace(self, n_users=n_users, n_items=n_items, n_new_items=n_new_items)

    def _ratings(
        self, traits: NDArray[np.float32], features: NDArray[np.float32]
    ) -> tuple[Floats, Floats, Floats]:
        mean, weight, spread, three, four, five = self.satisfaction
        taste = np.einsum("nr,nkr->nk", traits[:, :RANK], features[..., :RANK])
        level = mean + traits[:, RANK + 1, None] + features[..., RANK] + weight * taste
        return (
            ndtr((three - level) / spread),
            ndtr((level - four) / spread),
            ndtr((level - five) / spread),
        )

    def _whims(self, users: Ints, items: Ints) -> NDArray[np.float64]:
        """A number of mean 0 and variance 1 for each pair [n, k]: three uniforms of one hash."""
        bits = hash64(self.seed, _PAIR, (users[:, None] << 32) + items)
        total = sum(uniform(bits, part) for part in range(3))
        return 2 * (np.asarray(total) - 1.5)

    def _block(self, users: Ints, items: Ints, day: int) -> dict[str, Floats]:
        traits, features = self.traits(users), self.features(items)
        item_drift, taste_drift = self.drift(day)
        tastes = features[..., :RANK]
        moved = np.einsum("nr,nkr->nk", traits[:, :RANK] + taste_drift.astype(np.float32), tastes)
        age = np.maximum(day - self.appeared(items), 0.0)
        logit = (
            traits[:, RANK, None]
            + self.slope * moved
            + item_drift[(np.maximum(items, 1) - 1) % len(self.films)]
            + self.creator_effect[self.creators(items)]
            + FRESHNESS * np.exp(-age / FRESH_DAYS)
            + WHIM * self._whims(users, items)
        )
        dislike, like, love = self._ratings(traits, features)
        real = items > 0
        click = expit(logit) * real
        return {
            "click": click,
            "long_view": like * real,
            "hide": HIDE_PER_DISLIKE * dislike * (1 - click) * real,
            "share": love / np.maximum(like, 1e-12) * real,
        }


def build_world(
    feed: Feed,
    *,
    sequences: tuple[Sequence, ...] | None = None,
    n_new_users: int = 0,
    n_new_items: int = 0,
    seed: int = 0,
) -> World:
    """Fit the world to every interaction, the held-out ones included: it knows what models do not.

    Parameters
    ----------
    sequences
        Fit to these instead. Data that a model will be *trained* on must come from a world fitted
        to ``feed.train``, or the test items leak into its clicks.
    n_new_users, n_new_items
        Cold-start people and items beyond the real ones.
    """
    found = fit(feed, feed.sequences if sequences is None else sequences)
    activity = ACTIVITY_IN_CLICKS * np.clip(found.activity, -2.0, 2.0)
    taste = found.user_taste @ found.item_taste.T
    chosen = feed.matrix(feed.sequences if sequences is None else sequences)[:, 1:] > 0
    logit = (found.slope * taste + activity[:, None])[chosen]
    level = brentq(lambda a: float(expit(a + logit).mean()) - CLICK_ON_CHOSEN, -30.0, 10.0)
    year = feed.items["year"].to_numpy(float)
    order = np.argsort(np.argsort(np.nan_to_num(year, nan=np.nanmin(year)), kind="stable"))
    rng = np.random.default_rng([seed, _CREATOR])
    return World(
        people=np.column_stack([found.user_taste, level + activity, found.user_level]).astype(
            np.float32
        ),
        films=np.column_stack([found.item_taste, found.item_level]).astype(np.float32),
        slope=found.slope,
        satisfaction=np.array([found.mean, found.taste_weight, found.spread, *found.thresholds]),
        count=found.count,
        activity=chosen.sum(axis=1).astype(float),
        creator=simulated_creators(feed.n_items),
        creator_effect=np.concatenate([[0.0], CREATOR_SPREAD * rng.standard_normal(N_CREATORS)]),
        born=-OLDEST * (1 - (order + 1) / feed.n_items),
        seed=seed,
        n_users=feed.n_users + n_new_users,
        n_items=feed.n_items + n_new_items,
        n_new_items=n_new_items,
    )


def draw(p: dict[str, Floats], examined: Floats, rng: np.random.Generator) -> Responses:
    """Reactions [n, k] from conditional probabilities [n, k] and examination [k].

    One uniform number decides click or hide, from its two ends, so they exclude each other.
    """
    first, second = rng.random(p["click"].shape), rng.random(p["click"].shape)
    clicks = first < p["click"] * examined
    return Responses(
        clicks=clicks,
        long_views=clicks & (second < p["long_view"]),
        hides=first >= 1 - p["hide"] * examined,
        shares=clicks & (second < p["long_view"] * p["share"]),
    )


@lru_cache(maxsize=128)
def day_walk(seed: int, day: int, n: int) -> NDArray[np.float64]:
    """``n`` mean-reverting walks on ``day``, a pure function of the arguments: float64 [n].

    ``x_d = r x_(d-1) + sqrt(1 - r^2) e_d`` with x_0 = 0, e_d standard normal from (seed, d), and
    r = 2^(-1 / HALF_LIFE): variance rises to 1 and stays.
    """
    keep = 0.5 ** (1 / HALF_LIFE)
    walk = np.zeros(n)
    for step in range(1, day + 1):
        shock = np.random.default_rng([seed, step, n]).standard_normal(n)
        walk = keep * walk + np.sqrt(1 - keep**2) * shock
    walk.flags.writeable = False
    return walk


def _with_utility(counts: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    worth = sum((UTILITY[name] * counts[name] for name in COUNTS), np.zeros(()))
    return {**counts, "utility": np.asarray(worth)}


def _check(world: World, users: Ints, items: Ints) -> None:
    shape = items.shape
    require(
        items.ndim == 2 and users.shape == shape[:1],
        "shapes of users and items", (users.shape, shape), "must be [n] and [n, k]",
    )  # fmt: skip
    for name, values, low, high in (
        ("users", users, 0, world.n_users - 1),
        ("items", items, 0, world.n_items),
    ):
        bad = values[(values < low) | (values > high)]
        require(
            bad.size == 0,
            f"{bad.size} of the {name}, such as", bad[:1].tolist(),
            f"must be from {low} to {high}", "build the world with more of them",
        )  # fmt: skip
