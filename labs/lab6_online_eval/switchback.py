"""Switchback: the whole market is switched between arms, block of time by block of time.

Where everybody shares one resource there is only one cluster, and time is what can be randomised.
What the last block did to the resource is still there when the next one begins (carry-over), so
the first periods of a block do not show its arm. Short blocks give many observations, most of them
contaminated; long blocks few and clean ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.cluster_randomisation import as_arms, cluster_randomised
from labs.lab6_online_eval.estimates import Estimate, as_arrays, finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DESIGNS = ((2, 0), (6, 0), (12, 0), (24, 0), (48, 0), (96, 0), (12, 6), (24, 8), (48, 8))


@exercise(
    "6.18",
    points=8,
    title="A switchback's effect and its standard error",
    hint="What was randomised: a visitor, a period, or a block? Sum over what was randomised, "
    "without the periods that still show the block before; `cluster_randomised` does the rest.",
)
def switchback_estimate(
    orders: Floats, visits: Floats, treated: Bools, *, block_length: int, burn_in: int = 0
) -> Estimate:
    """The effect on orders a visit of switching the whole market on for good.

    Blocks are the clusters. Of each block the first ``burn_in`` periods are left out; of what is
    left, orders and visits are summed, so that a block counts by its visits:

        rate_a = sum_{b in a} orders_b / sum_{b in a} visits_b,     effect = rate_1 - rate_0

    with the cluster-robust standard error of `cluster_randomised`.

    Parameters
    ----------
    orders, visits
        Of the whole market in each period: float [n_blocks * block_length].
    treated
        The arm of each *block*: bool [n_blocks].
    block_length, burn_in
        In periods; ``0 <= burn_in < block_length``.

    Raises
    ------
    InputError
        Periods that are no whole number of blocks, a burn-in that leaves nothing, an arm with
        fewer than two blocks, a block without visits, NaN or infinity.

    Notes
    -----
    Bojinov, Simchi-Levi & Zhao (2023), Design and Analysis of Switchback Experiments, Management
    Science 69(7); burn-in: Hu & Wager (2022), Switchback Experiments under Geometric Mixing.
    """
    check_blocks(orders, visits, treated, block_length, burn_in)
    # BEGIN SOLUTION
    totals, sizes = block_sums(orders, visits, block_length, burn_in)
    return cluster_randomised(totals, sizes, treated)
    # END SOLUTION


def check_blocks(
    orders: ArrayLike, visits: ArrayLike, treated: ArrayLike, block_length: int, burn_in: int
) -> None:
    """Raise `InputError` unless these are the periods and blocks of a switchback."""
    n = len(finite("orders", orders))
    require(
        len(finite("visits", visits)) == n, "length of visits", np.shape(visits), f"must be {n}"
    )
    require(block_length >= 1, "block_length", block_length, "must be at least 1")
    require(
        0 <= burn_in < block_length,
        "burn_in",
        burn_in,
        f"must be from 0 to {block_length - 1}",
        "a burn-in as long as the block leaves nothing; use longer blocks",
    )
    require(
        n % block_length == 0, "periods", n, f"must be a multiple of block_length = {block_length}"
    )
    as_arms("treated", treated, n // block_length)


def block_sums(
    orders: ArrayLike, visits: ArrayLike, block_length: int, burn_in: int
) -> tuple[Floats, Floats]:
    """Orders and visits of each block after its burn-in: float [n_blocks] each."""
    by_block = [
        np.asarray(each, dtype=float).reshape(-1, block_length)[:, burn_in:].sum(axis=1)
        for each in (orders, visits)
    ]
    return by_block[0], by_block[1]


def randomisation_test(
    orders: ArrayLike,
    visits: ArrayLike,
    treated: Bools,
    *,
    block_length: int,
    burn_in: int = 0,
    n_draws: int = 2000,
    seed: int = 0,
) -> float:
    """p-value of "switching changes nothing in any block", by drawing the arms again.

    If the arms change nothing, every block would have been what it was under any other draw of as
    many treated blocks; the p-value is the share of draws with a difference at least as large,
    ``(1 + more) / (1 + n_draws)``. It is exact with any number of blocks, any trend over the day
    and any tail, where the cluster-robust error needs ten or more blocks an arm.

    Notes
    -----
    Fisher (1935). The draws keep the number of treated blocks; without burn-in and with carry-over
    the null still holds, as nothing carries over from an arm that changes nothing.
    """
    check_blocks(orders, visits, treated, block_length, burn_in)
    require(n_draws >= 99, "n_draws", n_draws, "must be at least 99", "try 2000")
    totals, sizes = block_sums(orders, visits, block_length, burn_in)
    rng = np.random.default_rng(seed)
    draws = rng.permuted(np.tile(np.asarray(treated, dtype=float), (n_draws, 1)), axis=1)
    arms = np.vstack([np.asarray(treated, dtype=float), draws])
    difference = arms @ totals / (arms @ sizes) - (1 - arms) @ totals / ((1 - arms) @ sizes)
    more = int((np.abs(difference[1:]) >= abs(difference[0]) * (1 - 1e-12)).sum())
    return (1 + more) / (1 + n_draws)


def horvitz_thompson(
    outcome: ArrayLike, treated: Bools, *, block_length: int, carry_over: int
) -> float:
    """Bojinov's estimator: only periods whose last ``carry_over`` + 1 had one arm, weighted.

        tau = 1 / (T - m) sum_{t > m} y_t ( 1{w_{t-m..t} = 1} / P_1 - 1{w_{t-m..t} = 0} / P_0 )

    where, with a fair coin for each block, ``P = 2^-(blocks that the window touches)``. Unbiased
    for any carry-over of at most m periods, without a model of it. Its variance is larger than the
    burn-in estimator's, since it does not divide by what it found.

    Parameters
    ----------
    outcome
        One value a period: float [n_blocks * block_length].
    treated
        Bool [n_blocks], drawn by fair coins.
    carry_over
        m: how many periods back an arm still matters.
    """
    check_blocks(outcome, outcome, treated, block_length, 0)
    values = np.asarray(outcome, dtype=float)
    n = len(values)
    require(0 <= carry_over < n, "carry_over", carry_over, f"must be from 0 to {n - 1}")
    arm = np.repeat(np.asarray(treated, dtype=bool), block_length)
    end = np.arange(carry_over, n)
    past = np.concatenate([[0], np.cumsum(arm)])
    ones = past[end + 1] - past[end - carry_over]
    touched = end // block_length - (end - carry_over) // block_length + 1
    weight = 2.0**touched * ((ones == carry_over + 1).astype(float) - (ones == 0))
    return float((values[end] * weight).mean())


@dataclass(frozen=True)
class Market:
    """A simulated marketplace with one stock that everybody shares.

    In each period ``visits`` people come (Poisson, times a demand that drifts slowly: ``drift`` is
    its standard deviation, ``memory`` its autocorrelation). Each orders with probability
    ``conversion * stock / capacity``, times ``1 + lift`` when treated. An order takes one from the
    stock; ``refill`` of what is missing comes back each period. More conversion now is a smaller
    stock later, for both arms: that is the interference, and the carry-over.
    """

    visits: float = 40.0
    conversion: float = 0.3
    lift: float = 0.2
    capacity: float = 100.0
    refill: float = 0.15
    drift: float = 0.15
    memory: float = 0.97

    def __post_init__(self) -> None:
        for name in ("visits", "conversion", "capacity", "refill"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(self.refill <= 1, "refill", self.refill, "must be at most 1")
        require(0 <= self.memory < 1, "memory", self.memory, "must be in [0, 1)")
        top = self.conversion * (1 + max(self.lift, 0.0))
        require(top <= 1, "conversion * (1 + lift)", top, "must be at most 1")

    @property
    def carry_over(self) -> float:
        """Periods after which 63 % of the difference between the arms' stocks has gone."""
        kept = 1 - self.refill - self.visits * self.conversion / self.capacity
        return float(-1 / np.log(kept)) if kept > 0 else 0.0

    def run(self, treated: NDArray[np.float64], rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Orders and visits of each period: ``treated`` [n_markets, n_periods], the share of the
        visitors who are treated, 0 to 1; two float arrays of its shape.

        The first 50 periods, at the first period's arm, are run and thrown away.
        """
        n_markets, n_periods = treated.shape
        warm = np.concatenate([np.repeat(treated[:, :1], 50, axis=1), treated], axis=1)
        stock = np.full(n_markets, self.capacity * self.level(self.conversion))
        mood = self.drift * rng.standard_normal(n_markets)
        kick = self.drift * np.sqrt(1 - self.memory**2)
        orders, visits = np.empty(warm.shape), np.empty(warm.shape)
        for t in range(warm.shape[1]):
            mood = self.memory * mood + kick * rng.standard_normal(n_markets)
            came = rng.poisson(self.visits * np.exp(mood - self.drift**2 / 2))
            chance = self.conversion * (1 + self.lift * warm[:, t]) * stock / self.capacity
            sold = np.minimum(rng.binomial(came, np.clip(chance, 0.0, 1.0)), stock)
            stock = stock + self.refill * (self.capacity - stock) - sold
            stock = np.maximum(stock, 0.0)
            orders[:, t], visits[:, t] = sold, came
        return orders[:, -n_periods:], visits[:, -n_periods:]

    def level(self, conversion: float) -> float:
        """The share of the capacity at which the stock settles under a constant conversion."""
        return self.refill / (self.refill + self.visits * conversion / self.capacity)

    def global_effect(self, *, n_periods: int = 40_000, seed: int = 0) -> float:
        """Orders a visit with everybody treated less with nobody, by two long runs."""
        n_markets = 200
        shape = (n_markets, max(50, n_periods // n_markets))
        rates = []
        for share in (1.0, 0.0):
            rng = np.random.default_rng(seed)
            orders, visits = self.run(np.full(shape, share), rng)
            rates.append(float(orders.sum() / visits.sum()))
        return rates[0] - rates[1]


@dataclass(frozen=True)
class BlockLength:
    """What one design does on one market: bias, spread and error over many experiments."""

    block_length: int
    burn_in: int
    n_blocks: int
    true_effect: float
    bias: float
    sd: float
    rmse: float
    coverage: float


def coins(n_blocks: int, n: int, rng: np.random.Generator) -> Bools:
    """Arms of n experiments by fair coins, at least two blocks of each: bool [n, n_blocks]."""
    require(n_blocks >= 4, "n_blocks", n_blocks, "must be at least 4", "use shorter blocks")
    arms = rng.random((n, n_blocks)) < 0.5
    while (few := np.minimum(arms.sum(axis=1), (~arms).sum(axis=1)) < 2).any():
        arms[few] = rng.random((int(few.sum()), n_blocks)) < 0.5
    return arms


def block_length_study(
    market: Market,
    *,
    n_periods: int = 960,
    designs: Sequence[tuple[int, int]] = DESIGNS,
    n_experiments: int = 300,
    seed: int = 0,
) -> tuple[BlockLength, ...]:
    """Bias against variance of block lengths and burn-ins, on one market with a known effect.

    ``designs``: (block length, burn-in) pairs, lengths that divide ``n_periods``.
    """
    truth = market.global_effect(seed=seed)
    found = []
    for number, (length, burn_in) in enumerate(designs):
        require(n_periods % length == 0, "block length", length, f"must divide {n_periods}")
        rng = np.random.default_rng([seed, number])
        arms = coins(n_periods // length, n_experiments, rng)
        orders, visits = market.run(np.repeat(arms, length, axis=1).astype(float), rng)
        estimates = [
            switchback_estimate(o, v, arm, block_length=length, burn_in=burn_in)
            for o, v, arm in zip(orders, visits, arms, strict=True)
        ]
        effect, low, high, _ = as_arrays(estimates)
        found.append(
            BlockLength(
                block_length=length,
                burn_in=burn_in,
                n_blocks=n_periods // length,
                true_effect=truth,
                bias=float(effect.mean()) - truth,
                sd=float(effect.std()),
                rmse=float(np.sqrt(((effect - truth) ** 2).mean())),
                coverage=float(((low <= truth) & (truth <= high)).mean()),
            )
        )
    return tuple(found)


def user_split_effect(
    market: Market, *, n_periods: int = 960, n_markets: int = 100, seed: int = 0
) -> float:
    """What an A/B test of visitors on the shared stock reports, on average.

    Half of the visitors of every period are treated and all see the same stock, so the stock
    cancels out: the difference is ``lift * conversion * level``, the gain at constant stock.
    """
    rng = np.random.default_rng(seed)
    orders, visits = market.run(np.full((n_markets, n_periods), 0.5), rng)
    mean_rate = float(orders.sum() / visits.sum())
    # of the orders, treated and control visitors place shares in the proportion (1 + lift) : 1
    return mean_rate * market.lift / (1 + market.lift / 2)
