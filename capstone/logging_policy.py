"""The **simulated** feed that wrote the log, and what people watched before it.

Both choose a group of films first and a film of it second, so that a catalogue of millions costs no
more than one of 1,682 and the probability of every choice is a closed formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from capstone.data import Ints
from capstone.world import ARRIVALS, RANK, World

Floats = NDArray[np.float64]
N_CLUSTERS = 64
"""Groups of films of like taste."""
TASTE_AT_TOP, TASTE_AT_END, FRESH_SHARE = 0.9, 0.1, 0.05
"""Weight of taste in the logging policy at the first and last position; of new items anywhere."""
POLICY_SHARPNESS, LIFE_SHARPNESS = 0.5, 1.0
"""How well the logging policy knows tastes, and how closely people follow them by themselves."""
FRESH_FOR = 7
"""Days for which the logging policy takes an item for new."""
TAIL = 0.8
"""Zipf exponent of popularity among the items generated from one film."""
RAKING = 8
"""Rounds of adjusting the popularity (iterative proportional fitting)."""
UNSEEN = 0.5
"""Interactions that every film has in advance: what nobody has watched can be shown too."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Films by groups of like taste, with their popularity.

    Attributes
    ----------
    of_film : int [1682]
    order : int [1682]
        Films by group.
    edges : float [1682]
        Cumulative popularity in that order; it ends at 1.
    start, mass : float [N_CLUSTERS]
        Cumulative popularity before a group, and its own.
    centre : float [N_CLUSTERS, RANK]
        Mean taste of a group by popularity.
    popularity : float [1682]
        Weights with which histories as long as the real ones have, for each film, as many viewers
        as it really had: choice by taste alone would crowd the films that everybody knows.
    """

    of_film: Ints
    order: Ints
    edges: Floats
    start: Floats
    mass: Floats
    centre: Floats
    popularity: Floats

    @classmethod
    def of(cls, world: World) -> Groups:
        tastes = world.films[:, :RANK].astype(float)
        _, group = kmeans2(tastes, N_CLUSTERS, minit="++", seed=0, iter=10)
        group = np.unique(group, return_inverse=True)[1].astype(np.int64)
        wanted = world.count + UNSEEN
        made = cls._with(tastes, group, wanted)
        for _ in range(RAKING):
            chance = made.choice(world, world.people, LIFE_SHARPNESS)[:, group]
            chance *= made.popularity / made.mass[group]
            viewers = -np.expm1(-world.activity[:, None] * chance).sum(axis=0)
            made = cls._with(tastes, group, made.popularity * wanted / viewers)
        return made

    @classmethod
    def _with(cls, tastes: Floats, group: Ints, weights: Floats) -> Groups:
        popularity = weights / weights.sum()
        order = np.argsort(group, kind="stable")
        edges = np.cumsum(popularity[order])
        mass = np.bincount(group, popularity).astype(float)
        centre = np.zeros((len(mass), RANK))
        np.add.at(centre, group, popularity[:, None] * tastes)
        return cls(
            group, order, edges / edges[-1], np.cumsum(mass) - mass, mass,
            centre / mass[:, None], popularity,
        )  # fmt: skip

    def choice(self, world: World, traits: NDArray[np.floating], sharpness: float) -> Floats:
        """P(group | user) [n, N_CLUSTERS]: popularity times ``exp(sharpness * slope * taste)``.

        ``traits`` are rows of :meth:`World.traits` [n, RANK + 2]; taste is counted from the mean
        user's, since what all like is popular already.
        """
        deviation = traits[:, :RANK] - world.people[:, :RANK].mean(axis=0)
        logits = np.log(self.mass) + sharpness * world.slope * (deviation @ self.centre.T)
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def films(self, choice: Floats, first: Floats, second: Floats) -> Ints:
        """Films (from 0) by inverse distribution functions: uniforms [n, k] choose group, film."""
        ends = np.cumsum(choice, axis=1)
        ends[:, -1] = 1.0
        rows = np.arange(len(choice))[:, None]
        flat = np.searchsorted((ends + rows).ravel(), (first + rows).ravel(), side="right")
        group = np.minimum(flat.reshape(first.shape) - rows * len(self.mass), len(self.mass) - 1)
        return self.popular(self.start[group] + second * self.mass[group])

    def popular(self, at: Floats) -> Ints:
        """Films (from 0) at these points of the cumulative popularity."""
        place = np.searchsorted(self.edges, at, side="right")
        return self.order[np.minimum(place, len(self.order) - 1)]


def copies(film: Ints, n_items: int, n_films: int) -> Ints:
    """How many of the ids 1..n_items belong to each film (from 0): itself and those made of it."""
    return (n_items - 1 - film) // n_films + 1


def item_of(film: Ints, at: Floats, n_items: int, n_films: int) -> Ints:
    """The item among the film's :func:`copies` at a uniform number, by a power law."""
    total = (1.0 + copies(film, n_items, n_films)) ** (1 - TAIL) - 1
    copy = ((1 + at * total) ** (1 / (1 - TAIL)) - 1).astype(np.int64)
    return 1 + film + n_films * np.minimum(copy, copies(film, n_items, n_films) - 1)


def share_of(item: Ints, n_items: int, n_films: int) -> Floats:
    """P(item | film) of :func:`item_of`: ``((v + 2)^(1-s) - (v + 1)^(1-s)) / ((m + 1)^(1-s) - 1)``
    for copy number v of m."""
    film, copy = (item - 1) % n_films, (item - 1) // n_films
    total = (1.0 + copies(film, n_items, n_films)) ** (1 - TAIL) - 1
    return np.asarray(((copy + 2.0) ** (1 - TAIL) - (copy + 1.0) ** (1 - TAIL)) / total)


@dataclass(frozen=True, eq=False)
class LoggingPolicy:
    """Taste, popularity and novelty, mixed with weights that depend on the position.

    At position j each item has the probability

        q_j(i | u) = a_j P(group_i | u) P(i | group_i) + b_j P(i) + f [i is new] / #new,

    and a list is drawn from the top without replacement, so that its propensity at position j is
    ``q_j(i | u) / (1 - sum of q_j over the items above)``. It never sees a reaction: what decides
    here is fitted to the training interactions only (:func:`capstone.impressions.world_of`).
    """

    world: World
    groups: Groups
    n_items: int
    """Items that have appeared."""
    new_from: int
    """First id that counts as new; n_items + 1 when there is none."""
    taste: Floats
    """[k], a_j"""

    @classmethod
    def of(cls, world: World, groups: Groups, day: int, k: int) -> LoggingPolicy:
        shown = world.items_on(day)
        old = world.n_items - world.n_new_items
        before = max(world.items_on(day - FRESH_FOR), old) if day < ARRIVALS + FRESH_FOR else shown
        return cls(world, groups, shown, before + 1, np.linspace(TASTE_AT_TOP, TASTE_AT_END, k))

    @property
    def n_new(self) -> int:
        return self.n_items - self.new_from + 1

    @property
    def fresh(self) -> float:
        """f: 0 while nothing is new."""
        return FRESH_SHARE if self.n_new else 0.0

    def draw(self, users: Ints, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """One list for each user: users [n] -> items [n, k] and their propensities [n, k]."""
        choice = self.groups.choice(self.world, self.world.traits(users), POLICY_SHARPNESS)
        k = len(self.taste)
        lists = np.empty((len(users), k), dtype=np.int64)
        for j in range(k):
            left = np.arange(len(users))
            while len(left):
                lists[left, j] = self._one(choice[left], j, rng)
                again = (lists[left, :j] == lists[left, j, None]).any(axis=1)
                left = left[again]
        return lists, self.propensity(choice, lists)

    def propensity(self, choice: Floats, lists: Ints) -> Floats:
        """Propensities [n, k] of lists [n, k], given P(group | user) [n, N_CLUSTERS]."""
        films = len(self.groups.order)
        film = (lists - 1) % films
        group = self.groups.of_film[film]
        popular = self.groups.popularity[film] * share_of(lists, self.n_items, films)
        tasty = popular * np.take_along_axis(choice, group, axis=1) / self.groups.mass[group]
        new = (lists >= self.new_from) / max(self.n_new, 1)
        rest = 1 - self.taste - self.fresh

        def mixture(own: Floats, known: Floats, fresh: Floats) -> Floats:
            return self.taste * own + rest * known + self.fresh * fresh

        above = mixture(*(np.cumsum(part, axis=1) - part for part in (tasty, popular, new)))
        return np.asarray(mixture(tasty, popular, new) / (1 - above))

    def _one(self, choice: Floats, j: int, rng: np.random.Generator) -> Ints:
        """An item for each row of P(group | user), from q_j."""
        n, films = len(choice), len(self.groups.order)
        kind, first, second, third = rng.random((4, n))
        film = self.groups.popular(second)
        own = kind < self.taste[j]
        film[own] = self.groups.films(choice[own], first[own, None], second[own, None])[:, 0]
        items = item_of(film, third, self.n_items, films)
        fresh = kind >= 1 - self.fresh
        items[fresh] = self.new_from + (first[fresh] * self.n_new).astype(np.int64)
        return items
