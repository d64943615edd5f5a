"""Exercise 6.18: switchback, on a market whose global effect is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from labs.lab6_online_eval import switchback
from labs.lab6_online_eval.methods_design import market_with
from labs.lab6_online_eval.switchback import Market

# four blocks of three periods; the first period of each still shows the block before
ORDERS = np.array([9.0, 2.0, 4.0, 0.0, 6.0, 6.0, 9.0, 3.0, 3.0, 0.0, 12.0, 8.0])
VISITS = np.array([9.0, 10.0, 10.0, 9.0, 10.0, 10.0, 9.0, 20.0, 20.0, 9.0, 20.0, 20.0])
ARMS = np.array([False, True, False, True])


@pytest.mark.exercise("6.18")
def test_the_burn_in_is_left_out_of_every_block() -> None:
    """Treated: (12 + 20) / (20 + 40) = 0.5333; control: (6 + 6) / (20 + 40) = 0.2; 0.3333 more.

    The first periods still show the other arm; with them the effect is 32/78 - 30/78 = 0.0256.
    The mean of the blocks' own rates would give .325: a quiet night counts as much as an evening.
    """
    found = switchback.switchback_estimate(ORDERS, VISITS, ARMS, block_length=3, burn_in=1)
    assert found.effect == pytest.approx(1 / 3), f"expected an effect of 1/3, got {found.effect}"
    whole = switchback.switchback_estimate(ORDERS, VISITS, ARMS, block_length=3)
    assert whole.effect == pytest.approx(2 / 78), f"without burn-in 2/78, got {whole.effect}"


@pytest.mark.exercise("6.18")
def test_blocks_are_the_observations() -> None:
    """Residuals of the two blocks an arm: -+2 control, +-4/3 treated; times 2 / (2 - 1), over 60^2.

    Two blocks an arm, whatever the number of periods or visitors in them.
    """
    found = switchback.switchback_estimate(ORDERS, VISITS, ARMS, block_length=3, burn_in=1)
    expected = np.sqrt(2 * 2 * (2.0**2 + (4 / 3) ** 2)) / 60
    assert found.se == pytest.approx(expected), f"expected a se of {expected:.4f}, got {found.se}"
    assert found.dof < 2, f"with two blocks an arm, expected dof below 2, got {found.dof}"


@pytest.mark.exercise("6.18")
def test_the_interval_holds_where_periods_of_a_block_resemble_each_other() -> None:
    """400 A/A experiments of 30 blocks, each with a mood of its own: 5 % false positives.

    Analysed by period, with three independent observations made out of each mood, it is 15 %.
    """
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(400):
        arms = rng.permutation(30) < 15
        mood = np.repeat(0.3 + 0.05 * rng.standard_normal(30), 4)
        visits = rng.integers(50, 150, 120).astype(float)
        orders = rng.binomial(visits.astype(int), mood).astype(float)
        found = switchback.switchback_estimate(orders, visits, arms, block_length=4, burn_in=1)
        false += found.p < 0.05
    assert false / 400 < 0.085, f"expected about 5 % false positives, got {false / 400:.1%}"


def test_randomisation_inference_is_the_full_count_where_that_is_possible() -> None:
    """Six blocks, twenty ways to treat three: the sampled p is the exact one."""
    rng = np.random.default_rng(4)
    visits = rng.integers(50, 90, 12).astype(float)
    orders = rng.binomial(visits.astype(int), 0.3).astype(float)
    arms = np.array([1, 1, 0, 1, 0, 0], dtype=bool)
    o, v = switchback.block_sums(orders, visits, 2, 0)

    def difference(treated: np.ndarray) -> float:
        return o[treated].sum() / v[treated].sum() - o[~treated].sum() / v[~treated].sum()

    every = [
        abs(difference(np.isin(np.arange(6), chosen)))
        for chosen in itertools.combinations(range(6), 3)
    ]
    exact = np.mean(np.array(every) >= abs(difference(arms)) - 1e-12)
    found = switchback.randomisation_test(
        orders, visits, arms, block_length=2, n_draws=20_000, seed=5
    )
    assert found == pytest.approx(exact, abs=0.02)


def test_horvitz_thompson_is_unbiased_over_every_assignment() -> None:
    """y_t = 5 + 2 w_t + w_{t-1} + w_{t-2}; effect 4. The mean over all 2^6 draws is exactly 4.

    With too short a carry-over it is not.
    """
    length, m = 3, 2
    estimates: dict[int, list[float]] = {m: [], 0: []}
    for coins in itertools.product([False, True], repeat=6):
        w = np.repeat(coins, length).astype(float)
        y = 5 + 2 * w + np.r_[w[0], w[:-1]] + np.r_[w[0], w[0], w[:-2]]
        arms = np.array(coins)
        for carry, found in estimates.items():
            found.append(_by_definition(y, arms, length, carry))
    assert np.mean(estimates[m]) == pytest.approx(4.0, abs=1e-9)
    assert abs(np.mean(estimates[0]) - 4.0) > 0.3


def _by_definition(y: np.ndarray, arms: np.ndarray, length: int, m: int) -> float:
    """The same sum, a period at a time: also for draws with one treated block, or none."""
    w = np.repeat(arms, length)
    total = 0.0
    for t in range(m, len(y)):
        window = w[t - m : t + 1]
        weight = 2.0 ** len({s // length for s in range(t - m, t + 1)})
        total += y[t] * weight * (float(window.all()) - float((~window).all()))
    return total / (len(y) - m)


def test_horvitz_thompson_is_its_definition() -> None:
    rng = np.random.default_rng(6)
    arms = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    y = rng.standard_normal(32)
    for m in (0, 1, 4, 6):
        found = switchback.horvitz_thompson(y, arms, block_length=4, carry_over=m)
        assert found == pytest.approx(_by_definition(y, arms, 4, m), abs=1e-12)


def test_the_market_settles_where_the_algebra_says() -> None:
    """The global effect by two long runs is the fixed point's, and a quarter less than at once."""
    market = Market()
    fixed = market.conversion * (1 + market.lift)
    expected = fixed * market.level(fixed) - market.conversion * market.level(market.conversion)
    found = market.global_effect()
    assert found == pytest.approx(expected, rel=0.06)
    assert market_with(expected, market).lift == pytest.approx(market.lift)


def test_a_split_of_visitors_sees_a_gain_that_disappears_at_launch() -> None:
    """Both arms share the stock, so the A/B test reports nearly twice the true effect."""
    market = Market()
    split = switchback.user_split_effect(market)
    assert split == pytest.approx(market.lift * 0.3 * market.level(0.33), rel=0.05)
    assert split > 1.7 * market.global_effect()


def test_short_blocks_are_biased_and_long_ones_are_not() -> None:
    """Without burn-in a block of 2 keeps most of the carry-over; 48 periods hardly any."""
    found = switchback.block_length_study(
        Market(), n_periods=480, designs=((2, 0), (48, 0), (24, 8)), n_experiments=120
    )
    short, long, burnt = found
    assert short.bias > 0.5 * short.true_effect
    assert abs(long.bias) < 0.25 * short.bias
    assert abs(burnt.bias) < 0.25 * short.bias
    assert long.sd > short.sd
    assert short.coverage < 0.6 < 0.85 < burnt.coverage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"burn_in": 3}, "burn_in = 3 must be from 0 to 2"),
        ({"block_length": 5}, "periods = 12 must be a multiple of block_length = 5"),
        ({"treated": np.array([True, False, False, False])}, "clusters in the smaller arm = 1"),
        ({"visits": np.zeros(12)}, "smallest size = 0.0 must be > 0"),
        ({"orders": np.full(12, np.nan)}, "values in orders that are not finite = 12"),
    ],
)
def test_what_is_no_switchback_is_refused(options: dict, message: str) -> None:
    given = {"orders": ORDERS, "visits": VISITS, "treated": ARMS, "block_length": 3}
    with pytest.raises(ValueError, match=message):
        switchback.switchback_estimate(**(given | options))
