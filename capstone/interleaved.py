"""Interleaving two arms: one feed drafted from both, and clicks say whose items are preferred.

An A/B test compares people; interleaving compares within one session, and so needs far fewer. It
answers one question, which of the two is preferred, and not by how many clicks. The draft, its
credit and its test are lab 6's (team draft: Radlinski, Kurup & Joachims 2008). People and clicks
are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capstone.experiment_log import Floats, Ints
from capstone.world import World
from common.errors import InputError, require
from labs.lab6_online_eval.interleaving import (
    Preference,
    coins,
    compare_interleaved,
    credit,
    team_draft_many,
)
from labs.lab6_online_eval.interleaving_sensitivity import Sensitivity, sensitivity
from labs.lab6_online_eval.world import World as FilmWorld


@dataclass(frozen=True)
class Agreement:
    """Interleaving beside the A/B test of the same two arms.

    Attributes
    ----------
    preference
        Mean credit a session: clicks on the candidate's team minus the champion's.
    sensitivity
        Sessions that either design needs for the same power; None when the two arms are too close
        for the drafts to tell them apart, with the ``reason``.
    true_effect
        The world's effect of the candidate on clicks a session.
    """

    preference: Preference
    sensitivity: Sensitivity | None
    reason: str
    true_effect: float

    @property
    def agrees(self) -> bool:
        """Whether the preference has the sign of the true effect."""
        return bool(np.sign(self.preference.effect) == np.sign(self.true_effect))

    @property
    def decided(self) -> bool:
        """Whether its interval excludes 0, so that the sign may be believed."""
        low, high = self.preference.ci95
        return low > 0 or high < 0


def interleave(
    world: World, champion: Ints, candidate: Ints, sessions: int, *, seed: int = 0, day: int = 0
) -> Preference:
    """One interleaved session each of ``sessions`` people drawn with replacement.

    Parameters
    ----------
    champion, candidate
        Int [n_users, k]: the feeds that either arm serves to everybody.

    Raises
    ------
    InputError
        Lists with an item twice or of different shapes; arms without any difference.
    """
    require(sessions >= 2, "sessions", sessions, "must be at least 2")
    rng = np.random.default_rng(seed)
    people = rng.integers(0, len(champion), sessions)
    drafted, teams = team_draft_many(
        champion[people], candidate[people], coins(sessions, champion.shape[1], rng)
    )
    clicks = world.respond(people, drafted, day, rng).clicks
    # Each session is of a person of its own, who happens to have the taste of a real user.
    return compare_interleaved(np.arange(sessions), credit(clicks, teams))


def film_world(world: World, n_users: int, *, day: int = 0) -> FilmWorld:
    """The clicks of this world as lab 6's: the same examination, and P(click | examined)."""
    items = np.arange(world.n_items + 1)
    chance = world.probabilities(np.arange(n_users), np.tile(items, (n_users, 1)), day)["click"]
    nothing: Floats = np.zeros(len(items))
    return FilmWorld(
        appeal=np.asarray(chance, dtype=float),
        awareness=nothing,
        visits=np.ones(n_users),
        seen=np.zeros(chance.shape, dtype=bool),
    )


def compare_designs(
    world: World,
    champion: Ints,
    candidate: Ints,
    *,
    sessions: int,
    drafts: int = 40,
    experiments: int = 1000,
    seed: int = 0,
    day: int = 0,
) -> Agreement:
    """Interleave the two arms, and say how many sessions it and an A/B test need for power .8."""
    preference = interleave(world, champion, candidate, sessions, seed=seed, day=day)
    found, reason = None, ""
    try:
        found = sensitivity(
            film_world(world, len(champion), day=day),
            champion,
            candidate,
            names=("champion", "candidate"),
            drafts=drafts,
            experiments=experiments,
            seed=seed,
        )
    except InputError as error:
        reason = str(error)
    effect = world.true_effect(champion, candidate, day=day)["clicks"]
    return Agreement(preference, found, reason, effect)
