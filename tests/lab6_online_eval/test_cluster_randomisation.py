"""Clusters against users on worlds whose total effect is known, and the cluster-robust error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab6_online_eval.cluster_randomisation import (
    SharedStock,
    cluster_randomised,
    clusters_needed,
    compare_randomisations,
    design_effect,
    intracluster_correlation,
    sums_by_cluster,
)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_the_error_is_the_sandwich_of_statsmodels(seed: int) -> None:
    """A regression on a constant in each arm, clustered: its G / (G - 1) correction is ours."""
    import statsmodels.api as sm

    rng = np.random.default_rng(seed)
    cluster = np.concatenate([np.arange(20), rng.integers(0, 20, 150)])
    values = rng.standard_normal(20)[cluster] + rng.standard_normal(170)
    treated = rng.permutation(20) < 8
    ours = cluster_randomised(*sums_by_cluster(values, cluster), treated)
    means, variances = [], []
    for arm in (treated, ~treated):
        inside = arm[cluster]
        fit = sm.OLS(values[inside], np.ones(inside.sum())).fit(
            cov_type="cluster", cov_kwds={"groups": cluster[inside]}
        )
        means.append(fit.params[0])
        variances.append(fit.bse[0] ** 2)
    assert ours.effect == pytest.approx(means[0] - means[1], rel=1e-9)
    assert ours.se == pytest.approx(np.sqrt(sum(variances)), rel=1e-9)


def test_clusters_of_one_unit_are_welchs_test() -> None:
    from labs.lab6_online_eval.significance import compare

    rng = np.random.default_rng(1)
    values, treated = rng.standard_normal(40), np.arange(40) < 15
    found = cluster_randomised(values, np.ones(40), treated)
    welch = compare(values[~treated], values[treated])
    assert (found.effect, found.se) == pytest.approx((welch.effect, welch.se))
    assert found.p == pytest.approx(welch.p)
    assert found.ci95 == pytest.approx(welch.ci95)


def test_the_design_effect_is_the_ratio_of_variances() -> None:
    """Clusters of 21 with a correlation of .2: five times the variance; unequal sizes more."""
    assert design_effect(21, 0.2) == pytest.approx(5.0)
    assert design_effect([1, 41], 0.2) > design_effect(21, 0.2)
    rng = np.random.default_rng(2)
    levels = np.sqrt(0.2) * rng.standard_normal((20_000, 1))
    means = (levels + np.sqrt(0.8) * rng.standard_normal((20_000, 21))).mean(axis=1)
    assert means.var() * 21 == pytest.approx(5.0, rel=0.04)


def test_the_intracluster_correlation_is_found_for_unequal_sizes() -> None:
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(2000), rng.integers(2, 12, 2000))
    noise = np.sqrt(0.7) * rng.standard_normal(len(cluster))
    values = np.sqrt(0.3) * rng.standard_normal(2000)[cluster] + noise
    assert intracluster_correlation(values, cluster) == pytest.approx(0.3, abs=0.02)


def test_more_users_a_cluster_do_not_replace_clusters() -> None:
    """With icc .05 the number of clusters tends to a limit: 1,000 users a cluster save few."""
    needed = [clusters_needed(0.2, 1.0, size, 0.05) for size in (1, 10, 100, 1000)]
    assert needed[0] == pytest.approx(31.4 / 0.04, rel=0.02)
    assert needed == sorted(needed, reverse=True)
    assert needed[3] > 0.8 * needed[2] > 30


def test_so_many_clusters_have_the_wanted_power() -> None:
    """Simulated with the returned number: 80 % within two and a half points."""
    n = clusters_needed(0.5, 1.0, 20, 0.2)
    rng = np.random.default_rng(4)
    treated = np.arange(n) < n // 2
    sd = np.sqrt(design_effect(20, 0.2) / 20)
    found = [
        cluster_randomised(20 * (0.5 * treated + sd * rng.standard_normal(n)), [20.0] * n, treated)
        for _ in range(2000)
    ]
    assert np.mean([each.p < 0.05 for each in found]) == pytest.approx(0.8, abs=0.025)


def test_users_share_a_stock_so_only_clusters_show_the_total_effect() -> None:
    """Of the gain that randomised users report, more than half is taken from the control."""
    found = compare_randomisations(SharedStock(), n_experiments=120)
    assert found.user_mean > 2 * found.true_effect
    assert found.user_coverage < 0.6
    assert found.cluster_mean == pytest.approx(found.true_effect, abs=0.02)
    assert found.cluster_coverage > 0.9
    assert found.cluster_sd > 1.2 * found.user_sd
    assert found.as_users_coverage < 0.9


def test_with_plenty_of_stock_both_agree() -> None:
    """No competition, no interference: the total effect is the wish's lift, 0.2."""
    world = SharedStock(stock=20.0)
    found = compare_randomisations(world, n_experiments=100)
    assert world.total_effect() == pytest.approx(0.2, abs=0.01)
    assert found.user_mean == pytest.approx(0.2, abs=0.02)
    assert found.cluster_mean == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treated": [True, False, False, False]}, "clusters in the smaller arm = 1"),
        ({"treated": [True, False]}, r"shape of treated = \(2,\) must be \[4\]"),
        ({"size": [1.0, 2.0, 0.0, 1.0]}, "smallest size = 0.0 must be > 0"),
        ({"total": [1.0, 2.0, np.nan, 1.0]}, "values in total that are not finite = 1"),
        ({"total": [2.0, 2.0, 2.0, 2.0]}, "variance of the estimate = 0.0 must be > 0"),
    ],
)
def test_clusters_that_cannot_be_compared_are_refused(options: dict, message: str) -> None:
    given = {
        "total": [1.0, 2.0, 3.0, 5.0],
        "size": [1.0, 1.0, 1.0, 1.0],
        "treated": [True, True, False, False],
    }
    with pytest.raises(ValueError, match=message):
        cluster_randomised(**(given | options))


@pytest.mark.parametrize("third", [np.nan, 2.0])
def test_a_cluster_in_no_arm_is_not_counted_as_treated(third: float) -> None:
    """As a truth value both NaN and a third arm are True; they have to be left out by name."""
    with pytest.raises(InputError, match="other than 0 and 1"):
        cluster_randomised([1.0, 2.0, 3.0, 4.0, 5.0], np.ones(5), [0, 0, 1, 1, third])
