"""Why the offline winner loses online, and what estimates in between can and cannot say.

A held-out rating means that a person found a film without us and chose it. A click on a list means
that they liked a film that they would not have found. A ranker of what is well known wins the
first and not the second. In the simulated world both causes are known, so the difference between
two rankers can be taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from common.errors import require
from labs.lab6_online_eval.offline_metrics import OfflineMetrics, discounts, evaluate, weighted_hits
from labs.lab6_online_eval.plackett_luce import log_lists, plackett_luce
from labs.lab6_online_eval.position_bias import (
    Examination,
    by_click_through,
    by_em,
    by_random_swaps,
    log_fixed_lists,
    log_random_swaps,
)
from labs.lab6_online_eval.rankers import discovery, ease, item_neighbours, popularity, top_k
from labs.lab6_online_eval.ranking_off_policy import Evaluator, OffPolicyEstimate
from labs.lab6_online_eval.world import Floats, Interactions, Ints, World

POWERS = {"discovery_20": 0.2, "discovery_50": 0.5, "discovery_70": 0.7}
SMALL_POWERS = {"discovery_05": 0.05, "discovery_10": 0.1}
CANDIDATES = 30
TEMPERATURE = 1.0


@dataclass(frozen=True)
class Rankers:
    """Lists of every ranker by name, int [n_users, k], and the scores of `ease`, which logs."""

    lists: dict[str, Ints]
    ease_scores: Floats


def ranker_lists(data: Interactions, k: int = 10) -> Rankers:
    """The lab's rankers, `discovery` at five powers: ``discovery_20`` divides by popularity^0.2."""
    base = ease(data)
    scores = {"popularity": popularity(data), "item_neighbours": item_neighbours(data)}
    scores["ease"] = base
    for name, power in {**SMALL_POWERS, **POWERS}.items():
        scores[name] = discovery(data, power=power, base=base)
    return Rankers({name: top_k(each, data, k) for name, each in scores.items()}, base)


@dataclass(frozen=True)
class Decomposition:
    """A ranker's true clicks a session less the baseline's, as a sum of three parts.

    ``appeal``: its films are liked more or less. ``awareness``: they are known more or less.
    ``joint``: it puts what is liked *and* unknown together, more or less than by chance.
    """

    appeal: float
    awareness: float
    joint: float

    @property
    def total(self) -> float:
        return self.appeal + self.awareness + self.joint


def decompose(world: World, baseline: Ints, lists: Ints) -> Decomposition:
    """Take the difference in true clicks apart: int [n_users, k] each, ``lists`` less baseline.

    With positions weighted by examination (total weight T), and means over users and positions,

        clicks = T * (mean appeal * mean novelty + covariance),    novelty = 1 - awareness.

    A difference of products is split evenly: the change of one factor times the mean of the other
    (the Shapley value of two factors), so the parts add up exactly.
    """
    total = float(world.examination(lists.shape[1]).sum())
    (appeal_0, novelty_0, joint_0), (appeal_1, novelty_1, joint_1) = (
        _parts(world, each) for each in (baseline, lists)
    )
    return Decomposition(
        appeal=total * (appeal_1 - appeal_0) * (novelty_0 + novelty_1) / 2,
        awareness=total * (novelty_1 - novelty_0) * (appeal_0 + appeal_1) / 2,
        joint=total * (joint_1 - joint_0),
    )


def _parts(world: World, lists: Ints) -> tuple[float, float, float]:
    """Mean appeal, mean novelty and their covariance over what a ranker's users look at."""
    weight = world.examination(lists.shape[1])
    weight = weight / weight.sum() / len(lists)
    appeal = np.take_along_axis(world.appeal, lists, axis=1)
    novelty = 1 - world.awareness[lists]
    mean_appeal, mean_novelty = float((appeal @ weight).sum()), float((novelty @ weight).sum())
    both = float(((appeal * novelty) @ weight).sum())
    return mean_appeal, mean_novelty, both - mean_appeal * mean_novelty


@dataclass(frozen=True)
class RankerRow:
    """One ranker: offline, in between, and online.

    Attributes
    ----------
    offline
        NDCG, recall, MRR and coverage at k.
    novel_dcg
        Held-out hits, each worth one minus the film's popularity in the *training* data: an offline
        metric that knows of awareness.
    clicks
        True clicks a session, exact.
    off_policy
        Estimates of ``clicks`` by name, from the log of a stochastic `ease`.
    parts
        True clicks less those of `ease`, taken apart.
    """

    name: str
    offline: OfflineMetrics
    novel_dcg: float
    clicks: float
    off_policy: dict[str, OffPolicyEstimate]
    parts: Decomposition


@dataclass(frozen=True)
class OfflineOnline:
    """What `study_offline_online` measured.

    Attributes
    ----------
    rows
        One a ranker, by true clicks.
    logging_clicks
        True clicks a session of the logging ranker: what exploring cost or gained.
    sessions
        Of the log.
    tau
        Kendall's tau with true clicks over the rankers: of ``ndcg``, ``novel_dcg``, and of the
        ``doubly_robust`` and ``position_based`` estimates.
    """

    rows: tuple[RankerRow, ...]
    logging_clicks: float
    sessions: int
    tau: dict[str, float]

    def best(self, by: str) -> str:
        """Name of the best ranker by ``ndcg`` or by ``clicks``."""
        require(by in ("ndcg", "clicks"), "by", by, "must be ndcg or clicks")
        return max(self.rows, key=lambda r: r.offline.ndcg.mean if by == "ndcg" else r.clicks).name


def study_offline_online(
    data: Interactions, world: World, rankers: Rankers, *, sessions: int, seed: int = 0
) -> OfflineOnline:
    """Rank the rankers offline, from a log, and online, and explain where these disagree.

    Parameters
    ----------
    sessions
        Length of the log of the stochastic `ease`.
    """
    k = rankers.lists["ease"].shape[1]
    candidates = top_k(rankers.ease_scores, data, CANDIDATES)
    logger = plackett_luce(rankers.ease_scores, candidates, k, TEMPERATURE)
    evaluator = Evaluator(log_lists(world, logger, sessions, seed), world.n_items)
    watched = data.seen.sum(axis=0)
    novelty = 1 - watched / watched.max()
    rows = [
        RankerRow(
            name=name,
            offline=evaluate(lists, data.held_out),
            novel_dcg=float(weighted_hits(lists, data.held_out, novelty).mean()),
            clicks=float(world.expected_clicks(lists).mean()),
            off_policy={each.estimator: each for each in evaluator.estimates(lists)},
            parts=decompose(world, rankers.lists["ease"], lists),
        )
        for name, lists in rankers.lists.items()
    ]
    rows.sort(key=lambda row: row.clicks)
    measured = {
        "ndcg": [row.offline.ndcg.mean for row in rows],
        "novel_dcg": [row.novel_dcg for row in rows],
        "position_based": [row.off_policy["position_based"].clicks for row in rows],
        "doubly_robust": [row.off_policy["doubly_robust"].clicks for row in rows],
    }
    truth = [row.clicks for row in rows]
    users = np.arange(world.n_users)[:, None]
    looked = logger.placement @ world.examination(k)
    return OfflineOnline(
        rows=tuple(rows),
        logging_clicks=float((looked * world.click[users, candidates]).sum(axis=1).mean()),
        sessions=sessions,
        tau={name: float(kendalltau(each, truth).statistic) for name, each in measured.items()},
    )


@dataclass(frozen=True)
class PositionBias:
    """Examination relative to the first position, float [k]: the truth, and each way to it."""

    truth: Floats
    click_through: Examination
    swaps: Examination
    em: Examination
    swap_cost: float


def study_position_bias(
    data: Interactions, world: World, rankers: Rankers, *, sessions: int, seed: int = 0
) -> PositionBias:
    """Click-through of fixed lists, random swaps of those lists, and EM on a stochastic log.

    ``swap_cost`` is the relative change in clicks a session that the swaps made.
    """
    lists = rankers.lists["ease"]
    k = lists.shape[1]
    logger = plackett_luce(
        rankers.ease_scores, top_k(rankers.ease_scores, data, CANDIDATES), k, TEMPERATURE
    )
    drawn = log_lists(world, logger, sessions, seed + 1)
    swaps = log_random_swaps(world, lists, sessions, seed + 2)
    swapped = swaps.log.clicks.sum(axis=1)
    return PositionBias(
        truth=discounts(k),
        click_through=by_click_through(log_fixed_lists(world, lists, sessions, seed)),
        swaps=by_random_swaps(swaps),
        em=by_em(drawn.log, world.n_items, tolerance=1e-4),
        swap_cost=float(swapped[swaps.swapped].mean() / swapped[~swaps.swapped].mean() - 1),
    )
