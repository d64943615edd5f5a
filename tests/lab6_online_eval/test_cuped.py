"""Exercise 6.2: CUPED."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval.cuped import as_columns, cuped_adjust


def experiment(
    seed: int, n: int = 400, slopes: tuple[float, float] = (2.0, 2.0), k: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """control, treatment, and their covariates; the metric follows the covariate by ``slopes``."""
    rng = np.random.default_rng(seed)
    x_control, x_treatment = rng.normal(10, 1, (n, k)), rng.normal(10, 1, (n // 2, k))
    control = slopes[0] * x_control.sum(axis=1) + rng.normal(0, 1, n)
    treatment = slopes[1] * x_treatment.sum(axis=1) + rng.normal(0.3, 1, n // 2)
    return control, treatment, x_control, x_treatment


@pytest.mark.exercise("6.2")
def test_a_difference_that_the_covariate_explains_disappears() -> None:
    """The metric equals the covariate, so after the adjustment the arms do not differ at all.

    By chance the treated users were more active already. CUPED must credit that to the past. If you
    centre each arm on its own mean, or flip a sign, the chance difference stays or doubles.
    """
    x_control, x_treatment = np.arange(10.0)[:, None], np.arange(5.0, 15.0)[:, None]
    adjusted = cuped_adjust(x_control[:, 0], x_treatment[:, 0], x_control, x_treatment)
    difference = float(adjusted.treatment.mean() - adjusted.control.mean())
    assert difference == pytest.approx(0, abs=1e-9), (
        f"expected an adjusted difference of 0 (raw 5), got {difference}"
    )


@pytest.mark.exercise("6.2")
def test_theta_is_the_pooled_slope() -> None:
    """theta = Cov(X, Y) / Var(X) over both arms together: one number for the whole experiment.

    With a theta for each arm the two arms are adjusted by different rules, and their difference is
    no longer the effect. Here the slopes differ (1 and 3), so the mistake shows.
    """
    control, treatment, x_control, x_treatment = experiment(0, slopes=(1.0, 3.0))
    x, y = np.vstack([x_control, x_treatment])[:, 0], np.concatenate([control, treatment])
    expected = np.cov(x, y)[0, 1] / np.var(x, ddof=1)
    adjusted = cuped_adjust(control, treatment, x_control, x_treatment)
    assert np.shape(adjusted.theta) == (1,), f"shape of theta: {np.shape(adjusted.theta)}, not (1,)"
    assert adjusted.theta[0] == pytest.approx(expected), (
        f"expected the pooled slope {expected:.4f}, got {adjusted.theta[0]:.4f}"
    )
    by_hand = treatment - (x_treatment[:, 0] - x.mean()) * expected
    worst = float(np.abs(adjusted.treatment - by_hand).max())
    assert worst < 1e-8, f"the treatment arm differs from Y - (X - mean X) theta by {worst}"


@pytest.mark.exercise("6.2")
def test_the_mean_over_all_units_is_kept() -> None:
    """Centring the covariate keeps the metric's level; without it the relative lift is nonsense.

    The effect survives without centring, which is why this mistake is not seen: only the share of
    the control's mean, the number that is reported, is wrong.
    """
    control, treatment, x_control, x_treatment = experiment(1)
    adjusted = cuped_adjust(control, treatment, x_control, x_treatment)
    before = np.concatenate([control, treatment]).mean()
    after = np.concatenate([adjusted.control, adjusted.treatment]).mean()
    assert after == pytest.approx(before), f"expected the mean {before:.4f}, got {after:.4f}"


@pytest.mark.exercise("6.2")
def test_the_variance_falls_by_the_share_that_the_covariate_explains() -> None:
    """With Y = 2 X + noise of variance 1, R2 = 4/5, so a fifth of the variance is left.

    That is worth five times as many users.
    """
    control, treatment, x_control, x_treatment = experiment(2, n=20_000)
    adjusted = cuped_adjust(control, treatment, x_control, x_treatment)
    left = float(adjusted.control.var() / control.var())
    assert left == pytest.approx(0.2, abs=0.02), f"expected 0.2 of the variance, got {left:.3f}"


@pytest.mark.exercise("6.2")
@settings(derandomize=True, deadline=None, max_examples=50)
@given(shift=st.floats(-100, 100), scale=st.floats(0.1, 10), seed=st.integers(0, 50))
def test_the_unit_of_the_covariate_does_not_matter(shift: float, scale: float, seed: int) -> None:
    """Minutes or hours, from zero or from 1970: the adjusted metric is the same."""
    control, treatment, x_control, x_treatment = experiment(seed, n=40)
    first = cuped_adjust(control, treatment, x_control, x_treatment)
    second = cuped_adjust(
        control, treatment, scale * x_control + shift, scale * x_treatment + shift
    )
    worst = float(np.abs(first.control - second.control).max())
    assert worst < 1e-6, f"shift {shift}, scale {scale}: the adjusted metric moved by {worst}"


@pytest.mark.exercise("6.2")
def test_several_covariates_are_used_together() -> None:
    """With two covariates theta solves the least-squares problem of both, not one at a time."""
    control, treatment, x_control, x_treatment = experiment(3, k=2)
    x_control[:, 1] += x_control[:, 0]
    x_treatment[:, 1] += x_treatment[:, 0]
    adjusted = cuped_adjust(control, treatment, x_control, x_treatment)
    x = np.vstack([x_control, x_treatment])
    y = np.concatenate([control, treatment])
    expected = np.linalg.solve(np.cov(x.T), [np.cov(x[:, j], y)[0, 1] for j in (0, 1)])
    assert adjusted.theta == pytest.approx(expected), f"expected {expected}, got {adjusted.theta}"


def test_a_constant_covariate_changes_nothing() -> None:
    control, treatment, x_control, x_treatment = experiment(4)
    adjusted = cuped_adjust(
        control, treatment, np.full_like(x_control, 7), np.full_like(x_treatment, 7)
    )
    assert adjusted.theta == pytest.approx([0])
    assert adjusted.control == pytest.approx(control)


@pytest.mark.parametrize(
    ("covariate", "message"),
    [
        ([1.0, 2.0], r"shape of x = \(2,\) must be one row a unit, \[3\]"),
        ([1.0, np.nan, 2.0], "missing values in x = 1 must be 0"),
    ],
)
def test_unusable_covariates_are_refused(covariate: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_columns("x", covariate, 3)
