"""Open Bandit as a study: three campaigns, both directions, every estimator, and the judge.

The other policy ran the same week, so its own log holds the answer, within that log's own interval:
the relative error of an estimate against a mean of some forty clicks is itself uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.data import Dataset
from common.errors import require
from common.statistics import Z95, proportion_ci
from labs.lab6_online_eval import off_policy
from labs.lab6_online_eval.off_policy import Estimate, Floats
from labs.lab6_online_eval.open_bandit import (
    CAMPAIGNS,
    POLICIES,
    Log,
    at_positions,
    read_log,
    read_prior,
    simulated_probabilities,
    thompson_probabilities,
    uniform_probabilities,
)
from labs.lab6_online_eval.reward_model import cross_fitted

MOST_WEIGHT = 10.0
SWITCH_GRID = (1.0, 2.0, 5.0, 10.0, 50.0, np.inf)
SHRINK_GRID = (1.0, 10.0, 100.0, 1e3, 1e4, 1e6)
SIMULATED_DRAWS = 100_000


@dataclass(frozen=True)
class Direction:
    """One policy evaluated from the other's log, in one campaign.

    ``truth`` with ``truth_ci``: the evaluated policy's own mean in its own log, with its Wilson
    interval, ``truth_clicks`` of ``n`` rows. ``ess``, ``largest_weight``, ``largest_share``,
    ``events`` (effective rewarded rows), ``mean_weight``: of the weights. ``snipw_bootstrap``: its
    percentile interval; ``ipw_gamma``: IPW's interval for rare clicks. ``refused``: why the
    weighted estimates are not to be believed.
    """

    campaign: str
    logged: str
    evaluated: str
    n: int
    clicks: int
    truth_clicks: int
    truth: float
    truth_ci: tuple[float, float]
    ess: float
    largest_weight: float
    largest_share: float
    events: float
    mean_weight: float
    refused: str | None
    estimates: tuple[Estimate, ...]
    snipw_bootstrap: tuple[float, float]
    ipw_gamma: tuple[float, float]
    switch_at: float
    shrink_at: float

    def relative_error(self, estimator: str) -> float:
        """``|estimate - truth| / truth`` of one estimator."""
        return abs(self.estimate(estimator).value - self.truth) / self.truth

    def estimate(self, estimator: str) -> Estimate:
        return next(each for each in self.estimates if each.estimator == estimator)


@dataclass(frozen=True)
class EventCoverage:
    """How often IPW's 95 % interval holds the truth, by effective rewarded rows.

    Simulated logs of a uniform policy over the campaign's actions, evaluated for BTS: ``rows`` a
    log, ``events`` on average, ``coverage`` of the normal interval, the share whose truth lies
    above it (``missed_above``), and the coverage of the gamma interval (``gamma``).
    """

    rows: int
    events: float
    coverage: float
    missed_above: float
    gamma: float


@dataclass(frozen=True)
class OpenBanditStudy:
    """All directions, and the known answer: IPW of BTS from random, campaign All.

    ``known_exact`` from the integrated probabilities; ``known_simulated`` from `SIMULATED_DRAWS`
    simulated ones, as the data's own software does it, with ``known_simulation_se``.
    """

    directions: tuple[Direction, ...]
    known_exact: float
    known_simulated: float
    known_simulation_se: float
    coverage: tuple[EventCoverage, ...]

    def direction(self, campaign: str, logged: str) -> Direction:
        return next(d for d in self.directions if (d.campaign, d.logged) == (campaign, logged))


def study_open_bandit(
    dataset: Dataset,
    *,
    campaigns: tuple[str, ...] = CAMPAIGNS,
    n_boot: int = 300,
    n_coverage: int = 2000,
    seed: int = 0,
) -> OpenBanditStudy:
    """Everything that the Open Bandit stage records.

    Parameters
    ----------
    campaigns
        Which of them; "all" must be among them.
    n_boot
        Resamples for the bootstrap of SNIPW.
    n_coverage
        Simulated logs for each size in `EventCoverage`.
    """
    require("all" in campaigns, "campaigns", campaigns, "must hold 'all'", "it has the answer")
    directions = []
    for campaign in campaigns:
        logs = {policy: read_log(dataset, policy, campaign) for policy in POLICIES}
        bts = thompson_probabilities(*read_prior(dataset, campaign))
        for logged, evaluated in (("random", "bts"), ("bts", "random")):
            log = logs[logged]
            target = bts if evaluated == "bts" else uniform_probabilities(log.n_actions)
            directions.append(evaluate(log, target, logs[evaluated], n_boot=n_boot, seed=seed))
    random, prior = read_log(dataset, "random", "all"), read_prior(dataset, "all")
    exact = thompson_probabilities(*prior)
    simulated = simulated_probabilities(*prior, SIMULATED_DRAWS, seed)
    return OpenBanditStudy(
        directions=tuple(directions),
        known_exact=_ipw_value(random, exact),
        known_simulated=_ipw_value(random, simulated),
        known_simulation_se=_simulation_se(random, exact, SIMULATED_DRAWS),
        coverage=event_coverage(exact, random, n_coverage, seed),
    )


def evaluate(
    log: Log, probabilities: Floats, judge: Log, *, n_boot: int = 300, seed: int = 0
) -> Direction:
    """Every estimate of the policy ``probabilities`` float [K, 3] from ``log``.

    ``judge`` is the log of that policy itself.
    """
    target = at_positions(probabilities, log)
    chosen = target[np.arange(log.n), log.action]
    weights = off_policy.importance_weights(log.propensity, chosen)
    predicted = cross_fitted(log)
    modelled = off_policy.direct(target, predicted)
    residual = log.reward - predicted[np.arange(log.n), log.action]
    refused = off_policy.refusal(weights, log.reward)
    ess = off_policy.effective_sample_size(weights)
    switch_at = off_policy.tune(off_policy.switched, SWITCH_GRID, weights, residual)
    shrink_at = off_policy.tune(off_policy.shrunk, SHRINK_GRID, weights, residual)

    def weighted(name: str, used: Floats, terms: Floats) -> Estimate:
        own = off_policy.effective_sample_size(used) if used.any() else 0.0
        return off_policy.estimate_of(terms, name, own, refused)

    clipped = off_policy.clipped(weights, MOST_WEIGHT)
    switched = off_policy.switched(weights, switch_at)
    shrunk = off_policy.shrunk(weights, shrink_at)
    terms = off_policy.doubly_robust(log.reward, log.action, log.propensity, target, predicted)
    robust = weighted("doubly_robust", weights, terms)
    plain = off_policy.estimate_of(modelled, "direct", None, None)
    estimates = (
        weighted("ipw", weights, off_policy.ipw(log.reward, weights)),
        _snipw(log, chosen, ess, refused),
        weighted("clipped_ipw", clipped, off_policy.ipw(log.reward, clipped)),
        replace(plain, refused=off_policy.judge_model(plain, robust)),
        robust,
        weighted("switch_dr", switched, modelled + switched * residual),
        weighted("dr_shrunk", shrunk, modelled + shrunk * residual),
    )
    return Direction(
        campaign=log.campaign,
        logged=log.policy,
        evaluated=judge.policy,
        n=log.n,
        clicks=log.clicks,
        truth_clicks=judge.clicks,
        truth=judge.clicks / judge.n,
        truth_ci=proportion_ci(judge.clicks, judge.n),
        ess=ess,
        largest_weight=float(weights.max()),
        largest_share=float(weights.max() / weights.sum()),
        events=off_policy.effective_sample_size(weights * log.reward),
        mean_weight=float(weights.mean()),
        refused=refused,
        estimates=estimates,
        snipw_bootstrap=off_policy.bootstrap_snipw(weights, log.reward, n_boot=n_boot, seed=seed),
        ipw_gamma=off_policy.gamma_interval(log.reward, weights),
        switch_at=switch_at,
        shrink_at=shrink_at,
    )


def event_coverage(
    probabilities: Floats, log: Log, n: int, seed: int, *, sizes: tuple[int, ...] = ()
) -> tuple[EventCoverage, ...]:
    """`EventCoverage` at several log sizes, click rates by item as in ``log`` (shrunk to its mean).

    The share of clicks that an item gets is its click rate under ``log`` with one click and the
    rows of a click at the mean rate added: made up, but as uneven as the real ones.
    """
    rng = np.random.default_rng(seed)
    k = log.n_actions
    mean = log.reward.mean()
    shown = np.bincount(log.action, minlength=k)
    clicked = np.bincount(log.action, log.reward, minlength=k)
    rate = np.repeat((clicked + 1) / (shown + 1 / mean), probabilities.shape[1])
    weight = probabilities.ravel() * k
    chance = np.full(weight.size, 1 / weight.size)
    truth = float((chance * weight * rate).sum())
    result = []
    for rows in sizes or (5_000, 10_000, 20_000, 40_000, 80_000, 160_000):
        clicks = rng.poisson(rows * chance * rate, (n, weight.size)).astype(float)
        total, squares = clicks @ weight, clicks @ weight**2
        value = total / rows
        low, high = off_policy.gamma_bounds(value, squares / rows**2, float(weight.max()) / rows)
        half = Z95 * np.sqrt(np.maximum(squares / rows - value**2, 0.0) / rows)
        result.append(
            EventCoverage(
                rows=rows,
                events=float((total**2 / np.maximum(squares, 1e-12)).mean()),
                coverage=float((np.abs(value - truth) <= half).mean()),
                missed_above=float((truth > value + half).mean()),
                gamma=float(((low <= truth) & (truth <= high)).mean()),
            )
        )
    return tuple(result)


def _snipw(log: Log, chosen: Floats, ess: float, refused: str | None) -> Estimate:
    found = off_policy.snipw(log.reward, log.propensity, chosen, least_ess=0.0)
    value, se = found.value or 0.0, found.se or 0.0
    return Estimate("snipw", value, se, value - Z95 * se, value + Z95 * se, ess, refused)


def _ipw_value(log: Log, probabilities: Floats) -> float:
    weights = off_policy.importance_weights(log.propensity, probabilities[log.action, log.position])
    return float(off_policy.ipw(log.reward, weights).mean())


def _simulation_se(log: Log, probabilities: Floats, draws: int) -> float:
    """Standard error of the IPW estimate that comes from simulating the probabilities alone.

    The estimate is ``sum_c p_c z_c`` over cells c (item, place); within a place the counts are
    multinomial, and places are taken as independent.
    """
    n_places = probabilities.shape[1]
    cell = log.action * n_places + log.position
    clicked = np.bincount(cell, log.reward / log.propensity, minlength=probabilities.size)
    z = clicked.reshape(probabilities.shape) / log.n
    variance = (probabilities * z**2).sum(axis=0) - (probabilities * z).sum(axis=0) ** 2
    return float(np.sqrt(variance.sum() / draws))
