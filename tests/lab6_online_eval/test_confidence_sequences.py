from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab6_online_eval import confidence_sequences
from labs.lab6_online_eval.significance import Moments

PROFILE = settings(derandomize=True, deadline=None, max_examples=30)


@pytest.mark.exercise("6.13")
def test_the_half_width_is_the_formula_at_two_looks() -> None:
    """The paper's variance is that of one unit, ``n se^2``: forgetting the n, or one term of the
    logarithm, changes the width by a factor that no plot shows."""
    n, se, alpha, tuned_for = np.array([200.0, 5000.0]), np.array([0.14, 0.03]), 0.1, 800.0
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / tuned_for
    expected = [
        sqrt(k * e**2 * 2 * (k * rho2 + 1) / (k**2 * rho2) * log(sqrt(k * rho2 + 1) / alpha))
        for k, e in zip(n, se, strict=True)
    ]
    found = confidence_sequences.half_width(se, n, tuned_for=tuned_for, alpha=alpha)
    assert found == pytest.approx(expected, rel=1e-12), f"{found} must be {expected}"


@pytest.mark.exercise("6.13")
def test_the_half_width_is_that_of_a_published_example() -> None:
    """GrowthBook's engine gives [-0.5584405, 1.5651627] for a relative effect tuned for 1,000
    units: the same data, the same interval."""
    variance = (52377.9767 - 1396.87**2 / 3000) / 2999, (134698.29 - 2422.7**2 / 3461) / 3460
    m_c, m_t = 1396.87 / 3000, 2422.7 / 3461
    se = sqrt(variance[1] / 3461 / m_c**2 + variance[0] / 3000 * m_t**2 / m_c**4)
    half = float(confidence_sequences.half_width(se, 6461, tuned_for=1000.0, alpha=0.05))
    found = m_t / m_c - 1 - half, m_t / m_c - 1 + half
    assert found == pytest.approx((-0.5584405, 1.5651627), abs=1e-7), f"{found} must be published's"


@pytest.mark.exercise("6.13")
def test_under_peeking_the_sequence_keeps_its_promise() -> None:
    """One hundred looks at A/A data: the truth may leave the sequence in 5 % of the experiments,
    where a fixed-horizon interval at every look loses it in more than a third."""
    rng = np.random.default_rng(3)
    n = np.arange(1, 101) * 50.0
    estimate = (rng.standard_normal((2000, 100)) * sqrt(50)).cumsum(axis=1) / n
    half = confidence_sequences.half_width(1 / np.sqrt(n), n, tuned_for=500.0, alpha=0.05)
    lost = float((np.abs(estimate) > half).any(axis=1).mean())
    assert 0.005 < lost <= 0.05, f"the truth left {lost:.3f} of the sequences, at most 0.05 allowed"


@pytest.mark.exercise("6.13")
def test_the_tuning_is_a_constant_of_the_experiment() -> None:
    """The width in standard errors has its least near ``tuned_for`` and grows on both sides. A rho
    that follows n gives one multiple at every look: a boundary that chance will cross."""
    n = np.array([100.0, 1000.0, 100_000.0])
    multiple = confidence_sequences.half_width(1 / np.sqrt(n), n, tuned_for=1000.0) * np.sqrt(n)
    assert multiple[0] > multiple[1] < multiple[2], f"multiples {multiple} must dip at 1,000"


def test_the_comparison_reproduces_the_published_interval() -> None:
    """End to end from sums: absolute and relative, p-value included."""
    control = Moments.of_sums(3000, 1396.87, 52377.9767)
    treatment = Moments.of_sums(3461, 2422.7, 134698.29)
    found = confidence_sequences.compare_always_valid(control, treatment, tuned_for=1000.0)
    assert found.relative_ci == pytest.approx((-0.5584405, 1.5651627), abs=1e-7)
    assert found.n == 6461
    assert found.ci[0] < 0 < found.ci[1]
    assert found.p == 1.0


@PROFILE
@given(
    effect=st.floats(-1, 1), se=st.floats(0.01, 1), n=st.integers(10, 10**6),
    tuned_for=st.floats(10, 1e6), alpha=st.floats(0.001, 0.4),
)  # fmt: skip
def test_the_p_value_inverts_the_sequence(
    effect: float, se: float, n: int, tuned_for: float, alpha: float
) -> None:
    """p < alpha exactly when 0 is outside: two answers from one report must not disagree."""
    half = float(confidence_sequences.half_width(se, n, tuned_for=tuned_for, alpha=alpha))
    p = float(confidence_sequences.always_valid_p(effect, se, n, tuned_for=tuned_for, alpha=alpha))
    if abs(abs(effect) - half) > 1e-9:
        assert (p < alpha) == (abs(effect) > half), f"p {p}, effect {effect}, half {half}"


@PROFILE
@given(se=st.floats(0.01, 1), n=st.integers(10, 10**6), alpha=st.floats(0.001, 0.2))
def test_the_one_sided_p_value_inverts_the_one_sided_bound(se: float, n: int, alpha: float) -> None:
    """At the bound itself the p-value is alpha."""
    half = confidence_sequences.one_sided_half_width(se, n, tuned_for=500.0, alpha=alpha)
    p = confidence_sequences.one_sided_always_valid_p(half, se, n, tuned_for=500.0, alpha=alpha)
    assert float(p) == pytest.approx(alpha, rel=1e-9)


def test_a_one_sided_bound_is_nearer_than_the_two_sided_one() -> None:
    """Otherwise nobody would ask a one-sided question."""
    one = confidence_sequences.one_sided_half_width(0.1, 1000, tuned_for=1000.0)
    two = confidence_sequences.half_width(0.1, 1000, tuned_for=1000.0)
    assert float(one) < float(two)


def test_the_tuning_for_one_look_is_near_that_look_and_beats_a_bad_one() -> None:
    """Tuning by expected length: for one look the optimum is about that look."""
    tuned = confidence_sequences.tuning_for_looks([5000.0])
    assert 4000 < tuned < 6000
    looks = np.arange(1, 21) * 500.0
    best = confidence_sequences.tuning_for_looks(list(looks))

    def length(tuned_for: float) -> float:
        half = confidence_sequences.half_width(1 / np.sqrt(looks), looks, tuned_for=tuned_for)
        return float((half * np.sqrt(looks)).mean())

    assert length(best) < min(length(best / 5), length(best * 5))


def test_the_intersection_never_widens() -> None:
    """What has been excluded stays excluded."""
    low, high = confidence_sequences.running_intersection([0.0, -1.0, 0.5], [3.0, 4.0, 2.0])
    assert (low.tolist(), high.tolist()) == ([0.0, 0.0, 0.5], [3.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("se", "n", "tuned_for"),
    [(0.0, 100, 100.0), (float("nan"), 100, 100.0), (0.1, 1, 100.0), (0.1, 100, 0.0)],
)
def test_what_cannot_be_computed_is_refused(se: float, n: int, tuned_for: float) -> None:
    """No variance, one unit, no tuning: an error that names it, never a silent width."""
    with pytest.raises(InputError, match="must be"):
        confidence_sequences.half_width(se, n, tuned_for=tuned_for)


def test_what_is_no_number_has_no_p_value() -> None:
    """NaN compares as "not below alpha", so a guardrail of NaN would look healthy for ever."""
    one_sided = confidence_sequences.one_sided_always_valid_p
    for p_value in (confidence_sequences.always_valid_p, one_sided):
        with pytest.raises(InputError, match="effects that are not finite = 1"):
            p_value([0.1, np.nan], 1.0, 100)
        with pytest.raises(InputError, match="fewer than two units"):
            p_value(0.1, 1.0, np.inf)
    with pytest.raises(InputError, match="units of control = 1"):
        confidence_sequences.compare_always_valid(Moments(1, 1.0, 1.0), Moments(200, 1.0, 1.0))
