"""Exercises 6.21 and 6.22, the other estimators, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import off_policy

LOGGING = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
TARGET = np.array([[0.1, 0.3, 0.6], [0.5, 0.3, 0.2]])
RATE = np.array([[0.2, 0.5, 0.8], [0.7, 0.3, 0.2]])
VALUE = float((TARGET * RATE).sum(axis=1).mean())
"""Two contexts, equally likely; what the target policy earns: 0.61."""


def logs(n: int, seed: int) -> dict[str, np.ndarray]:
    """n rows of the logging policy, with everything that an estimator may ask for."""
    rng = np.random.default_rng(seed)
    context = rng.integers(0, 2, n)
    action = (rng.random(n)[:, None] > LOGGING[context].cumsum(axis=1)).sum(axis=1)
    return {
        "context": context,
        "action": action,
        "reward": (rng.random(n) < RATE[context, action]).astype(float),
        "logged": LOGGING[context, action],
        "target": TARGET[context],
        "chosen": TARGET[context, action],
    }


@pytest.mark.exercise("6.21")
def test_it_is_the_weighted_mean_of_the_rewards() -> None:
    """Weights 4, 1, 1/2 on rewards 1, 0, 1: (4 + 1/2) / 5.5. Divided by n = 3 it would be 1.5.

    A click rate of 150 % is what an estimator says that does not divide by its own weights.
    """
    found = off_policy.snipw(
        np.array([1.0, 0.0, 1.0]),
        np.array([0.2, 0.5, 0.8]),
        np.array([0.8, 0.5, 0.4]),
        least_ess=0.0,
    )
    assert found.value == pytest.approx(4.5 / 5.5), f"expected {4.5 / 5.5}, got {found.value}"
    ess = 5.5**2 / (16 + 1 + 0.25)
    assert found.ess == pytest.approx(ess), f"expected ESS {ess}, got {found.ess}"


@pytest.mark.exercise("6.21")
def test_a_constant_reward_has_no_error() -> None:
    """If every row earns 0.3, so does every policy: value 0.3, standard error 0.

    The standard error of the mean of w r says otherwise, since it forgets that the same weights
    stand in the denominator.
    """
    log = logs(500, 0)
    found = off_policy.snipw(np.full(500, 0.3), log["logged"], log["chosen"], least_ess=0.0)
    assert found.value == pytest.approx(0.3), f"expected 0.3, got {found.value}"
    assert found.se == pytest.approx(0, abs=1e-12), f"expected no error, got {found.se}"


@pytest.mark.exercise("6.21")
def test_its_standard_error_is_the_spread_over_repeated_logs() -> None:
    """400 logs of 1,000 rows: their estimates spread as the standard error says, within 10 %."""
    found = []
    for seed in range(400):
        log = logs(1000, seed)
        found.append(off_policy.snipw(log["reward"], log["logged"], log["chosen"]))
    values, errors = [f.value for f in found], [f.se for f in found]
    assert np.mean(values) == pytest.approx(VALUE, abs=0.006), (
        f"expected {VALUE:.3f} on average, got {np.mean(values):.4f}"
    )
    spread, said = float(np.std(values)), float(np.mean(errors))
    assert said == pytest.approx(spread, rel=0.1), f"spread {spread:.4f}, standard error {said:.4f}"


@pytest.mark.exercise("6.21")
def test_a_log_that_one_row_carries_gets_no_value() -> None:
    """999 rows of weight 1/50 and one of weight 21,739: an effective sample size of 1.002.

    All 1,000 rows have a weight, so counting them says nothing. The weighted mean is one person's
    click, and its standard error is near 0: the worse the weights, the surer the wrong answer.
    """
    logged = np.full(1000, 0.5)
    target = np.full(1000, 0.01)
    logged[0], target[0] = 1e-6, 0.021739
    found = off_policy.snipw(np.ones(1000), logged, target, least_ess=100.0)
    assert found.ess == pytest.approx(1.0018, abs=1e-3), f"expected ESS 1.002, got {found.ess}"
    assert found.value is None, f"expected no value at an ESS of 1, got {found.value}"
    assert found.se is None, f"expected no standard error at an ESS of 1, got {found.se}"
    fine = off_policy.snipw(np.ones(1000), np.full(1000, 0.5), np.full(1000, 0.25))
    assert fine.value == pytest.approx(1), f"expected a value at an ESS of 1,000, got {fine.value}"


@pytest.mark.exercise("6.22")
def test_two_rows_by_hand() -> None:
    """Row 1: 0.25 * 0.2 + 0.75 * 0.6 = 0.5, and 0.75 / 0.25 * (1 - 0.6) = 1.2: 1.7 in all.

    Row 2: 0.5 * 0.4 + 0.5 * 0.8 = 0.6, and 0.5 / 0.8 * (0 - 0.4) = -0.25: 0.35.
    """
    found = off_policy.doubly_robust(
        np.array([1.0, 0.0]),
        np.array([1, 0]),
        np.array([0.25, 0.8]),
        np.array([[0.25, 0.75], [0.5, 0.5]]),
        np.array([[0.2, 0.6], [0.4, 0.8]]),
    )
    assert found == pytest.approx([1.7, 0.35]), f"expected [1.7, 0.35], got {found.tolist()}"


@pytest.mark.exercise("6.22")
def test_right_propensities_make_up_for_any_model() -> None:
    """Models of 0, of 1, and the wrong way round: the estimate is 0.61 all the same."""
    log = logs(60_000, 1)
    models = {"zero": 0 * RATE, "one": 0 * RATE + 1, "backwards": 1 - RATE}
    for name, model in models.items():
        terms = off_policy.doubly_robust(
            log["reward"], log["action"], log["logged"], log["target"], model[log["context"]]
        )
        assert terms.mean() == pytest.approx(VALUE, abs=0.03), (
            f"model {name}: expected {VALUE:.3f}, got {terms.mean():.4f}"
        )


@pytest.mark.exercise("6.22")
def test_a_right_model_makes_up_for_wrong_propensities() -> None:
    """Propensities that are all a third, as if the log were random: the residuals have mean 0."""
    log = logs(60_000, 2)
    terms = off_policy.doubly_robust(
        log["reward"],
        log["action"],
        np.full(60_000, 1 / 3),
        log["target"],
        RATE[log["context"]],
    )
    assert terms.mean() == pytest.approx(VALUE, abs=0.02), (
        f"expected {VALUE:.3f}, got {terms.mean():.4f}"
    )


@pytest.mark.exercise("6.22")
def test_a_good_model_narrows_the_error() -> None:
    """With the true click rates the terms spread less than those of IPW, on the same rows."""
    log = logs(20_000, 3)
    terms = off_policy.doubly_robust(
        log["reward"], log["action"], log["logged"], log["target"], RATE[log["context"]]
    )
    plain = log["reward"] * log["chosen"] / log["logged"]
    assert terms.std() < 0.8 * plain.std(), f"spread {terms.std():.3f}, IPW {plain.std():.3f}"


def test_ipw_and_the_direct_method_on_a_known_world() -> None:
    """IPW is right; a model that ignores the context is not, and its interval does not know it."""
    log = logs(60_000, 4)
    weights = off_policy.importance_weights(log["logged"], log["chosen"])
    found = off_policy.estimate_of(off_policy.ipw(log["reward"], weights), "ipw", None, None)
    assert found.low < VALUE < found.high
    rate = np.array([log["reward"][log["action"] == a].mean() for a in range(3)])
    model = np.tile(rate, (60_000, 1))
    alone = off_policy.estimate_of(off_policy.direct(log["target"], model), "direct", None, None)
    assert abs(alone.value - VALUE) > 10 * alone.se
    robust = off_policy.estimate_of(
        off_policy.doubly_robust(log["reward"], log["action"], log["logged"], log["target"], model),
        "doubly_robust",
        None,
        None,
    )
    assert robust.low < VALUE < robust.high
    assert "outside the doubly robust interval" in str(off_policy.judge_model(alone, robust))
    assert off_policy.judge_model(robust, robust) is None
    assert "no weighted estimate" in str(
        off_policy.judge_model(alone, replace(robust, refused="too few"))
    )


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=50), st.floats(0.01, 100))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_three_ways_to_tame_a_weight_never_raise_it(values: list[float], at: float) -> None:
    """And with no limit they leave it as it is, so that they end in IPW or doubly robust."""
    weights = np.array(values)
    for shape in (off_policy.clipped, off_policy.switched, off_policy.shrunk):
        changed = shape(weights, at)
        assert bool((changed <= weights + 1e-12).all())
        assert bool((changed >= 0).all())
        assert shape(weights, 1e20) == pytest.approx(weights, rel=1e-6)
    ess = off_policy.effective_sample_size(weights)
    assert 0 <= ess <= len(weights) + 1e-6


def test_tuning_trades_variance_for_bias() -> None:
    """Residuals of mean 0: the smallest weights win. All of one sign: the weights stay."""
    rng = np.random.default_rng(5)
    weights = rng.pareto(1.5, 20_000)
    grid = (1.0, 10.0, 1e12)
    noise = rng.choice([-1.0, 1.0], 20_000)
    assert off_policy.tune(off_policy.switched, grid, weights, noise) == 1.0
    assert off_policy.tune(off_policy.switched, grid, weights, np.ones(20_000)) == 1e12


def test_each_reason_to_refuse_is_found() -> None:
    """Few effective rows, one heavy row, few effective clicks, weights that do not average 1."""
    rng = np.random.default_rng(6)
    even, often = rng.uniform(0.5, 1.5, 5000), np.ones(5000)
    assert off_policy.refusal(even / even.mean(), often) is None
    few = np.zeros(5000)
    few[:50] = 100
    assert "effective sample size 50.0" in str(off_policy.refusal(few, often))
    heavy = np.ones(2000)
    heavy[0] = 130.0
    assert "one row carries 6%" in str(off_policy.refusal(heavy, np.ones(2000)))
    rare = np.zeros(5000)
    rare[:4] = 1.0
    assert "effective rewarded rows" in str(off_policy.refusal(even, rare))
    assert "standard errors from 1" in str(off_policy.refusal(0.8 * even, often))


def test_a_target_that_is_the_logger_is_not_refused() -> None:
    """Its weights are all 1 and have no spread; a constant other than 1 is a wrong propensity."""
    often = np.ones(2000)
    assert off_policy.refusal(np.ones(2000), often) is None
    assert "mean weight 1.100" in str(off_policy.refusal(np.full(2000, 1.1), often))


def test_the_bootstrap_agrees_with_the_delta_method() -> None:
    log = logs(3000, 7)
    weights = off_policy.importance_weights(log["logged"], log["chosen"])
    low, high = off_policy.bootstrap_snipw(weights, log["reward"], n_boot=400, seed=0)
    found = off_policy.snipw(log["reward"], log["logged"], log["chosen"])
    assert found.value is not None
    assert found.se is not None
    assert (high - low) / 2 == pytest.approx(1.96 * found.se, rel=0.15)
    assert low < found.value < high


def test_the_gamma_interval_is_the_exact_poisson_interval_when_weights_are_equal() -> None:
    """12 clicks in 1,000 rows of weight 1: Garwood's interval 6.2006 to 20.9616, over 1,000."""
    reward = np.zeros(1000)
    reward[:12] = 1.0
    low, high = off_policy.gamma_interval(reward, np.ones(1000))
    assert (low, high) == pytest.approx((6.2006e-3, 20.9616e-3), rel=1e-4)
    none = off_policy.gamma_interval(np.zeros(1000), np.ones(1000))
    assert none == pytest.approx((0, 3.6889e-3), rel=1e-4)


def test_unusable_logs_are_refused() -> None:
    half, one = np.full(3, 0.5), np.ones(3)
    bad = np.array([0.5, 0.0, 0.5])
    with pytest.raises(ValueError, match="log the one that drew it"):
        off_policy.importance_weights(bad, half)
    with pytest.raises(ValueError, match="log the one that drew it"):
        off_policy.importance_weights(np.array([0.5, np.nan, 0.5]), half)
    with pytest.raises(ValueError, match="target probabilities outside"):
        off_policy.importance_weights(half, 3 * half)
    with pytest.raises(ValueError, match="shape of target"):
        off_policy.importance_weights(half, half[:2])
    with pytest.raises(ValueError, match="no logged action fits"):
        off_policy.snipw(one, half, 0 * half)
    with pytest.raises(ValueError, match="do not sum to 1"):
        off_policy.check_model(np.zeros(3, int), np.full((3, 2), 0.4), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        off_policy.check_model(np.zeros(3, int), np.full((3, 2), 0.5), np.full((3, 2), np.inf))
    with pytest.raises(ValueError, match="use the normal interval"):
        off_policy.gamma_interval(np.array([0.5, 1.0]), np.ones(2))
