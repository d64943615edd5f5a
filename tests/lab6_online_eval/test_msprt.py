from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from common.errors import InputError
from labs.lab6_online_eval import confidence_sequences, msprt


def test_the_mixture_ratio_is_the_integral_over_effects() -> None:
    """The closed form is an average of likelihood ratios over N(0, tau^2): here by quadrature."""
    d, se, tau = 0.07, 0.04, 0.1

    def integrand(effect: float) -> float:
        return float(norm.pdf(d, effect, se) / norm.pdf(d, 0, se) * norm.pdf(effect, 0, tau))

    expected = quad(integrand, -1, 1, epsabs=1e-12, points=[0.0, d])[0]
    found = float(np.exp(msprt.log_mixture_ratio(d, se, tau**2)))
    assert found == pytest.approx(expected, rel=1e-8)


def test_it_is_the_confidence_sequence_in_other_units() -> None:
    """With ``n rho^2 = tau^2 / se^2`` both are one formula: the choice is how to tune it."""
    n, se, alpha = 4000, 0.03, 0.05
    rho = confidence_sequences.mixing_rho(1500.0, alpha)
    tau2 = n * rho**2 * se**2
    one = float(confidence_sequences.half_width(se, n, tuned_for=1500.0, alpha=alpha))
    two = float(msprt.interval_half_width(se, tau2, alpha=alpha))
    assert one == pytest.approx(two, rel=1e-12)


def test_the_p_value_never_rises_and_agrees_with_the_interval() -> None:
    """A result that was significant yesterday is significant today."""
    rng = np.random.default_rng(1)
    n = np.arange(1, 41) * 50
    effect = rng.standard_normal((200, 40)).cumsum(axis=1) / np.sqrt(50) / np.arange(1, 41)
    se = np.broadcast_to(1 / np.sqrt(n), effect.shape)
    p = msprt.always_valid_p_values(effect, se, 0.01)
    assert (np.diff(p, axis=1) <= 0).all()
    outside = (np.abs(effect) > msprt.interval_half_width(se, 0.01)).cumsum(axis=1) > 0
    assert ((p < 0.05) == outside).all()
    assert float((p[:, -1] < 0.05).mean()) < 0.05


def test_the_mixing_variance_is_that_of_the_true_effects() -> None:
    """Observed effects vary by noise as well; what is left after subtracting it is tau^2."""
    rng = np.random.default_rng(2)
    se = rng.uniform(0.01, 0.03, 4000)
    effects = 0.02 * rng.standard_normal(4000) + se * rng.standard_normal(4000)
    found = msprt.mixing_variance_from_past(effects, se)
    assert found == pytest.approx(0.02**2, rel=0.1), f"{found} is not near 0.0004"


def test_past_effects_that_are_all_noise_are_refused() -> None:
    """From effects smaller than their errors no size of effect can be learned."""
    with pytest.raises(InputError, match="beyond their noise"):
        msprt.mixing_variance_from_past([0.01, -0.01, 0.0, 0.01, -0.01], [0.1] * 5)
    with pytest.raises(InputError, match="mixing_variance"):
        msprt.log_mixture_ratio(0.1, 0.1, 0.0)
    with pytest.raises(InputError, match="usable"):
        msprt.log_mixture_ratio(float("nan"), 0.1, 0.01)


def test_an_interval_needs_a_standard_error() -> None:
    """A standard error of 0 or NaN is refused, as it is for the p-value."""
    for se in (0.0, np.nan):
        with pytest.raises(InputError, match="usable"):
            msprt.interval_half_width(se, 1.0)
