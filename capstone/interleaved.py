"""Interleaving two arms: one feed drafted from both, and clicks say whose items are preferred.

An A/B test compares people; interleaving compares within one session, and so needs far fewer. It
answers one question, which of the two is preferred, and not by how many clicks. The draft, its
credit and its test are lab 6's (team draft: Radlinski, Kurup & Joachims 2008).

The gateway serves such feeds (:mod:`capstone.interleaved_feed`), and `logged_preference` reads
their credit in its event log. How many sessions either design needs is computed in the simulated
world.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
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


def logged_preference(log: Path, second: int, *, arm: str = "interleaved") -> Preference:
    """The credit of the interleaved feeds in a gateway's event log, and its test over units.

    A click, like or share of an item counts once for the variant that picked it: positive prefers
    ``second``. A feed without a reaction has credit 0; a fallback feed was not drafted
    and has none.

    Parameters
    ----------
    log
        Folder of the event log; may be written meanwhile.
    second
        The variant that credit counts for.

    Raises
    ------
    InputError
        Fewer than two units with such a feed, or credit that never varies.
    """
    import duckdb

    with duckdb.connect() as connection:
        for kind in (EXPOSURES, REACTIONS):
            connection.register(kind, FeedTables(log).read(kind))
        rows = connection.execute(
            """
            WITH drafted AS (
                SELECT request_id, unit_id, items, teams FROM exposures
                WHERE arm = ? AND in_experiment AND len(teams) > 0),
            clicked AS (
                SELECT DISTINCT request_id, item_id FROM reactions WHERE reaction <> 'hide')
            SELECT unit_id,
                   coalesce(sum(CASE WHEN item_id IS NULL THEN 0
                       WHEN teams[list_position(items, item_id)] = ? THEN 1 ELSE -1 END), 0)
            FROM drafted LEFT JOIN clicked USING (request_id)
            GROUP BY request_id, unit_id
            """,
            [arm, second],
        ).fetchall()
    units = np.unique([unit for unit, _ in rows], return_inverse=True)[1] if rows else np.zeros(0)
    return compare_interleaved(units.astype(np.int64), np.array([float(c) for _, c in rows]))


def sessions_needed(variance: float, effect: float) -> float:
    """Sessions for power .8 at 5 %: ``(z_.975 + z_.8)^2 variance / effect^2``, as `sensitivity`.

    ``variance`` is of a session's credit; of an A/B test with equal arms, twice the sum of both
    arms' variances.
    """
    z = float(norm.isf(0.025) + norm.ppf(0.8))
    return z**2 * variance / effect**2


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
