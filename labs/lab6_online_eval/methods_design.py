"""The design topic's methods of inference, with the worlds in which they are validated.

Each world is small, so that thousands of experiments take a second, and holds what the method is
for: strata that differ, slopes that differ, a stock that carries over, clusters that resemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labs.lab6_online_eval.cluster_randomisation import cluster_randomised, design_effect
from labs.lab6_online_eval.cuped_extensions import lin_regression
from labs.lab6_online_eval.estimates import Estimate, as_arrays
from labs.lab6_online_eval.post_stratification import post_stratified
from labs.lab6_online_eval.power import TwoArms, power_t
from labs.lab6_online_eval.switchback import Market, coins, switchback_estimate
from labs.lab6_online_eval.validation import Findings, Method

UNITS = 240
STRATUM_MEANS = (0.0, 1.0, 2.0, 4.0)
STRATIFIED_EFFECT = 0.35

COVARIATE_SLOPE = 1.0
REGRESSION_EFFECT = 0.3

CLUSTERS, SMALLEST, LARGEST, ICC = 80, 10, 30, 0.15
CLUSTER_EFFECT = 0.28

MARKET = Market(visits=60.0, refill=0.3, drift=0.2, memory=0.9)
BLOCKS, BLOCK_LENGTH, BURN_IN = 40, 10, 6
MARKET_EFFECT = 0.02


def methods() -> list[Method]:
    """Four methods that should pass, and `cluster_as_users`, which must not."""
    sizes = np.arange(SMALLEST, LARGEST + 1)
    units = CLUSTERS * float(sizes.mean())
    clusters = TwoArms.of(CLUSTERS, units_to_clusters(units, design_effect(sizes, ICC)))
    return [
        Method(
            "post_stratified",
            _post_stratified,
            STRATIFIED_EFFECT,
            power_t(STRATIFIED_EFFECT, TwoArms.of(UNITS, 1.0)),
        ),
        Method(
            "lin_regression",
            _lin_regression,
            REGRESSION_EFFECT,
            power_t(REGRESSION_EFFECT, TwoArms(UNITS / 4, UNITS * 3 / 4, 0.75, 0.75)),
        ),
        Method(
            "cluster_randomised",
            _cluster_randomised,
            CLUSTER_EFFECT,
            power_t(CLUSTER_EFFECT, clusters),
        ),
        Method("switchback", _switchback, MARKET_EFFECT),
        Method("cluster_as_users", _cluster_as_users, CLUSTER_EFFECT, flawed=True),
    ]


def units_to_clusters(units: float, effect_of_design: float) -> float:
    """The variance of one cluster as an observation, for users of variance 1."""
    return effect_of_design / (units / CLUSTERS)


def _post_stratified(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """240 units of four strata with variance 1 within them."""
    found = []
    means = np.array(STRATUM_MEANS)
    half = UNITS // 2
    for _ in range(n):
        stratum = rng.integers(0, len(means), UNITS)
        values = means[stratum] + rng.standard_normal(UNITS)
        values[half:] += effect
        found.append(post_stratified(values[:half], values[half:], stratum[:half], stratum[half:]))
    return _findings(found)


def _lin_regression(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """60 control and 180 treated units, one covariate, residuals of variance 0.75."""
    found = []
    quarter = UNITS // 4
    for _ in range(n):
        x = rng.exponential(1.0, UNITS)
        values = COVARIATE_SLOPE * x + np.sqrt(0.75) * rng.standard_normal(UNITS)
        values[quarter:] += effect
        found.append(lin_regression(values[:quarter], values[quarter:], x[:quarter], x[quarter:]))
    return _findings(found)


def _clusters(
    rng: np.random.Generator, n: int, effect: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Totals, sums of squares and sizes [n, CLUSTERS] of users of variance 1, and the arms.

    Users within a cluster are drawn through their sufficient statistics: the mean of m normal
    values, and a chi-square with m - 1 degrees of freedom for their squares.
    """
    size = rng.integers(SMALLEST, LARGEST + 1, (n, CLUSTERS)).astype(float)
    treated = np.tile(np.arange(CLUSTERS) < CLUSTERS // 2, (n, 1))
    level = np.sqrt(ICC) * rng.standard_normal(size.shape) + effect * treated
    noise = np.sqrt((1 - ICC) / size) * rng.standard_normal(size.shape)
    mean = level + noise
    squares = size * mean**2 + (1 - ICC) * rng.chisquare(size - 1)
    return size * mean, squares, size, treated


def _cluster_randomised(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """80 clusters of 10 to 30 users whose intracluster correlation is 0.15."""
    total, _, size, treated = _clusters(rng, n, effect)
    return _findings([cluster_randomised(*each) for each in zip(total, size, treated)])


def _cluster_as_users(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """The same clusters, analysed as though each user had been randomised: wrong."""
    total, squares, size, treated = _clusters(rng, n, effect)
    means, pieces = [], []
    for arm in (treated, ~treated):
        users = (size * arm).sum(axis=1)
        mean = (total * arm).sum(axis=1) / users
        means.append(mean)
        pieces.append(((squares * arm).sum(axis=1) / users - mean**2) / (users - 1))
    dof = size.sum(axis=1) - 2
    columns = (means[0] - means[1], np.sqrt(pieces[0] + pieces[1]), dof)
    return _findings([Estimate(*map(float, row)) for row in zip(*columns)])


def _switchback(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """A market with a shared stock over 40 blocks of 10 periods, of which 6 are burnt in."""
    market = market_with(effect)
    arms = coins(BLOCKS, n, rng)
    orders, visits = market.run(np.repeat(arms, BLOCK_LENGTH, axis=1).astype(float), rng)
    return _findings(
        [
            switchback_estimate(o, v, arm, block_length=BLOCK_LENGTH, burn_in=BURN_IN)
            for o, v, arm in zip(orders, visits, arms)
        ]
    )


def market_with(effect: float, market: Market = MARKET) -> Market:
    """The market whose global effect on orders a visit is ``effect``.

    At the level where the stock settles a conversion c gives ``R = c r / (r + a c)`` orders a
    visit, with r the refill and ``a = visits / capacity``; solved for the treated conversion,
    ``c = R r / (r - a R)``.
    """
    load = market.visits / market.capacity
    wanted = market.conversion * market.level(market.conversion) + effect
    conversion = wanted * market.refill / (market.refill - load * wanted)
    return replace(market, lift=conversion / market.conversion - 1)


def _findings(estimates: Sequence[Estimate]) -> Findings:
    return Findings(*as_arrays(estimates))
