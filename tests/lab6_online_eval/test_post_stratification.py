"""Exercise 6.17: the post-stratified estimate, and its designs beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import post_stratification

CONTROL = np.array([1.0, 3.0, 2.0, 2.0, 9.0, 11.0])
CONTROL_STRATUM = np.array([0, 0, 0, 0, 1, 1])
TREATMENT = np.array([3.0, 5.0, 12.0, 14.0, 13.0, 13.0])
TREATMENT_STRATUM = np.array([0, 0, 1, 1, 1, 1])


@pytest.mark.exercise("6.17")
def test_an_imbalance_of_strata_is_not_an_effect() -> None:
    """Six light users (4 control, 2 treated) and six heavy ones (2 and 4); 2 and 3 more in each.

    Raw, the treatment leads by 5.33: it has the heavy users. Within strata it leads by 2 and by 3,
    and each stratum holds half of all users: 2.5. Weights of one arm give 2.33 or 2.67, and arms
    weighted by their own shares give the raw 5.33 back.
    """
    found = post_stratification.post_stratified(
        CONTROL, TREATMENT, CONTROL_STRATUM, TREATMENT_STRATUM
    )
    assert found.effect == pytest.approx(2.5), f"expected an effect of 2.5, got {found.effect}"


@pytest.mark.exercise("6.17")
def test_the_variance_is_summed_with_squared_weights() -> None:
    """s^2/n of the four cells: (2/3)/4, 2/2, 2/2 and (2/3)/4; weights 1/2: se^2 = .25 * 2.3333.

    Forget the square and the error is 1.41 times too large; take the variance over whole arms and
    the difference between strata, which the estimate removes, is counted as noise.
    """
    found = post_stratification.post_stratified(
        CONTROL, TREATMENT, CONTROL_STRATUM, TREATMENT_STRATUM
    )
    expected = np.sqrt(0.25 * (1 / 6 + 1 + 1 + 1 / 6))
    assert found.se == pytest.approx(expected), f"expected a se of {expected:.4f}, got {found.se}"


@pytest.mark.exercise("6.17")
def test_the_standard_error_is_the_spread_of_the_estimate() -> None:
    """300 A/A experiments with strata far apart: the mean se equals the estimates' deviation."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        stratum = rng.choice(3, 120, p=[0.5, 0.3, 0.2])
        values = np.array([0.0, 5.0, 10.0])[stratum] + rng.standard_normal(120)
        found.append(
            post_stratification.post_stratified(
                values[:40], values[40:], stratum[:40], stratum[40:]
            )
        )
    spread = float(np.std([each.effect for each in found]))
    claimed = float(np.mean([each.se for each in found]))
    assert claimed == pytest.approx(spread, rel=0.12), (
        f"the estimates spread by {spread:.4f}, the standard error says {claimed:.4f}"
    )


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 6))
def test_it_is_lins_regression_on_dummies(seed: int, k: int) -> None:
    """Saturated in the strata, the interacted regression with HC2 errors is the same estimate."""
    from labs.lab6_online_eval.cuped_extensions import lin_regression

    rng = np.random.default_rng(seed)
    strata = [np.concatenate([np.repeat(np.arange(k), 2), rng.integers(0, k, 30)]) for _ in "ct"]
    values = [s + (1 + s) * rng.standard_normal(len(s)) for s in strata]
    ours = post_stratification.post_stratified(*values, *strata)
    lin = lin_regression(*values, *(post_stratification.dummies(s) for s in strata))
    assert ours.effect == pytest.approx(lin.effect, abs=1e-9)
    assert ours.se == pytest.approx(lin.se, rel=1e-9)


def test_stratified_assignment_balances_every_stratum() -> None:
    """Never more than one unit off, and an odd unit does not always go to the same arm."""
    rng = np.random.default_rng(1)
    stratum = rng.integers(0, 5, 203)
    odd = []
    for _ in range(50):
        treated = post_stratification.stratified_assignment(stratum, rng)
        for k in range(5):
            inside = treated[stratum == k]
            assert abs(inside.sum() - len(inside) / 2) <= 0.5
        odd.append(int(treated.sum()))
    assert min(odd) < 101.5 < max(odd)
    share = post_stratification.stratified_assignment(stratum, rng, treated_share=0.2).mean()
    assert share == pytest.approx(0.2, abs=0.03)


def test_every_way_removes_the_share_between_strata() -> None:
    """The covariate explains half: each leaves about half, and none is far better than another."""
    rng = np.random.default_rng(2)
    covariate = rng.standard_normal(5000)
    metric = covariate + rng.standard_normal(5000)
    found = post_stratification.compare_designs(
        metric, covariate, n_strata=6, n_units=200, n_experiments=500
    )
    left = 1 - found.between_share
    assert left == pytest.approx(0.57, abs=0.05)
    for name in ("post_stratified", "cuped_dummies", "stratified_assignment", "cuped_continuous"):
        assert getattr(found, name) == pytest.approx(left, abs=0.12), name


def test_equal_values_stay_in_one_stratum() -> None:
    strata = post_stratification.quantile_strata([0.0] * 12 + [1.0, 2.0, 3.0, 4.0], 4)
    assert len(set(strata[:12])) == 1
    assert len(set(strata)) == 2


@pytest.mark.parametrize(
    ("control", "strata", "message"),
    [
        (
            [1.0, 2.0, 3.0],
            [0, 0, 1],
            "units of stratum 1 in its smaller arm = 1 must be at least 2",
        ),
        ([1.0, 2.0, 3.0], [0, 0], r"shape of control_stratum = \(2,\) must be \(3,\)"),
        ([1.0, 2.0, np.inf], [0, 0, 0], "values in control that are not finite = 1"),
        ([5.0, 5.0, 5.0], [0, 0, 0], "variance of the estimate = 0.0 must be > 0"),
    ],
)
def test_strata_that_cannot_be_compared_are_refused(control, strata, message: str) -> None:
    treatment, others = np.full(4, 5.0), np.array([0, 0, 1, 1] if 1 in strata else [0] * 4)
    with pytest.raises(ValueError, match=message):
        post_stratification.post_stratified(np.array(control), treatment, np.array(strata), others)
