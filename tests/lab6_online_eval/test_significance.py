"""The two-sample test against published numbers, scipy, and its own promise."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import ttest_ind

from common.data import load
from labs.lab6_online_eval.significance import Moments, compare, compare_moments


def test_the_published_example_of_absolute_and_relative_effects() -> None:
    """gbstats: the same data, p .020 for the difference and .062 for the lift in percent."""
    result = compare_moments(
        Moments.of_sums(3407, 1396.87, 52377.9767), Moments.of_sums(3461, 2422.7, 134698.29)
    )
    assert result.p == pytest.approx(0.0201584, abs=1e-7)
    assert result.relative == pytest.approx(0.7073171, abs=1e-7)
    assert result.relative_ci95 == pytest.approx((-0.0352601, 1.4498942), abs=1e-6)
    assert result.relative_p == pytest.approx(0.0619118, abs=1e-7)


def test_nsw_gives_the_published_effect_and_its_unpooled_standard_error() -> None:
    """1,794.34 dollars; 670.9966 is the unpooled (Welch, HC2) error, not the pooled 632.85."""
    table = load("nsw").table("nsw")
    treated = table["treat"] == 1
    control, treatment = table.loc[~treated, "re78"], table.loc[treated, "re78"]
    result = compare(control, treatment)
    assert result.effect == pytest.approx(1794.3433, abs=2e-3)
    assert result.se == pytest.approx(670.9966, abs=1e-3)
    assert (result.n_control, result.n_treatment) == (260, 185)
    pooled = np.sqrt((259 * control.var() + 184 * treatment.var()) / 443 * (1 / 260 + 1 / 185))
    assert pooled == pytest.approx(632.85, abs=0.01)


def test_it_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    control, treatment = rng.exponential(1, 300), rng.exponential(1.3, 90)
    result = compare(control, treatment)
    expected = ttest_ind(treatment, control, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue)
    assert result.ci95 == pytest.approx((low, high))


def test_cuped_narrows_the_interval_and_says_by_how_much() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    y = x + rng.normal(size=4000)
    plain = compare(y[:2000], y[2000:])
    sharp = compare(y[:2000], y[2000:], control_covariate=x[:2000], treatment_covariate=x[2000:])
    assert plain.variance_reduction == 0
    assert sharp.variance_reduction == pytest.approx(0.5, abs=0.03)
    assert (sharp.se / plain.se) ** 2 == pytest.approx(1 - sharp.variance_reduction)


def test_the_interval_holds_the_true_effect_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(2)
    held = held_relative = 0
    for _ in range(1000):
        x = rng.exponential(1, 400)
        y = x + rng.exponential(1, 400)
        y[200:] += 0.5
        result = compare(y[:200], y[200:], control_covariate=x[:200], treatment_covariate=x[200:])
        held += result.ci95[0] < 0.5 < result.ci95[1]
        assert result.relative_ci95 is not None
        held_relative += result.relative_ci95[0] < 0.25 < result.relative_ci95[1]
    assert 0.93 <= held / 1000 <= 0.97, f"coverage {held / 1000}"
    assert 0.93 <= held_relative / 1000 <= 0.98, f"relative coverage {held_relative / 1000}"


def test_a_smaller_alpha_widens_the_interval() -> None:
    control, treatment = np.arange(50.0), np.arange(50.0) + 1
    wide = compare(control, treatment, alpha=0.01).ci95
    narrow = compare(control, treatment).ci95
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_control_mean_of_zero_has_no_relative_effect() -> None:
    result = compare([-1.0, 1.0], [1.0, 2.0])
    assert result.relative is None
    assert result.relative_ci95 is None


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0], [1.0, 2.0]), {}, "units in control = 1 must be at least 2"),
        (([1.0, np.nan], [1.0, 2.0]), {}, "a unit without events counts as 0"),
        (([[1.0, 2.0]], [1.0, 2.0]), {}, "one value a unit"),
        (([1.0, 1.0], [1.0, 1.0]), {}, "a constant needs no test"),
        (([1.0, 2.0], [1.0, 2.0]), {"alpha": 1.0}, "alpha = 1.0 must be between 0 and 1"),
        (([1.0, 2.0], [1.0, 2.0]), {"control_covariate": [1, 2]}, "for both arms or for none"),
    ],
)
def test_unusable_input_is_refused(
    arguments: tuple[list[float], list[float]], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Moments(1, 0.0, 1.0), "units in treatment = 1 must be at least 2"),
        (Moments(9, float("nan"), 1.0), "mean of treatment = nan must be finite"),
        (Moments(9, 0.0, float("inf")), "variance of treatment = inf must be finite"),
        (Moments(9, 0.0, -1e-9), "variance of treatment = -1e-09 must be finite and >= 0"),
    ],
)
def test_moments_that_cannot_be_tested_are_refused(arm: Moments, message: str) -> None:
    """Sums from a warehouse come unchecked: none of these may become a p-value."""
    with pytest.raises(ValueError, match=re.escape(message)):
        compare_moments(Moments(9, 0.0, 1.0), arm)
