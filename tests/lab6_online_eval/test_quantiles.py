"""Standard errors of quantiles against the density, statsmodels, the bootstrap, and coverage."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy.stats import lognorm

from labs.lab6_online_eval import quantiles

Rows = np.ndarray


def latencies(seed: int, n_units: int, between: float = 0.5) -> tuple[Rows, Rows]:
    """Events of units that differ in level: values and units, float [n], int [n]."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(n_units), rng.geometric(0.2, n_units))
    level = between * rng.standard_normal(n_units)
    return np.exp(level[unit] + 0.5 * rng.standard_normal(len(unit))), unit


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_order_statistics_find_the_error_that_the_density_gives(q: float) -> None:
    """``sqrt(q (1 - q) / n) / f(x)`` with the true density of the lognormal law, on average."""
    n = 4000
    samples = np.random.default_rng(0).lognormal(0, 1, (40, n))
    true = sqrt(q * (1 - q) / n) / lognorm.pdf(lognorm.ppf(q, 1), 1)
    found = np.mean([quantiles.independent_quantile(each, q).se for each in samples])
    assert found == pytest.approx(true, rel=0.08), f"true {true:.4f}, found {found:.4f}"


def test_a_kernel_bandwidth_for_the_bulk_smooths_the_tail_away() -> None:
    """At the p999 the kernel's density is too large, and its standard error too small."""
    n, q = 20_000, 0.999
    samples = np.random.default_rng(1).lognormal(0, 1, (12, n))
    true = sqrt(q * (1 - q) / n) / lognorm.pdf(lognorm.ppf(q, 1), 1)
    kernel = np.mean([quantiles.density_se(each, q) for each in samples])
    middle = np.mean([quantiles.density_se(each, 0.5) for each in samples])
    at_half = sqrt(0.25 / n) / lognorm.pdf(1, 1)
    assert middle == pytest.approx(at_half, rel=0.05)
    assert kernel < 0.85 * true, f"true {true:.3f}, kernel {kernel:.3f}"


def test_with_one_event_a_unit_both_are_the_same() -> None:
    """The delta method's variance of a share is q (1 - q), with n - 1 for n."""
    values = np.random.default_rng(2).lognormal(0, 1, 2000)
    single = quantiles.independent_quantile(values, 0.9)
    clustered = quantiles.clustered_quantile(values, np.arange(2000), 0.9)
    assert clustered.value == single.value
    assert clustered.cdf_se == pytest.approx(single.cdf_se * sqrt(2000 / 1999), rel=1e-9)


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_the_distribution_function_has_statsmodels_clustered_error(q: float) -> None:
    """OLS of "at most the quantile" on a constant, clustered by unit: the same to 1e-9."""
    import statsmodels.api as sm

    values, unit = latencies(3, 300)
    below = (values <= np.quantile(values, q)).astype(float)
    fit = sm.OLS(below, np.ones(len(below))).fit(cov_type="cluster", cov_kwds={"groups": unit})
    assert quantiles.clustered_quantile(values, unit, q).cdf_se == pytest.approx(
        fit.bse[0], abs=1e-9
    )


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_the_bootstrap_over_units_agrees_and_independence_does_not(q: float) -> None:
    """Events of a user resemble each other: taken as independent, the error is half the truth."""
    found, again, naive = [], [], []
    for seed in range(6):
        values, unit = latencies(10 + seed, 600)
        found.append(quantiles.clustered_quantile(values, unit, q).se)
        again.append(quantiles.bootstrap_quantiles(values, unit, q, n_boot=300, seed=seed).std())
        naive.append(quantiles.independent_quantile(values, q).se)
    assert np.mean(found) == pytest.approx(np.mean(again), rel=0.08)
    assert np.mean(naive) < 0.65 * np.mean(found)


def test_the_order_of_events_and_the_names_of_units_do_not_matter() -> None:
    values, unit = latencies(20, 200)
    shuffled = np.random.default_rng(0).permutation(len(values))
    plain = quantiles.clustered_quantile(values, unit, 0.8)
    other = quantiles.clustered_quantile(values[shuffled], (7 * unit + 3)[shuffled], 0.8)
    assert other.se == pytest.approx(plain.se, rel=1e-12)
    assert other.value == plain.value


def test_a_comparison_counts_units_and_scales_with_the_metric() -> None:
    """Milliseconds or seconds: the relative effect and p are the same."""
    (c, cu), (t, tu) = latencies(30, 400), latencies(31, 500)
    slow = quantiles.compare_quantiles(c, 1.3 * t, 0.9, control_unit=cu, treatment_unit=tu)
    in_ms = quantiles.compare_quantiles(1000 * c, 1300 * t, 0.9, control_unit=cu, treatment_unit=tu)
    assert (slow.n_control, slow.n_treatment) == (400, 500)
    assert in_ms.p == pytest.approx(slow.p)
    assert in_ms.relative == pytest.approx(slow.relative)
    assert in_ms.se == pytest.approx(1000 * slow.se)
    alone = quantiles.compare_quantiles(c, 1.3 * t, 0.9)
    assert alone.effect == slow.effect
    assert alone.se < slow.se


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1, 2], 1.0), r"q = 1.0 must be in \(0, 1\)"),
        (([1.0, np.nan], [1, 2], 0.5), "not finite = 1 must be 0"),
        (([1.0, 2.0], [1], 0.5), r"shape of unit = \(1,\) must be \[2\]"),
        (([1.0, 2.0], [1, 1], 0.5), "units = 1 must be at least 2"),
        ((np.arange(50.0), np.arange(50), 0.99), "events for the quantile 0.99 = 50 must be about"),
    ],
)
def test_unusable_quantiles_are_refused(
    arguments: tuple[list[float], list[int], float], message: str
) -> None:
    """A p99 of fifty events has no error that the data could tell."""
    with pytest.raises(ValueError, match=message):
        quantiles.clustered_quantile(*arguments)


def test_a_quantile_inside_a_heap_of_equal_values_is_refused() -> None:
    """Most users have 0 clicks: the median is 0 in every sample, and not normal in any."""
    rng = np.random.default_rng(0)
    zeros = rng.poisson(0.2, 500).astype(float)
    with pytest.raises(ValueError, match="must be > 0"):
        quantiles.compare_quantiles(zeros, zeros, 0.5)
    with pytest.raises(ValueError, match="both arms or for none"):
        quantiles.compare_quantiles(zeros, zeros, 0.5, control_unit=np.arange(500))
