"""Exploration in bounded slots: a few places of a feed are drawn at random, and how is logged.

A feed that always shows what its model likes never learns about the rest, and its log can say
nothing about another model. So ``slots`` of the k places, never the first, hold an item drawn from
the candidates just behind the feed. Which places is random as well: then every place has a share of
randomness, and no place is known as the odd one.

What an estimate from the log needs is the **propensity**: the probability, given the request, that
*this item* stood at *this place*. It is not the probability of the draw that happened, and the
items that were ranked have one too, since a slot before them moves them down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises.marker import exercise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_SLOTS = 3
"""The chances below are exact for so many; a feed of 20 should not explore more."""


@dataclass(frozen=True)
class Exploration:
    """One draw.

    Attributes
    ----------
    position : [m]
        Places that are slots, rising, from 1.
    drawn : [m]
        Row of the pool at each of them.
    """

    position: Ints
    drawn: Ints


def pool_weights(value: Floats, sharpness: float) -> Floats:
    """Chance of each item of the pool to be drawn first, [n]: a softmax of the values.

    Values are scaled to 0 to 1 within the pool, so that no item is less probable than
    ``exp(-sharpness) / n``: a floor for the propensities, and so a ceiling for the weights that an
    off-policy estimate will multiply by. Sharpness 0 is a uniform draw.
    """
    require(sharpness >= 0, "exploration sharpness", sharpness, "must be >= 0", "0 is uniform")
    spread = float(np.ptp(value))
    if sharpness == 0 or spread == 0:
        return np.full(len(value), 1 / len(value))
    weight = np.exp(sharpness * (value - value.max()) / spread)
    return np.asarray(weight / weight.sum())


def draw(weights: Floats, k: int, slots: int, rng: np.random.Generator) -> Exploration:
    """Choose the places, uniformly among 1 ... k - 1, and draw an item for each.

    Items are drawn one after another without replacement, each time in proportion to the weights
    of those left (Plackett-Luce): Gumbel noise added to the logarithms, and a sort.

    Parameters
    ----------
    weights : [n]
        Of the pool, summing to 1, all above 0; n >= slots.
    k
        Places of the feed; more than ``slots``.
    """
    check_slots(len(weights), k, slots)
    position = np.sort(rng.choice(k - 1, slots, replace=False) + 1)
    noisy = np.log(weights) + rng.gumbel(size=len(weights))
    return Exploration(position, np.argsort(-noisy, kind="stable")[:slots])


def draw_probabilities(weights: Floats, slots: int) -> Floats:
    """P(item i is the s-th drawn) without replacement, exactly: [n] -> [n, slots], slots <= 3.

    With the sums over which items came before written out,

        P(i first)  = w_i
        P(i second) = w_i * sum over a != i of w_a / (1 - w_a)
        P(i third)  = w_i * sum over a != b, both != i, of w_a w_b / ((1 - w_a)(1 - w_a - w_b)).

    Lab 6 (``plackett_luce.placement_probabilities``) integrates the same for any number of places;
    a request has no time for it.
    """
    require(1 <= slots <= MAX_SLOTS, "slots", slots, f"must be 1 to {MAX_SLOTS}")
    n = len(weights)
    if np.ptp(weights) == 0:
        return np.full((n, slots), 1 / n)
    found = np.empty((n, slots))
    found[:, 0] = weights
    if slots > 1:
        # 1 - w_a is the sum of the others; as a difference it would lose its last digits.
        odds = weights / _others(weights)
        found[:, 1] = weights * _others(odds)
    if slots > 2:
        rest = _others(weights)[:, None] - weights[None, :]
        np.fill_diagonal(rest, np.inf)
        pair = odds[:, None] * weights[None, :] / np.maximum(rest, np.finfo(float).tiny)
        found[:, 2] = weights * (pair.sum() - pair.sum(axis=0) - pair.sum(axis=1))
    return found


@exercise(
    "7.8",
    points=8,
    title="The propensity of what was shown",
    hint="Sum over everything that could have happened and still shows this item at this place: "
    "which of the slots the place is, and which items were drawn before. A ranked item at place j "
    "with s slots before it is number j - s of the ranking: how often does that happen?",
)
def propensities(shown: Exploration, weights: Floats, k: int) -> Floats:
    """P(this item at this place | request) for each of the k places of a feed: [k].

    The m slots are a uniform choice among places 1 to k - 1; the other places hold the ranking in
    its order. Place j is slot number s + 1 in ``slot_chance(k, m)[j, s]`` of the cases, and not a
    slot but behind s of them in ``ranked_chance(k, m)[j, s]``; both are [k, m + 1].
    ``draw_probabilities(weights, m)[i, s]`` is the chance that item i of the pool is the one drawn
    for slot number s + 1.

    Parameters
    ----------
    shown
        Places of the slots and what was drawn for them.
    weights : [n]
        Of the pool, as for :func:`draw`.
    k
        Places of the feed.

    Returns
    -------
    [k] probabilities, above 0; 1 for the first place.
    """
    m = len(shown.position)
    before = np.searchsorted(shown.position, np.arange(k))
    found = ranked_chance(k, m)[np.arange(k), before]
    drawn = draw_probabilities(weights, m)[shown.drawn]
    found[shown.position] = (slot_chance(k, m)[shown.position, :m] * drawn).sum(axis=1)
    return np.asarray(found)


@lru_cache(maxsize=64)
def slot_chance(k: int, slots: int) -> Floats:
    """P(place j is a slot, and s slots stand before it): [k, slots + 1], row 0 all zero."""
    return _chance(k, slots, slots - 1)


@lru_cache(maxsize=64)
def ranked_chance(k: int, slots: int) -> Floats:
    """P(place j is no slot, and s slots stand before it): [k, slots + 1], row 0 is (1, 0, ...)."""
    return _chance(k, slots, slots)


def _chance(k: int, slots: int, elsewhere: int) -> Floats:
    """``elsewhere`` of the slots are to be at other places than j."""
    chance = np.zeros((k, slots + 1))
    chance[0, 0] = float(elsewhere == slots)
    for place in range(1, k):
        for before in range(elsewhere + 1):
            ways = comb(place - 1, before) * comb(k - 1 - place, elsewhere - before)
            chance[place, before] = ways / comb(k - 1, slots)
    chance.setflags(write=False)
    return chance


def check_slots(n: int, k: int, slots: int) -> None:
    """Refuse a number of slots that the pool or the feed has no room for."""
    require(1 <= slots <= MAX_SLOTS, "slots", slots, f"must be 1 to {MAX_SLOTS}")
    require(slots < k, "slots", slots, f"must be < {k}, the places: the first is never one")
    require(slots <= n, "slots", slots, f"must be <= {n}, the pool")


def _others(values: Floats) -> Floats:
    return np.asarray(values.sum() - values)
