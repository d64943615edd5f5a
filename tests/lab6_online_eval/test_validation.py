"""The gate itself: an honest method passes it, and each kind of dishonesty does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from labs.lab6_online_eval.validation import Findings, Method, binomial_bounds, validate

N_UNITS, EFFECT = 200, 0.3
POWER = float(norm.sf(1.96 - EFFECT * np.sqrt(N_UNITS / 4)))


def z_test(*, narrow: float = 1.0, shift: float = 0.0, p_power: float = 1.0):
    """A z-test of normal values; its interval and p can be made to lie."""

    def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
        se = np.sqrt(4 / N_UNITS)
        estimate = effect + shift + se * rng.standard_normal(n)
        half = 1.959964 * se * narrow
        p = (2 * norm.sf(np.abs(estimate) / se)) ** p_power
        return Findings(estimate, estimate - half, estimate + half, p)

    return simulate


def test_an_honest_method_is_offered() -> None:
    """False positives, coverage and power as promised: nothing to object to."""
    verdict = validate(Method("z", z_test(), EFFECT, POWER))
    assert verdict.offered, verdict.reasons
    assert verdict.n == 2000
    assert verdict.fpr == pytest.approx(0.05, abs=0.01)
    assert verdict.power == pytest.approx(POWER, abs=0.02)
    assert verdict.coverage_ci[0] < verdict.coverage < verdict.coverage_ci[1]


@pytest.mark.parametrize(
    ("simulate", "power", "complaint"),
    [
        (z_test(p_power=1.4), None, "false positives"),
        (z_test(p_power=0.7), None, "false positives"),
        (z_test(narrow=0.85), None, "coverage"),
        (z_test(narrow=1.3), None, "coverage"),
        (z_test(shift=0.05), None, "coverage"),
        (z_test(), POWER + 0.1, "power"),
    ],
)
def test_a_method_that_lies_is_not_offered_and_the_reason_is_named(
    simulate, power, complaint
) -> None:
    """Too many or too few false positives, wrong intervals, bias, and power that is not there."""
    verdict = validate(Method("liar", simulate, EFFECT, power))
    assert not verdict.offered
    assert any(complaint in reason for reason in verdict.reasons), verdict.reasons
    assert verdict.second, "a verdict against a method rests on the fresh sample"
    assert verdict.n == 8000


def test_a_sequential_method_may_be_cautious_but_not_generous() -> None:
    """Always-valid tests are conservative by construction; only too many findings are wrong."""
    cautious = Method("cautious", z_test(narrow=1.3, p_power=0.7), EFFECT, sequential=True)
    assert validate(cautious).offered
    assert not validate(Method("eager", z_test(p_power=1.4), EFFECT, sequential=True)).offered


def test_a_result_that_is_not_a_number_is_a_reason() -> None:
    """NaN is neither below alpha nor above it: it would pass as a method without findings."""

    def broken(rng: np.random.Generator, n: int, effect: float) -> Findings:
        good = z_test()(rng, n, effect)
        p = good.p.copy()
        p[0] = np.nan
        return Findings(good.effect, good.low, good.high, p)

    assert "not numbers" in validate(Method("nan", broken, EFFECT)).reasons[0]


def test_honest_methods_nearly_always_pass() -> None:
    """The second sample keeps the gate from throwing out one honest method in twenty."""
    method = Method("z", z_test(), EFFECT, POWER)
    passed = [validate(method, seed=seed).offered for seed in range(60)]
    assert np.mean(passed) >= 0.98, f"{np.sum(passed)} of 60"


def test_the_bounds_are_the_binomial_ones() -> None:
    """For 2,000 experiments: 4.04 to 5.96 %."""
    assert binomial_bounds(0.05, 2000, 0.95) == pytest.approx((0.04045, 0.05955), abs=1e-4)


def test_too_few_experiments_are_refused() -> None:
    """A gate that lets everything through is not a gate."""
    with pytest.raises(ValueError, match="n = 50 must be at least 200; try 2000"):
        validate(Method("z", z_test(), EFFECT), n=50)


def test_a_sequential_method_that_never_finds_anything_is_not_offered() -> None:
    """It has no false positives and its interval holds every truth: only power tells."""

    def silent(rng: np.random.Generator, n: int, effect: float) -> Findings:
        return Findings(np.full(n, effect), np.full(n, -np.inf), np.full(n, np.inf), np.ones(n))

    verdict = validate(Method("silent", silent, EFFECT, sequential=True))
    assert not verdict.offered
    assert "no more than by chance" in verdict.reasons[0]
