from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student_t

from common.errors import InputError
from labs.lab6_online_eval import non_inferiority
from labs.lab6_online_eval.significance import Moments

PROFILE = settings(derandomize=True, deadline=None, max_examples=30)


@pytest.mark.exercise("6.14")
def test_few_units_prove_nothing() -> None:
    """An interval from -10 % to +10 % is "not significant" and excludes no loss of 1 %: such a
    guardrail has not passed, it was not able to look."""
    found = non_inferiority.non_inferiority_test(0.0, 0.05, 0.01)
    assert not found.non_inferior, f"passes with bound {found.bound:.3f} beyond the margin -0.01"
    assert not found.harmful, f"harm is not shown either: p_harm {found.p_harm:.3f}"


@pytest.mark.exercise("6.14")
def test_a_small_certain_loss_within_the_margin_passes() -> None:
    """Significantly worse, by half a percent, with a margin of one: this is what was agreed to."""
    found = non_inferiority.non_inferiority_test(-0.005, 0.001, 0.01)
    expected = float(norm.sf(5.0)), -0.005 - 0.001 * float(norm.isf(0.05))
    assert found.p == pytest.approx(expected[0]), f"p {found.p} must be {expected[0]}"
    assert found.bound == pytest.approx(expected[1]), f"bound {found.bound} must be {expected[1]}"
    assert found.non_inferior, f"p {found.p:.2g} is below alpha and must pass"


@pytest.mark.exercise("6.14")
def test_alpha_is_one_sided() -> None:
    """At a distance of 1.8 standard errors from the margin the one-sided p is .036: it passes at
    alpha .05, which a two-sided p of .072 would not."""
    found = non_inferiority.non_inferiority_test(0.008, 0.01, 0.01)
    assert found.p == pytest.approx(0.03593, abs=1e-5), f"p {found.p} must be 0.03593"
    assert found.non_inferior, f"p {found.p:.4f} must pass at 0.05"


@pytest.mark.exercise("6.14")
def test_for_a_latency_lower_is_better() -> None:
    """2 % slower with a margin of 5 % passes; 9 % slower is harm: the sign is the metric's."""
    slower = non_inferiority.non_inferiority_test(0.02, 0.01, 0.05, higher_is_better=False)
    bound = 0.02 + 0.01 * float(norm.isf(0.05))
    assert slower.non_inferior, f"p {slower.p:.4f}: 2 % slower is within 5 %"
    assert slower.bound == pytest.approx(bound), f"bound {slower.bound} must be {bound}"
    harm = non_inferiority.non_inferiority_test(0.09, 0.01, 0.05, higher_is_better=False)
    verdict = (harm.non_inferior, harm.harmful)
    assert verdict == (False, True), f"9 % slower gives (non_inferior, harmful) = {verdict}"
    faster = non_inferiority.non_inferiority_test(-0.3, 0.01, 0.05, higher_is_better=False)
    assert faster.p < 1e-6, f"30 % faster has p {faster.p}, must be safe"


@pytest.mark.exercise("6.14")
def test_few_degrees_of_freedom_widen_the_bound() -> None:
    """With 8 degrees of freedom the law is Student's."""
    found = non_inferiority.non_inferiority_test(0.0, 0.01, 0.02, dof=8)
    expected = float(student_t.sf(2.0, 8)), -0.01 * float(student_t.isf(0.05, 8))
    assert (found.p, found.bound) == pytest.approx(expected), f"{found} must have {expected}"


@PROFILE
@given(
    effect=st.floats(-0.3, 0.3), se=st.floats(0.001, 0.2), margin=st.floats(0.005, 0.5),
    higher=st.booleans(), alpha=st.floats(0.005, 0.3),
)  # fmt: skip
def test_the_bound_and_the_p_value_agree(
    effect: float, se: float, margin: float, higher: bool, alpha: float
) -> None:
    """The bound clears the margin exactly when p < alpha, and never is it safe and harmed."""
    found = non_inferiority.non_inferiority_test(
        effect, se, margin, higher_is_better=higher, alpha=alpha
    )
    clears = found.bound > -margin if higher else found.bound < margin
    if abs(abs(found.bound) - margin) > 1e-9:
        assert clears == found.non_inferior
    assert not (found.non_inferior and found.harmful)
    assert found.p + found.p_harm == pytest.approx(1.0)


@pytest.mark.parametrize("higher", [True, False])
def test_means_agree_with_statsmodels(higher: bool) -> None:
    """The contrast form is Welch's test against the control times the factor."""
    from statsmodels.stats.weightstats import ttest_ind

    rng = np.random.default_rng(1)
    control, treatment = rng.gamma(2, 3, 400), rng.gamma(2.1, 3, 350)
    found = non_inferiority.non_inferiority_of_means(
        Moments.of(control), Moments.of(treatment), 0.06, higher_is_better=higher
    )
    factor, side = (0.94, "larger") if higher else (1.06, "smaller")
    expected = ttest_ind(treatment, factor * control, alternative=side, usevar="unequal")
    assert found.p == pytest.approx(float(expected[1]), rel=1e-9)
    assert found.non_inferior == (found.p < 0.05)
    limit = -0.06 if higher else 0.06
    assert (found.bound > limit if higher else found.bound < limit) == found.non_inferior


def test_the_relative_and_the_contrast_form_nearly_agree() -> None:
    """With many units the delta method is as good as the exact form."""
    control, treatment = Moments(5000, 2.0, 1.5), Moments(5000, 1.98, 1.5)
    exact = non_inferiority.non_inferiority_of_means(control, treatment, 0.03)
    se = sqrt(1.5 / 5000 / 4 + 1.98**2 * 1.5 / 5000 / 16)
    rough = non_inferiority.non_inferiority_test(-0.01, se, 0.03, dof=9998)
    assert exact.p == pytest.approx(rough.p, abs=0.005)


def test_power_and_sample_size_agree_with_statsmodels_and_each_other() -> None:
    """The size for .8 has power .8; the power is statsmodels's for the same error."""
    from statsmodels.stats.power import normal_power_het

    n = non_inferiority.units_per_arm(0.02, 1.3, effect=0.004, power=0.8)
    found = non_inferiority.non_inferiority_power(0.02, 1.3, n, n, effect=0.004)
    assert 0.8 <= found < 0.8005
    sd = 1.3 * sqrt(1 + 1.004**2)
    expected = normal_power_het(0.024, n, 0.05, std_null=sd, alternative="larger")
    assert found == pytest.approx(float(expected), abs=1e-9)
    assert non_inferiority.units_per_arm(0.01, 1.0) / non_inferiority.units_per_arm(
        0.02, 1.0
    ) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(
    ("effect", "se", "margin", "alpha"),
    [(float("nan"), 0.1, 0.1, 0.05), (inf, 0.1, 0.1, 0.05), (0.0, 0.0, 0.1, 0.05),
     (0.0, 0.1, -0.01, 0.05), (0.0, 0.1, 0.1, 0.5)],
)  # fmt: skip
def test_what_cannot_be_tested_is_refused(
    effect: float, se: float, margin: float, alpha: float
) -> None:
    """A negative margin, no variance, not a number: named, not tested."""
    with pytest.raises(InputError, match="must be"):
        non_inferiority.non_inferiority_test(effect, se, margin, alpha=alpha)


def test_no_size_excludes_the_truth() -> None:
    """When the true loss is the margin, no sample shows that it is less."""
    with pytest.raises(InputError, match="excludes the truth"):
        non_inferiority.units_per_arm(0.01, 1.0, effect=-0.01)
    with pytest.raises(InputError, match="mean of the control"):
        non_inferiority.non_inferiority_of_means(Moments(9, 0.0, 1.0), Moments(9, 1.0, 1.0), 0.1)


@pytest.mark.parametrize("dof", [0.0, float("nan")])
def test_an_error_without_degrees_of_freedom_is_refused(dof: float) -> None:
    """Student's law has none then, and p would be NaN: "not shown to be safe", for no reason."""
    with pytest.raises(InputError, match="dof"):
        non_inferiority.non_inferiority_test(0.0, 0.1, 0.1, dof=dof)


@pytest.mark.parametrize(
    ("control", "treatment", "alpha", "message"),
    [
        (Moments(1, 1.0, 1.0), Moments(9, 1.0, 1.0), 0.05, "units in the smaller arm = 1"),
        (Moments(9, 1.0, 1.0), Moments(9, float("nan"), 1.0), 0.05, "effect"),
        (Moments(9, 1.0, 1.0), Moments(9, 1.0, float("nan")), 0.05, "variance"),
        (Moments(9, 1.0, 1.0), Moments(9, 1.0, inf), 0.05, "se"),
        (Moments(9, 1.0, 1.0), Moments(9, 1.0, 1.0), 2.0, "alpha"),
    ],
)
def test_means_that_cannot_be_tested_are_refused(
    control: Moments, treatment: Moments, alpha: float, message: str
) -> None:
    """One unit, values that are not numbers, a level that is none: never a p-value of NaN."""
    with pytest.raises(InputError, match=message):
        non_inferiority.non_inferiority_of_means(control, treatment, 0.1, alpha=alpha)
