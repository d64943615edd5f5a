"""A simulated world of people and films, fitted to MovieLens, in which the true effects are known.

Two things decide what a person does with a film, and MovieLens shows only their product:

* ``appeal``: would they enjoy it if they watched it?
* ``awareness``: would they have watched it anyway, without being shown it?

A rating in MovieLens means that somebody knew a film *and* chose it. A recommendation adds
something only where a person would have liked a film that they would not have found. That is why
offline and online disagree here, and it is the mechanism that the lab is about.

Everything that comes out of this module is simulated, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.data import Dataset
from common.errors import require

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLICKS_AT_THE_TOP = 0.35
PREFERENCE_SPREAD = 0.08


@dataclass(frozen=True)
class Interactions:
    """MovieLens ratings in time order, each user's history cut at 80 %.

    ``seen`` bool [n_users, n_items]: the first 80 % of each user's films, what rankers learn from.
    ``held_out`` bool [n_users, n_items]: the rest, what they are judged by offline.
    """

    seen: NDArray[np.bool_]
    held_out: NDArray[np.bool_]

    @property
    def everything(self) -> Floats:
        """All interactions, float [n_users, n_items] of 0 and 1."""
        return (self.seen | self.held_out).astype(float)


def read_interactions(dataset: Dataset, *, share: float = 0.8) -> Interactions:
    """The interactions of ``common.data.load("ml-100k")``; ties in time keep the file's order."""
    table = dataset.table("interactions").sort_values("timestamp", kind="stable")
    users = table["user_id"].to_numpy() - 1
    items = table["item_id"].to_numpy() - 1
    groups = table.groupby("user_id")["item_id"]
    early = (groups.cumcount() / groups.transform("size") < share).to_numpy()
    shape = int(users.max()) + 1, int(items.max()) + 1
    seen, held_out = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    seen[users[early], items[early]] = True
    held_out[users[~early], items[~early]] = True
    return Interactions(seen, held_out & ~seen)


@dataclass(frozen=True)
class Change:
    """How the effect of a new list on clicks moves with the days a person has had it.

    The difference that the treatment makes to a person's clicks is multiplied by

        1 + novelty * exp(-t / days) + learning * (1 - exp(-t / days)),    t = days since exposure.

    ``novelty`` > 0: curiosity that wears off. ``learning`` > 0: people find out how to use it.
    """

    novelty: float = 0.0
    learning: float = 0.0
    days: float = 5.0

    def factor(self, t: Floats) -> Floats:
        """The multiplier, same shape as ``t`` (days, >= 0)."""
        fading = np.exp(-t / self.days)
        return np.asarray(1 + self.novelty * fading + self.learning * (1 - fading))


@dataclass(frozen=True)
class World:
    """True behaviour. A person looks at position j with probability ``examination[j]``, and clicks
    what they look at with probability ``click[user, item]`` (the position-based model).

    Attributes
    ----------
    appeal
        Float [n_users, n_items]: probability of enjoying the film when shown and looked at.
    awareness
        Float [n_items]: probability of having found it without us.
    visits
        Float [n_users]: mean sessions a day; active people, by their history, come more often.
    seen
        Bool [n_users, n_items]: rated in the past; rankers must not show these.
    """

    appeal: Floats
    awareness: Floats
    visits: Floats
    seen: NDArray[np.bool_]

    @property
    def n_users(self) -> int:
        return len(self.appeal)

    @property
    def n_items(self) -> int:
        return self.appeal.shape[1]

    @cached_property
    def click(self) -> Floats:
        """Probability of a click on what was looked at: ``appeal * (1 - awareness)``."""
        return self.appeal * (1 - self.awareness)

    @staticmethod
    def examination(k: int) -> Floats:
        """Probability of looking at each of k positions, ``1 / log2(j + 2)``: float [k]."""
        return np.asarray(1 / np.log2(np.arange(k) + 2.0))

    def click_probability(self, people: Ints, lists: Ints) -> Floats:
        """Probability of a click at each position: people [n], lists [n, k] -> float [n, k]."""
        return self.click[people[:, None], lists] * self.examination(lists.shape[1])

    def expected_clicks(self, lists: Ints) -> Floats:
        """True mean clicks a session of each user with their list: [n_users, k] -> [n_users]."""
        people = np.arange(self.n_users)
        return np.asarray(self.click_probability(people, lists).sum(axis=1))

    def true_effect(self, control: Ints, treatment: Ints) -> float:
        """The effect of ``treatment`` on mean clicks a session, people as equals: no sampling."""
        return float((self.expected_clicks(treatment) - self.expected_clicks(control)).mean())

    def clicks(self, people: Ints, lists: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Simulated clicks of one session each: people [n], lists [n, k] -> bool [n, k]."""
        return rng.random(lists.shape) < self.click_probability(people, lists)


def build_world(interactions: Interactions, *, rank: int = 20, seed: int = 0) -> World:
    """Fit the world to every interaction, the held-out ones included: it knows more than rankers.

    Taste is a truncated SVD (``rank`` factors) of the interactions divided by the square root of
    each film's popularity, so that it says what a person likes rather than what is well known,
    plus a fixed draw of individual preference (``seed``) that no data of ours shows.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    require(1 <= rank < 900, "rank", rank, "must be from 1 to 899", "try 20")
    everything = interactions.everything
    popularity = everything.sum(axis=0)
    weighted = everything / np.sqrt(np.maximum(popularity, 1.0))
    start = np.random.default_rng(0).standard_normal(min(weighted.shape))
    left, values, right = svds(csr_matrix(weighted), k=rank, v0=start)
    taste = (left * values) @ right
    taste *= 1 / np.maximum(np.quantile(taste, 0.99, axis=1, keepdims=True), 1e-9)
    rng = np.random.default_rng(seed)
    taste += PREFERENCE_SPREAD * rng.standard_normal(taste.shape)
    activity = np.sqrt(everything.sum(axis=1) / np.median(everything.sum(axis=1)))
    activity = np.clip(activity, 0.3, 3.0)
    appeal = np.clip(CLICKS_AT_THE_TOP * taste * np.sqrt(activity)[:, None], 0.002, 0.9)
    awareness = np.clip(popularity / popularity.max(), 0.0, 0.95)
    return World(appeal, awareness, 0.4 * activity, interactions.seen)


@dataclass(frozen=True)
class Sessions:
    """Simulated sessions of an experiment, one row a session, in time order.

    ``unit`` int [n]: 0 to n_units - 1; ``person`` int [n]: whose taste the unit has; ``arm`` int
    [n]; ``day`` float [n]: days since the start; ``clicks`` int [n]; ``hides`` int [n]: items
    hidden or complained of; ``latency_ms`` float [n]; ``error`` bool [n].
    """

    unit: Ints
    person: Ints
    arm: Ints
    day: Floats
    clicks: Ints
    hides: Ints
    latency_ms: Floats
    error: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return len(self.unit)

    def where(self, keep: NDArray[np.bool_]) -> Sessions:
        """The sessions that ``keep`` (bool [n]) selects."""
        return replace(self, **{name: getattr(self, name)[keep] for name in self.__annotations__})


@dataclass(frozen=True)
class Service:
    """What an arm's servers add: median latency, its spread, error rate, hides per shown item."""

    latency_ms: float = 80.0
    spread: float = 0.35
    error_rate: float = 0.002
    hide_rate: float = 0.001


def simulate(
    world: World,
    lists: tuple[Ints, ...],
    arm: Ints,
    people: Ints,
    *,
    days: float,
    seed: int,
    change: Change | None = None,
    services: tuple[Service, ...] = (),
    start: float = 0.0,
) -> Sessions:
    """Simulated sessions of units in the arms that they were assigned to.

    Parameters
    ----------
    lists
        One int [n_users, k] an arm: what each *user of the world* is shown; arm 0 is the control.
    arm, people
        Int [n_units] each: the arm of a unit, and whose taste it has (index of a user).
    days
        Length; visits come as a Poisson process at the user's rate, so some units never come.
    change
        Novelty or learning of the effect (none: constant).
    services
        One an arm; equal and healthy when left out.
    start
        Day of the first possible session; negative days are before the experiment.
    """
    require(len(arm) == len(people), "people", len(people), f"must be {len(arm)}, one a unit")
    require(days > 0, "days", days, "must be > 0")
    strange = int(np.count_nonzero((arm < 0) | (arm >= len(lists))))
    require(
        strange == 0,
        "units in an arm without lists",
        strange,
        f"must be 0: arms are 0 to {len(lists) - 1}",
        "leave out who is not in the experiment",
    )
    n_services = len(services) or len(lists)
    require(n_services == len(lists), "services", n_services, f"must be {len(lists)}, one an arm")
    services = services or tuple(Service() for _ in lists)
    change = change or Change()
    rng = np.random.default_rng(seed)
    visits = rng.poisson(world.visits[people] * days)
    unit = np.repeat(np.arange(len(people)), visits)
    person, which = people[unit], arm[unit]
    day = start + days * rng.random(len(unit))
    order = np.argsort(day, kind="stable")
    unit, person, which, day = unit[order], person[order], which[order], day[order]
    factor = change.factor(np.maximum(day - np.minimum(start, 0.0), 0.0))
    clicks = np.zeros(len(unit), dtype=np.int64)
    base = world.click_probability(person, lists[0][person])
    for number, shown in enumerate(lists):
        mine = which == number
        chance = base[mine]
        if number:
            theirs = world.click_probability(person[mine], shown[person[mine]])
            # the change acts on the difference that the arm makes, spread over its positions
            total, mean = theirs.sum(axis=1), chance.sum(axis=1)
            wanted = mean + (total - mean) * factor[mine]
            chance = np.clip(theirs * (wanted / np.maximum(total, 1e-12))[:, None], 0.0, 0.95)
        clicks[mine] = (rng.random(chance.shape) < chance).sum(axis=1)
    k = lists[0].shape[1]
    rates = {name: np.array([getattr(s, name) for s in services]) for name in SERVICE_FIELDS}
    noise = rng.standard_normal(len(unit))
    return Sessions(
        unit=unit,
        person=person,
        arm=which,
        day=day,
        clicks=clicks,
        hides=rng.binomial(k, rates["hide_rate"][which]),
        latency_ms=rates["latency_ms"][which] * np.exp(rates["spread"][which] * noise),
        error=rng.random(len(unit)) < rates["error_rate"][which],
    )


SERVICE_FIELDS = ("latency_ms", "spread", "error_rate", "hide_rate")
