"""Off-policy evaluation of rankings: another ranker's clicks, from the logs of the one that ran.

The logging ranker is stochastic and known (see `plackett_luce`), so the probability of every film
at every place is known as well. The estimate of a new ranker's clicks a session is then a
reweighting of the log (item-position or position-based IPS), a prediction by a click model
(direct), or the prediction corrected by the reweighted log (doubly robust).

A film that the logging ranker never shows has no evidence, and no weight can make it up: that
share of the new ranker's places is reported, and above a limit the estimate is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import require
from common.exercises import exercise
from common.statistics import mean_ci
from labs.lab6_online_eval.plackett_luce import LoggedLists
from labs.lab6_online_eval.position_bias import ClickLog, by_em
from labs.lab6_online_eval.world import Floats, Ints

MOST_UNSUPPORTED = 0.05
LEAST_ESS = 200.0
SHRINKAGE = 5.0


def item_position_ips(clicks: Floats, logged: Floats, target: Floats) -> Floats:
    """Item-position IPS, one term a session: ``sum_j c_j q_j / p_j``, float [n].

    Only the film and its place are weighted, not the whole list: a list of ten from thirty is
    almost never drawn twice, a film at a place is. It is unbiased if a click depends on the film
    and its place alone (as in the position-based model), and q > 0 only where p > 0.

    Parameters
    ----------
    clicks
        Float [n, k], 0 or 1.
    logged, target
        Float [n, k]: probability of the shown film at its place under the logging ranker (p > 0)
        and under the new one (q; 0 or 1 if that is deterministic).

    Notes
    -----
    Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen (2018), Offline Evaluation of Ranking
    Policies with Click Models, KDD (item-position model).
    """
    return np.asarray((clicks * position_weights(logged, target)).sum(axis=1))


def self_normalised_ips(clicks: Floats, logged: Floats, target: Floats) -> Floats:
    """SNIPS by position: ``sum_j (sum_s w_sj c_sj) / (sum_s w_sj)``.

    Dividing by the weights that were drawn instead of by n: a small bias for less variance.

    Returns
    -------
    float [n]
        The estimate plus each session's influence on it: their mean is the estimate, and their
        spread gives its standard error (delta method).

    Notes
    -----
    Swaminathan & Joachims (2015), The Self-Normalized Estimator for Counterfactual Learning,
    NeurIPS.
    """
    weight = position_weights(logged, target)
    total = weight.mean(axis=0)
    require(
        bool((total > 0).all()),
        "positions at which no session shows the new ranker's film",
        int((total == 0).sum()),
        "must be 0",
        "log more sessions, or choose a logging ranker that is nearer",
    )
    rate = (weight * clicks).mean(axis=0) / total
    influence = (weight * (clicks - rate) / total).sum(axis=1)
    return np.asarray(influence + rate.sum())


def position_based_ips(
    clicks: Floats, examined: Floats, examination: Floats
) -> tuple[Floats, Floats]:
    """Position-based IPS: a click counts wherever the film stood, weighted by how far it was seen.

        sum_i c_i theta_{position of i in the new list} / sum_j theta_j p_ij

    over the films i of the new list. Far less variance than `item_position_ips`, which throws away
    every click on the right film at another place; the price is a model, the examination theta.

    Parameters
    ----------
    clicks
        Float [n, k]: by *position of the new list*, whether its film was clicked, anywhere.
    examined
        Float [n, k]: ``sum_j theta_j p_ij`` of that film under the logging ranker; 0 if it never
        shows it (then the film counts nothing).
    examination
        Float [k], theta; any scale.

    Returns
    -------
    (terms, weights)
        Float [n] and float [n, k].

    Notes
    -----
    Li et al. (2018), as above (position-based model).
    """
    require(clicks.shape == examined.shape, "shape of examined", examined.shape, "as clicks")
    shown = examined > 0
    weight = np.where(shown, examination / np.where(shown, examined, 1.0), 0.0)
    return np.asarray((clicks * weight).sum(axis=1)), weight


def direct(predicted_target: Floats) -> Floats:
    """The click model's prediction for the new ranker's lists: [n, k] -> float [n].

    Its interval is that of a mean of predictions. The model's own error is not in it.
    """
    return np.asarray(predicted_target.sum(axis=1))


@exercise(
    "6.3",
    points=10,
    title="Doubly robust estimate of another ranker's clicks",
    hint="Where the two rankers agree on a film at a place, the log shows how wrong the prediction "
    "was. What must a session contribute in which they agree nowhere?",
)
def doubly_robust(
    clicks: Floats,
    logged: Floats,
    target: Floats,
    predicted_logged: Floats,
    predicted_target: Floats,
) -> Floats:
    """The click model's prediction, corrected by the reweighted log: one term a session.

        sum_j m(new film at j)  +  sum_j (q_j / p_j) (c_j - m(shown film at j))

    Unbiased if the propensities are right, whatever the model; and if the model is right,
    whatever the propensities. The better the model, the smaller what is reweighted, and the
    variance.

    Parameters
    ----------
    clicks
        Float [n, k], 0 or 1: clicks on the list that was shown.
    logged, target
        Float [n, k]: probability of the *shown* film at its place under the logging ranker (p)
        and under the new ranker (q; 0 or 1 if that is deterministic).
    predicted_logged
        Float [n, k]: the model's click probability of the *shown* film at its place.
    predicted_target
        Float [n, k]: the model's click probability of the *new ranker's* film at each place.

    Returns
    -------
    float [n]
        Clicks of one session; their mean is the estimate.

    Raises
    ------
    InputError
        A propensity of the logging ranker that is 0, shapes that differ.

    Notes
    -----
    Dudik, Langford & Li (2011), Doubly Robust Policy Evaluation and Learning, ICML,
    by item and position.
    """
    check_logged(clicks, logged, target, predicted_logged, predicted_target)
    # BEGIN SOLUTION
    correction = target / logged * (clicks - predicted_logged)
    return np.asarray((predicted_target + correction).sum(axis=1))
    # END SOLUTION


def position_weights(logged: Floats, target: Floats) -> Floats:
    """``q / p`` for each shown film at its place, float [n, k]; p = 0 is an error."""
    check_logged(logged, logged, target)
    return np.asarray(target / logged)


def check_logged(clicks: Floats, logged: Floats, *others: Floats) -> None:
    """Raise `InputError` unless all are float [n, k], finite, and each propensity is in (0, 1]."""
    for each in (clicks, *others):
        require(
            each.shape == logged.shape, "shape", each.shape, f"must be {logged.shape}, as logged"
        )
        bad = int(np.count_nonzero(~np.isfinite(each)))
        require(bad == 0, "values that are not finite", bad, "must be 0")
    outside = int(np.count_nonzero(~((logged > 0) & (logged <= 1 + 1e-9))))
    require(
        outside == 0,
        "propensities of shown films outside (0, 1]",
        outside,
        "must be 0",
        "what was shown had a positive probability: log the one that drew the list",
    )


def effective_sample_size(weights: Floats) -> float:
    """``(sum w)^2 / sum w^2`` of the position where it is smallest: [n, k] -> sessions (Kish).

    As many sessions of the new ranker itself would estimate that position as well.
    """
    squares = (weights**2).sum(axis=0)
    ratio = np.where(squares > 0, weights.sum(axis=0) ** 2 / np.maximum(squares, 1e-300), 0.0)
    return float(ratio.min())


@dataclass(frozen=True)
class ClickModel:
    """Predicted click probability ``examination[j] * attraction[u, i]`` (position-based model)."""

    examination: Floats
    attraction: Floats

    def predict(self, people: Ints, lists: Ints) -> Floats:
        """Float [n, k] for people [n] and lists [n, k]."""
        return np.asarray(self.attraction[people[:, None], lists] * self.examination)


def fit_click_model(log: ClickLog, examination: Floats, shape: tuple[int, int]) -> ClickModel:
    """Attraction of each film to each user, shrunk to the film's own rate, and that to the mean.

        attraction_ui = (clicks_ui + a prior_i) / (examined_ui + a)

    ``examined`` is the sum of the examination of the places where the pair was shown, and a =
    `SHRINKAGE`. A film that was never shown gets the overall rate: a guess, and where the direct
    method is biased.

    Parameters
    ----------
    examination
        Float [k], relative to the first position.
    shape
        (n_users, n_items).
    """
    key = (log.people[:, None] * shape[1] + log.lists).ravel()
    size = shape[0] * shape[1]
    looked = np.broadcast_to(examination, log.lists.shape).ravel()
    examined = np.bincount(key, looked, size).reshape(shape)
    clicked = np.bincount(key, log.clicks.ravel().astype(float), size).reshape(shape)
    overall = clicked.sum() / examined.sum()
    prior = (clicked.sum(axis=0) + SHRINKAGE * overall) / (examined.sum(axis=0) + SHRINKAGE)
    return ClickModel(examination, (clicked + SHRINKAGE * prior) / (examined + SHRINKAGE))


@dataclass(frozen=True)
class OffPolicyEstimate:
    """One estimator's clicks a session of one ranker, with its 95 % interval.

    ``ess``: effective sample size in sessions (of the worst position); None for the direct method,
    which weights nothing. ``unsupported``: share of the ranker's places whose film the logging
    ranker never shows there. ``refused``: why the estimate must not be used, or None.
    """

    estimator: str
    clicks: float
    low: float
    high: float
    ess: float | None
    unsupported: float
    refused: str | None


def evaluate_ranker(logged: LoggedLists, lists: Ints, n_items: int) -> dict[str, OffPolicyEstimate]:
    """All estimates of the ranker that shows ``lists`` [n_users, k], by name.

    The click model is cross-fitted: each half of the log is predicted by the model of the other,
    so that no session's own clicks are in its prediction.
    """
    return {each.estimator: each for each in Evaluator(logged, n_items).estimates(lists)}


class Evaluator:
    """A log with its click models fitted once, for any number of rankers."""

    def __init__(self, logged: LoggedLists, n_items: int) -> None:
        self.logged = logged
        log = logged.log
        shape = len(logged.ranker.candidates), n_items
        half = np.arange(log.n) % 2 == 0
        self.halves = half, ~half
        parts = [ClickLog(log.people[p], log.lists[p], log.clicks[p]) for p in self.halves]
        self.examination = by_em(log, n_items, tolerance=1e-3).relative
        fitted = [fit_click_model(part, self.examination, shape) for part in parts]
        self.models = fitted[1], fitted[0]
        self.predicted_logged = self._predicted(log.lists)

    def _predicted(self, lists: Ints) -> Floats:
        result = np.empty(lists.shape)
        for part, model in zip(self.halves, self.models, strict=True):
            result[part] = model.predict(self.logged.log.people[part], lists[part])
        return result

    def estimates(self, lists: Ints) -> list[OffPolicyEstimate]:
        """Every estimate of the ranker that shows ``lists`` int [n_users, k]."""
        log, propensity = self.logged.log, self.logged.propensity
        require(lists.shape[1] == log.k, "length of lists", lists.shape[1], f"must be {log.k}")
        new = lists[log.people]
        target = (new == log.lists).astype(float)
        clicks = log.clicks.astype(float)
        predicted = self._predicted(new)
        unsupported = float((self.logged.ranker.placement_of(lists) <= 0).mean())
        weight = position_weights(propensity, target)
        ess = effective_sample_size(weight)
        result = []

        def add(name: str, terms: Floats, ess: float | None) -> None:
            why = refusal(unsupported, ess)
            result.append(OffPolicyEstimate(name, *mean_ci(terms), ess, unsupported, why))

        add("ips", item_position_ips(clicks, propensity, target), ess)
        if ess > 0:
            add("snips", self_normalised_ips(clicks, propensity, target), ess)
        add("position_based", *self._position_based(lists, new))
        add("direct", direct(predicted), None)
        add(
            "doubly_robust",
            doubly_robust(clicks, propensity, target, self.predicted_logged, predicted),
            ess,
        )
        return result

    def _position_based(self, lists: Ints, new: Ints) -> tuple[Floats, float]:
        """Terms and effective sample size; clicks are put in the order of the new lists."""
        log = self.logged.log
        clicked = np.zeros(new.shape)
        shown = np.zeros(new.shape, dtype=bool)
        for position in range(log.k):
            same = log.lists == new[:, position, None]
            shown[:, position] = same.any(axis=1)
            clicked[:, position] = (same & log.clicks).any(axis=1)
        examined = self.logged.ranker.examined(lists, self.examination)[log.people]
        terms, weight = position_based_ips(clicked, examined, self.examination)
        return terms, effective_sample_size(weight * shown)


def refusal(unsupported: float, ess: float | None) -> str | None:
    """Why an estimate must not be used, or None when the log can carry it."""
    if unsupported > MOST_UNSUPPORTED:
        return (
            f"{unsupported:.0%} of the places hold a film that the logging ranker never shows "
            f"there; at most {MOST_UNSUPPORTED:.0%}"
        )
    if ess is not None and ess < LEAST_ESS:
        return f"effective sample size {ess:.0f} sessions; at least {LEAST_ESS:.0f}"
    return None
