"""Off-policy: what another scoring would have earned, from the champion's exploration slots.

A ranking without randomness says nothing of another ranking: what was not shown has no clicks, and
no weight makes them up. What *can* be asked of the champion's log is what its exploration slots can
answer. In such a slot an item was drawn from the pool behind the feed with a logged chance, so

    clicks of an exploration slot, had the other arm's scoring drawn the item from the same pool

is identified: every item of the pool had a chance. The other arm's whole feed is not, and the
estimate of it is refused (`whole_feed`).

The estimators are lab 6's; the draw and its propensities are the service's own
(`capstone.exploration`). People and clicks are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capstone import exploration
from capstone.experiment_log import Bools, Floats, Ints
from capstone.world import World
from common.errors import require
from common.statistics import Z95, mean_ci
from labs.lab6_online_eval import off_policy as weighting
from labs.lab6_online_eval import ranking_off_policy as rankings

SHRINKAGE = 20.0
"""Slots at the overall rate that an item's click rate is mixed with."""


@dataclass(frozen=True)
class TwoArms:
    """Both arms' values of the same candidates of every user.

    Attributes
    ----------
    ids
        Int [n_users, C]: the candidates; none twice.
    champion, candidate
        Float [n_users, C]: value of each under either arm's ranker.
    """

    ids: Ints
    champion: Floats
    candidate: Floats

    def __post_init__(self) -> None:
        for name in ("champion", "candidate"):
            shape = getattr(self, name).shape
            require(shape == self.ids.shape, f"shape of {name}", shape, f"must be {self.ids.shape}")

    def ranked(self, values: Floats, depth: int) -> Ints:
        """The ``depth`` best by these values, best first: int [n_users, depth]."""
        order = np.argsort(-values, axis=1, kind="stable")[:, :depth]
        return np.asarray(np.take_along_axis(self.ids, order, axis=1))


@dataclass(frozen=True)
class SlotPolicies:
    """The pool of each user, and the chance of each item to be drawn from it under either scoring.

    Attributes
    ----------
    head
        Int [n_users, k - slots]: the ranked items.
    pool
        Int [n_users, P].
    logger, target
        Float [n_users, P]: summing to 1 for each user.
    """

    head: Ints
    pool: Ints
    logger: Floats
    target: Floats
    k: int
    slots: int


def slot_policies(
    arms: TwoArms,
    *,
    k: int = 10,
    slots: int = 1,
    pool: int = 40,
    sharpness: float = 0.0,
    target_sharpness: float = 4.0,
) -> SlotPolicies:
    """The champion's feed with exploration, and the same with the candidate's draw in its slots.

    Parameters
    ----------
    slots, pool, sharpness
        As the champion explores (:class:`capstone.reranking.RerankConfig`).
    target_sharpness
        How strongly the candidate's draw prefers what the candidate values.
    """
    ranked = k - slots
    require(
        arms.ids.shape[1] >= ranked + pool,
        "candidates",
        arms.ids.shape[1],
        f"must be at least {ranked + pool}: the feed and its pool",
    )
    order = np.argsort(-arms.champion, axis=1, kind="stable")[:, : ranked + pool]
    behind = order[:, ranked:]
    logger, target = (
        np.array(
            [
                exploration.pool_weights(row, sharp)
                for row in np.take_along_axis(values, behind, axis=1).astype(float)
            ]
        )
        for values, sharp in (
            (arms.champion, sharpness),
            (arms.candidate, target_sharpness),
        )
    )
    ids = np.take_along_axis(arms.ids, order, axis=1)
    return SlotPolicies(ids[:, :ranked], ids[:, ranked:], logger, target, k, slots)


@dataclass(frozen=True)
class ExploredLog:
    """Simulated feeds with exploration as the service would have logged them.

    Attributes
    ----------
    person
        Int [n].
    lists, propensity, clicks
        [n, k]: items, P(item at this place | request), and whether it was clicked.
    place, drawn
        Int [n, slots]: where the slots are, and which of the pool's items stand there.
    """

    person: Ints
    lists: Ints
    propensity: Floats
    clicks: Bools
    place: Ints
    drawn: Ints


def simulate_log(
    world: World,
    policies: SlotPolicies,
    weights: Floats,
    sessions: int,
    *,
    seed: int | list[int] = 0,
    day: int = 0,
) -> ExploredLog:
    """Serve ``sessions`` feeds with the slots drawn by ``weights`` [n_users, P]; people click."""
    rng = np.random.default_rng(seed)
    k, slots = policies.k, policies.slots
    person = rng.integers(0, len(policies.pool), sessions)
    lists = np.empty((sessions, k), dtype=np.int64)
    propensity = np.empty((sessions, k))
    place, drawn = (np.empty((sessions, slots), dtype=np.int64) for _ in range(2))
    for row, user in enumerate(person):
        shown = exploration.draw(weights[user], k, slots, rng)
        kept = np.ones(k, dtype=bool)
        kept[shown.position] = False
        lists[row, kept] = policies.head[user]
        lists[row, shown.position] = policies.pool[user, shown.drawn]
        propensity[row] = exploration.propensities(shown, weights[user], k)
        place[row], drawn[row] = shown.position, shown.drawn
    clicks = world.respond(person, lists, day, rng).clicks
    return ExploredLog(person, lists, propensity, clicks, place, drawn)


@dataclass(frozen=True)
class SlotRows:
    """One row a slot, for lab 6's estimators.

    ``reward`` 0 or 1 [n]; ``action`` int [n], row of the pool; ``logged`` [n]: chance of that item
    in this slot under the logger; ``target`` [n, P]: of every item under the other scoring;
    ``place`` int [n]; ``item`` int [n]; ``pool`` int [n, P].
    """

    reward: Floats
    action: Ints
    logged: Floats
    target: Floats
    place: Ints
    item: Ints
    pool: Ints

    @property
    def chosen(self) -> Floats:
        """The other scoring's chance of what was shown, [n]."""
        return np.asarray(self.target[np.arange(len(self.action)), self.action])


def slot_rows(log: ExploredLog, policies: SlotPolicies) -> SlotRows:
    """The slots of a log.

    The log has P(item at this place); that the place is a slot has the chance ``slots / (k - 1)``,
    so the item's chance *in the slot* is ``propensity * (k - 1) / slots``. The numerator averages
    over which of the slots the place is, as the logged propensity does.
    """
    k, slots = policies.k, policies.slots
    session = np.repeat(np.arange(len(log.person)), slots)
    place, action = log.place.ravel(), log.drawn.ravel()
    person = log.person[session]
    open_share = slots / (k - 1)
    target = policies.target[person]
    if slots > 1:
        of_slot = exploration.slot_chance(k, slots)[:, :slots] / open_share
        each = np.array([exploration.draw_probabilities(w, slots) for w in policies.target])
        target = np.einsum("nps,ns->np", each[person], of_slot[place])
    return SlotRows(
        reward=log.clicks[session, place].astype(float),
        action=action,
        logged=log.propensity[session, place] / open_share,
        target=target,
        place=place,
        item=log.lists[session, place],
        pool=policies.pool[person],
    )


def fit_clicks(rows: SlotRows, k: int, n_items: int, use: Bools) -> Floats:
    """A click model from the slots of ``use``: [n, P], of every item of every row's pool.

    ``P(click) = examination(place) * attraction(item)``. Places of slots are random, so the click
    rate by place *is* the examination, up to a factor; an item's attraction is its clicks over its
    examined places, shrunk to the overall rate.
    """
    clicks = np.bincount(rows.place[use], rows.reward[use], k)
    shown = np.bincount(rows.place[use], minlength=k)
    overall = clicks.sum() / shown.sum()
    seen = (clicks + overall) / (shown + 1) / overall
    looked = np.bincount(rows.item[use], seen[rows.place[use]], n_items + 1)
    clicked = np.bincount(rows.item[use], rows.reward[use], n_items + 1)
    attraction = (clicked + SHRINKAGE * overall) / (looked + SHRINKAGE)
    return np.asarray(seen[rows.place][:, None] * attraction[rows.pool])


def estimate_slots(rows: SlotRows, k: int, n_items: int) -> tuple[weighting.Estimate, ...]:
    """Clicks of a slot under the other scoring: IPW, SNIPW, doubly robust and the direct method.

    The click model is cross-fitted: each half is predicted by the other's.
    """
    weights = weighting.importance_weights(rows.logged, rows.chosen)
    ess = weighting.effective_sample_size(weights)
    refused = weighting.refusal(weights, rows.reward)
    half = np.arange(len(rows.reward)) % 2 == 0
    predicted = np.where(
        half[:, None],
        fit_clicks(rows, k, n_items, ~half),
        fit_clicks(rows, k, n_items, half),
    )
    robust = weighting.estimate_of(
        weighting.doubly_robust(rows.reward, rows.action, rows.logged, rows.target, predicted),
        "doubly robust",
        ess,
        refused,
    )
    modelled = weighting.estimate_of(
        weighting.direct(rows.target, predicted), "direct method", None, None
    )
    normal = weighting.snipw(rows.reward, rows.logged, rows.chosen, least_ess=0.0)
    assert normal.value is not None
    assert normal.se is not None
    return (
        weighting.estimate_of(weighting.ipw(rows.reward, weights), "IPW", ess, refused),
        weighting.Estimate(
            "SNIPW",
            normal.value,
            normal.se,
            normal.value - Z95 * normal.se,
            normal.value + Z95 * normal.se,
            ess,
            refused,
        ),
        robust,
        weighting.Estimate(
            **{**vars(modelled), "refused": weighting.judge_model(modelled, robust)}
        ),
    )


def true_slot_value(
    world: World, policies: SlotPolicies, weights: Floats, *, day: int = 0
) -> float:
    """The world's mean clicks of one slot with draws by ``weights`` [n_users, P]: no sampling."""
    people = np.arange(len(policies.pool))
    click = world.probabilities(people, policies.pool, day)["click"]
    k, slots = policies.k, policies.slots
    looked = world.examination(k)[1:].mean()
    if slots > 1:
        drawn = [exploration.draw_probabilities(row, slots).mean(axis=1) for row in weights]
        weights = np.array(drawn)  # by symmetry of the places, each slot number is as likely
    return float((weights * click).sum(axis=1).mean() * looked)


def whole_feed(
    log: ExploredLog, policies: SlotPolicies, arms: TwoArms
) -> rankings.OffPolicyEstimate:
    """The candidate's whole feed from the champion's log, by item and place: mostly unsupported.

    An item counts as supported at a place where the champion's feed has it with a positive chance:
    its own items at their place or, moved down by slots before them, up to ``slots`` places on; and
    the pool's at every place but the first.
    """
    k, slots = policies.k, policies.slots
    wanted = arms.ranked(arms.candidate, k)
    place = np.arange(k)
    supported = (wanted[:, :, None] == policies.pool[:, None, :]).any(axis=2) & (place > 0)
    for moved in range(slots + 1):
        at = place - moved
        inside = (at >= 0) & (at < k - slots) & ((moved == 0) | (place >= moved))
        same = policies.head[:, np.clip(at, 0, k - slots - 1)] == wanted
        supported |= same & inside
    unsupported = float((~supported).mean())
    target = (wanted[log.person] == log.lists).astype(float)
    weights = rankings.position_weights(log.propensity, target)
    ess = rankings.effective_sample_size(weights)
    terms = rankings.item_position_ips(log.clicks.astype(float), log.propensity, target)
    return rankings.OffPolicyEstimate(
        "item-position IPS", *mean_ci(terms), ess, unsupported, rankings.refusal(unsupported, ess)
    )


def ran_for_real(
    world: World, policies: SlotPolicies, sessions: int, *, seed: int | list[int] = 0
) -> weighting.Estimate:
    """The same value measured by serving the other scoring's draw: what the estimate stands for."""
    rows = slot_rows(simulate_log(world, policies, policies.target, sessions, seed=seed), policies)
    return weighting.estimate_of(rows.reward, "ran for real", None, None)
