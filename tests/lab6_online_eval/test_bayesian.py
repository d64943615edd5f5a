"""Posteriors against closed forms, numerical integrals and simulation; what 95 % is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, norm

from labs.lab6_online_eval import bayesian
from labs.lab6_online_eval.bayesian import NormalPrior


def test_a_flat_prior_repeats_the_test() -> None:
    """The probability of being better is one minus the one-sided p; the interval is the same."""
    found = bayesian.posterior(0.03, 0.02)
    assert (found.mean, found.sd) == pytest.approx((0.03, 0.02))
    assert found.p_better == pytest.approx(1 - norm.sf(1.5))
    assert found.interval() == pytest.approx((0.03 - 1.96 * 0.02, 0.03 + 1.96 * 0.02), abs=1e-5)


def test_prior_and_data_of_equal_precision_meet_in_the_middle() -> None:
    found = bayesian.posterior(0.04, 0.02, NormalPrior(0.0, 0.02))
    assert found.mean == pytest.approx(0.02)
    assert found.sd == pytest.approx(0.02 / np.sqrt(2))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(effect=st.floats(-1, 1), se=st.floats(0.01, 1), spread=st.floats(0.01, 10))
def test_the_posterior_is_between_prior_and_estimate(
    effect: float, se: float, spread: float
) -> None:
    """And surer than either; the expected loss is the integral of the loss."""
    found = bayesian.posterior(effect, se, NormalPrior(0.0, spread))
    assert abs(found.mean) <= abs(effect)
    assert found.sd < min(se, spread)
    low = found.mean - 12 * found.sd
    integral = (
        quad(lambda x: -x * norm.pdf(x, found.mean, found.sd), low, 0, limit=200)[0]
        if low < 0
        else 0.0
    )
    assert found.expected_loss == pytest.approx(integral, abs=1e-7)


def test_the_prior_of_past_experiments_is_found_through_their_noise() -> None:
    """Effects of 1 % among noise of 2 %: the estimates spread by 2.2 %, the fitted prior by 1 %."""
    rng = np.random.default_rng(0)
    n = 4000
    se = rng.uniform(0.01, 0.03, n)
    effects = 0.002 + 0.01 * rng.standard_normal(n)
    fitted = bayesian.fit_prior(effects + se * rng.standard_normal(n), se)
    assert fitted.sd == pytest.approx(0.01, rel=0.08)
    assert fitted.mean == pytest.approx(0.002, abs=0.0015)


def test_a_prior_of_the_winners_alone_believes_in_winning() -> None:
    """Fitted to what was significant and up, the mean is far above the truth, which is 0."""
    rng = np.random.default_rng(1)
    effects = 0.01 * rng.standard_normal(5000)
    estimates = effects + 0.01 * rng.standard_normal(5000)
    winners = estimates > 0.0196
    every = bayesian.fit_prior(estimates, np.full(5000, 0.01))
    best = bayesian.fit_prior(estimates[winners] * 1.0, np.full(winners.sum(), 0.001))
    assert abs(every.mean) < 0.001
    assert best.mean > 0.02


def test_two_proportions_against_the_integral() -> None:
    """``P(p_t > p_c)`` and the expected loss by two-dimensional sums over a fine grid."""
    found = bayesian.beta_binomial(30, 400, 45, 500)
    grid = (np.arange(20_000) + 0.5) / 20_000
    control, treatment = beta(31, 371), beta(46, 456)
    density = treatment.pdf(grid) / 20_000
    assert found.p_better == pytest.approx(float(density @ control.cdf(grid)), abs=1e-7)
    # E[max(X - y, 0)] over y, by E[X; X > y] - y P(X > y)
    above = 31 / 402 * beta(32, 371).sf(grid) - grid * control.sf(grid)
    assert found.expected_loss == pytest.approx(float(density @ above), abs=1e-8)
    assert found.effect == pytest.approx(46 / 502 - 31 / 402)


@pytest.mark.parametrize("prior", [(0.5, 0.5), (0.2, 3.0)])
def test_priors_below_one_have_poles_and_do_no_harm(prior: tuple[float, float]) -> None:
    """No success in either arm and Jeffreys' prior: neither is better; draws agree elsewhere."""
    assert bayesian.beta_binomial(0, 50, 0, 50, prior=prior).p_better == pytest.approx(
        0.5, abs=1e-6
    )
    found = bayesian.beta_binomial(1, 30, 3, 40, prior=prior)
    rng = np.random.default_rng(0)
    a, b = prior
    x, y = rng.beta(a + 1, b + 29, 200_000), rng.beta(a + 3, b + 37, 200_000)
    assert found.p_better == pytest.approx((y > x).mean(), abs=0.004)
    assert found.expected_loss == pytest.approx(np.maximum(x - y, 0).mean(), abs=0.0003)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(c=st.integers(0, 60), t=st.integers(0, 60), n=st.integers(60, 100_000))
def test_one_of_the_arms_is_better(c: int, t: int, n: int) -> None:
    """Swapping the arms turns the probability around, and the two losses differ by the effect."""
    one = bayesian.beta_binomial(c, n, t, n)
    other = bayesian.beta_binomial(t, n, c, n)
    assert one.p_better + other.p_better == pytest.approx(1, abs=1e-9)
    assert other.expected_loss - one.expected_loss == pytest.approx(one.effect, abs=1e-8)


def test_ninety_five_percent_is_worth_what_the_prior_is_worth() -> None:
    """With the prior of past experiments a claim of 96 to 98 % is kept, peeking or not.

    With a flat one, 20 looks turn it into 79 %, and a fifth of the experiments without any effect
    end with a claim.
    """
    study = bayesian.study_bayes(n=20_000)
    for looks in (1, 5, 20):
        fitted = study.row("fitted", looks)
        assert fitted.improved == pytest.approx(fitted.claimed, abs=0.02), fitted
        assert fitted.exaggeration == pytest.approx(1, abs=0.1), fitted
    flat = study.row("flat", 20)
    assert flat.improved < 0.82 < 0.95 < flat.claimed
    assert flat.exaggeration > 3
    assert study.row("flat", 1).stopped_of_none == pytest.approx(0.05, abs=0.006)
    assert 0.17 < flat.stopped_of_none < 0.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bayesian.posterior(np.nan, 1), "effect = nan must be finite"),
        (lambda: bayesian.posterior(1, 0), "se = 0 must be > 0"),
        (lambda: NormalPrior(0, 0), "sd = 0 must be > 0"),
        (lambda: bayesian.fit_prior([1, 2], [1, 2]), "past experiments = 2 must be at least 5"),
        (lambda: bayesian.fit_prior([1] * 6, [1] * 5), r"shape of se = \(5,\)"),
        (lambda: bayesian.fit_prior([np.inf] * 6, [1] * 6), "not finite = 6 must be 0"),
        (lambda: bayesian.fit_prior([1] * 6, [0] * 6), "smallest se = 0.0 must be > 0"),
        (lambda: bayesian.fit_prior([0.1, -0.1] * 9, [1] * 18), "no more than their noise"),
        (lambda: bayesian.beta_binomial(3, 2, 1, 2), "successes in control = 3 must be between"),
        (lambda: bayesian.beta_binomial(1, 2, 1, 2, prior=(0, 1)), r"prior = \(0, 1\) must be > 0"),
        (lambda: bayesian.study_bayes(n=10), "n = 10 must be at least 1000"),
    ],
)
def test_unusable_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
