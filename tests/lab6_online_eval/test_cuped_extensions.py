"""Regression with interactions, users without a past, and when CUPED helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval.cuped import cuped_adjust
from labs.lab6_online_eval.cuped_extensions import (
    lin_regression,
    variance_reduction,
    with_missing_indicator,
)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
def test_it_is_the_interacted_regression_of_statsmodels(seed: int, k: int) -> None:
    """Treatment, centred covariates and their products, with HC2 errors: the same to 1e-9."""
    import statsmodels.api as sm

    rng = np.random.default_rng(seed)
    x = rng.standard_normal((50, k)) * 3 + 7
    w = np.arange(50) < 18
    y = x.sum(axis=1) * (1 + w) + w + rng.standard_normal(50) * (1 + w)
    ours = lin_regression(y[~w], y[w], x[~w], x[w])
    centred = x - x.mean(axis=0)
    design = sm.add_constant(np.column_stack([w, centred, centred * w[:, None]]))
    theirs = sm.OLS(y, design.astype(float)).fit(cov_type="HC2")
    assert ours.effect == pytest.approx(theirs.params[1], rel=1e-9)
    assert ours.se == pytest.approx(theirs.bse[1], rel=1e-9)
    assert ours.dof == 50 - 2 * k - 2


def test_interactions_help_where_slopes_differ_and_arms_are_unequal() -> None:
    """Slopes 3 and 0, a tenth treated: one common slope leaves more variance than two."""
    rng = np.random.default_rng(1)
    lin, cuped = [], []
    for _ in range(400):
        x = rng.standard_normal((300, 1))
        w = rng.permutation(300) < 30
        y = np.where(w, 0.0, 3.0) * x[:, 0] + rng.standard_normal(300)
        lin.append(lin_regression(y[~w], y[w], x[~w], x[w]).effect)
        adjusted = cuped_adjust(y[~w], y[w], x[~w], x[w])
        cuped.append(adjusted.treatment.mean() - adjusted.control.mean())
    assert np.var(lin) < 0.3 * np.var(cuped)
    assert abs(np.mean(lin)) < 0.1


def test_new_users_are_kept_with_an_indicator() -> None:
    """NaN becomes the known mean, and one column says who is new; complete columns get none."""
    found = with_missing_indicator([[1.0, 5.0], [np.nan, 6.0], [3.0, 7.0]])
    assert found.tolist() == [[1.0, 5.0, 0.0], [2.0, 6.0, 1.0], [3.0, 7.0, 0.0]]
    assert with_missing_indicator([1.0, 2.0]).tolist() == [[1.0], [2.0]]


def test_the_indicator_explains_what_being_new_does() -> None:
    """New users click far less. Filled with the mean alone they blur the line; with it, no more."""
    rng = np.random.default_rng(2)
    past = rng.standard_normal(2000)
    new = rng.random(2000) < 0.4
    metric = np.where(new, -3.0, past) + 0.5 * rng.standard_normal(2000)
    known = np.where(new, np.nan, past)
    filled = np.where(new, past[~new].mean(), past)
    with_indicator = variance_reduction(metric, with_missing_indicator(known))
    assert with_indicator > variance_reduction(metric, filled) + 0.4
    assert with_indicator == pytest.approx(1 - 0.25 / metric.var(), abs=0.02)


def test_a_covariate_that_says_nothing_does_not_help() -> None:
    """R squared adjusted for the columns is about 0, where the plain one promises 10 %."""
    rng = np.random.default_rng(3)
    found = [
        variance_reduction(rng.standard_normal(100), rng.standard_normal((100, 10)))
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: lin_regression(x, x, np.column_stack([x, x]), np.column_stack([x, x])),
            "rank of the covariates in control = 1 must be 2",
        ),
        (lambda x: lin_regression(x[:3], x, x[:3], x), "units in the smaller arm = 3"),
        (lambda x: with_missing_indicator(np.full(3, np.nan)), "known values of a column = 0"),
        (lambda x: with_missing_indicator([1.0, np.inf]), "infinite values in covariate = 1"),
        (lambda x: variance_reduction(np.ones(9), x), "variance of metric = 0.0 must be > 0"),
    ],
)
def test_what_cannot_be_adjusted_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.array([1.0, 4.0, 2.0, 3.0, 7.0, 5.0, 9.0, 8.0, 6.0]))
