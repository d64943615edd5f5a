"""Exercise 6.16, and the power formulas against statsmodels, tea-tasting and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import power
from labs.lab6_online_eval.power import Baseline, TwoArms


@pytest.mark.exercise("6.16")
def test_five_percent_and_eighty_percent_give_the_known_number() -> None:
    """Mean 1, variance 1, a lift of 10 %: (1.95996 + 0.84162)^2 * 4 / 0.01 = 3139.6, so 3140.

    31.4 variances over effect squared, both arms together. A one-sided quantile gives 2473, one
    arm's variance 1570, and alpha alone 1537: experiments that are half as large as they need be.
    """
    found = power.units_needed(0.1, 1.0, 1.0)
    assert found == 3140, f"expected 3140 units in all, got {found}"


@pytest.mark.exercise("6.16")
def test_the_lift_is_relative() -> None:
    """2 % of a mean of 5 is 0.1: the effect in the metric's own units is lift times mean.

    Read as absolute, 0.02 would ask for 25 times as many units.
    """
    found = power.units_needed(0.02, 5.0, 1.0)
    assert found == 3140, f"expected 3140 units for an effect of 0.1, got {found}"
    negative = power.units_needed(-0.02, 5.0, 1.0)
    assert negative == found, f"a loss of 2 % needs {found} units as well, got {negative}"


@pytest.mark.exercise("6.16")
def test_unequal_arms_need_more_units() -> None:
    """With 10 % treated, 1/s + 1/(1-s) = 11.11 instead of 4: 2.8 times as many units in all."""
    found = power.units_needed(0.1, 1.0, 1.0, treated_share=0.1)
    assert found == 8721, f"expected 8721 units with 10 % treated, got {found}"


@pytest.mark.exercise("6.16")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    lift=st.floats(0.01, 0.3),
    share=st.floats(0.1, 0.9),
    wanted=st.floats(0.6, 0.95),
    alpha=st.floats(0.01, 0.1),
)
def test_a_z_test_with_so_many_units_has_the_wanted_power(lift, share, wanted, alpha) -> None:
    """The z-test's power at the returned n is what was asked for, and at two units fewer is less.

    Both tails are counted here and one in the formula, hence the tolerance of 0.001.
    """
    from scipy.stats import norm

    n = power.units_needed(lift, 2.0, 3.0, treated_share=share, alpha=alpha, power=wanted)
    at = [
        2 * lift / np.sqrt(3.0 / m * (1 / share + 1 / (1 - share))) - norm.isf(alpha / 2)
        for m in (n, n - 2)
    ]
    reached, before = norm.cdf(at)
    assert reached >= wanted - 1e-9, f"{n} units reach {reached:.5f}, not {wanted:.5f}"
    assert before < wanted, f"{n - 2} units would do: {before:.5f} for {wanted:.5f}"


@settings(derandomize=True, deadline=None, max_examples=20)
@given(d=st.floats(0.05, 1.0), n=st.integers(4, 2000), ratio=st.floats(0.3, 3.0))
def test_power_agrees_with_statsmodels(d: float, n: int, ratio: float) -> None:
    """z for any split; t for equal arms, where Welch's degrees of freedom are the pooled ones."""
    from statsmodels.stats.power import NormalIndPower, TTestIndPower

    by_z = power.power_normal(d, n * (1 + ratio), 1.0, treated_share=ratio / (1 + ratio))
    theirs = NormalIndPower().power(d, nobs1=n, alpha=0.05, ratio=ratio)
    assert float(by_z) == pytest.approx(theirs, abs=1e-9)
    by_t = power.power_t(d, TwoArms.of(2 * n, 1.0))
    theirs = TTestIndPower().power(d, nobs1=n, alpha=0.05)
    # far out the noncentral t has no value in scipy, and statsmodels passes the NaN on
    assert by_t == pytest.approx(1.0 if np.isnan(theirs) else theirs, abs=1e-6)


@pytest.mark.parametrize(("d", "share"), [(0.2, 0.5), (1.5, 0.5), (0.3, 0.2)])
def test_sizes_and_effects_agree_with_the_solvers_of_both_packages(d: float, share: float) -> None:
    """tea-tasting solves the same Welch problem for any split, statsmodels for equal arms."""
    import pandas as pd
    import tea_tasting as tt
    from statsmodels.stats.power import TTestIndPower

    values = np.random.default_rng(0).normal(10, 1, 50)
    variance = values.var(ddof=1)
    effect = d * np.sqrt(variance)
    options = {"alpha": 0.05, "ratio": share / (1 - share), "power": 0.8}
    n = power.units_needed_t(effect, variance, treated_share=share)
    data = pd.DataFrame({"x": values})
    metric = tt.Mean("x", effect_size=effect, n_obs=(n - 1, n), **options)
    before, reached = (each.power for each in metric.solve_power(data, "power"))
    assert before < 0.8 <= reached
    mde = power.detectable_effect_t(TwoArms.of(400, variance, share))
    solved = tt.Mean("x", n_obs=400, **options).solve_power(data, "effect_size")[0].effect_size
    assert mde == pytest.approx(solved, rel=1e-6)
    if share == 0.5:  # tea-tasting's search for n begins at 3 units, too few to split 20 to 80
        theirs = tt.Mean("x", effect_size=effect, **options).solve_power(data, "n_obs")[0].n_obs
        assert n == theirs
        one_arm = TTestIndPower().solve_power(d, power=0.8, alpha=0.05)
        assert n == int(np.ceil(2 * one_arm))


def test_t_asks_for_more_units_than_z_where_they_are_few() -> None:
    """One and a half standard deviations: 14 units by z, 17 by t, which is the test that is run."""
    by_z, by_t = power.units_needed(1.5, 1.0, 1.0), power.units_needed_t(1.5, 1.0)
    assert (by_z, by_t) == (14, 17)
    assert power.power_t(1.5, TwoArms.of(by_z, 1.0)) < 0.74


def test_the_detectable_effect_undoes_the_sample_size() -> None:
    n = power.units_needed(0.03, 2.0, 5.0, treated_share=0.3, power=0.9)
    found = power.detectable_effect(n, 5.0, treated_share=0.3, power=0.9)
    assert float(found) == pytest.approx(0.06, rel=1e-3)


def test_a_guardrail_is_planned_one_sided() -> None:
    """No harm, a margin of 0.1 sd: power by the noncentral t, as tea-tasting has it."""
    import pandas as pd
    import tea_tasting as tt

    n = power.units_for_non_inferiority(0.1, 1.0)
    assert power.non_inferiority_power(0.0, 0.1, TwoArms.of(n, 1.0)) >= 0.8
    assert power.non_inferiority_power(0.0, 0.1, TwoArms.of(n - 2, 1.0)) < 0.8
    values = np.array([-1.0, 1.0]) * np.sqrt(0.5)
    metric = tt.Mean("x", alternative="greater", effect_size=0.1, alpha=0.05, power=0.8)
    theirs = metric.solve_power(pd.DataFrame({"x": values}), "n_obs")[0].n_obs
    assert n == theirs
    # a true loss of the margin itself passes in alpha of the cases: that is what alpha means here
    passing = power.non_inferiority_power(-0.1, 0.1, TwoArms.of(n, 1.0))
    assert passing == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 1.0])
def test_post_hoc_power_is_the_p_value_in_other_words(p: float) -> None:
    """p = .05 is "a power of 50 %" in every experiment there ever was."""
    from scipy.stats import norm

    expected = norm.sf(1.959964 - norm.isf(p / 2)) + norm.cdf(-1.959964 - norm.isf(p / 2))
    assert power.post_hoc_power(p) == pytest.approx(expected, abs=1e-6)
    assert power.post_hoc_power(0.05) == pytest.approx(0.5, abs=1e-3)


def test_baselines_of_each_kind() -> None:
    """A proportion's variance, a ratio's by the delta method, and what CUPED leaves."""
    assert Baseline.of_proportion(0.2).variance == pytest.approx(0.16)
    rng = np.random.default_rng(1)
    sessions = 1 + rng.poisson(3, 500)
    clicks = rng.binomial(sessions, 0.3)
    found = Baseline.of_ratio(clicks, sessions)
    x, y = clicks.astype(float), sessions.astype(float)
    r = x.mean() / y.mean()
    cov = np.cov(x, y)
    by_delta = (cov[0, 0] - 2 * r * cov[0, 1] + r**2 * cov[1, 1]) / y.mean() ** 2
    assert found.mean == pytest.approx(r)
    assert found.variance == pytest.approx(by_delta)
    assert found.adjusted(0.4).variance == pytest.approx(0.6 * by_delta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power.units_needed(0.0, 1.0, 1.0), r"lift \* mean = 0.0 must not be 0"),
        (lambda: power.units_needed(0.1, 0.0, 1.0), r"lift \* mean = 0.0 must not be 0"),
        (lambda: power.units_needed(0.1, 1.0, float("nan")), "variance = nan must be > 0"),
        (lambda: power.units_needed(0.1, 1.0, 1.0, alpha=5), "alpha = 5 must be in"),
        (lambda: power.power_t(0.1, TwoArms.of(2, 1.0)), "units in the smaller arm = 1.0"),
        (lambda: Baseline.of([1.0, 1.0]), "variance = 0.0 must be finite and > 0"),
        (lambda: Baseline.of([1.0]), "values in values = 1 must be at least 2"),
        (lambda: power.post_hoc_power(0.0), r"p = 0.0 must be in \(0, 1\]"),
        (lambda: Baseline(1.0, 1.0).adjusted(1.0), "variance_reduction = 1.0"),
    ],
)
def test_what_cannot_be_planned_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
