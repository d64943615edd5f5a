"""Exercise 6.11, and clustered comparisons against statsmodels and the delta method."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import clustered
from labs.lab6_online_eval.ratio_metrics import RatioArm, compare_ratios

Rows = np.ndarray


def rows(seed: int, n_clusters: int = 60, icc: float = 0.3) -> tuple[Rows, Rows, Rows]:
    """Design [n, 3], values [n] and clusters [n]: arms by cluster, a covariate by row."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 15, n_clusters)
    cluster = np.repeat(np.arange(n_clusters), size)
    treated = (np.arange(n_clusters) % 3 == 0)[cluster].astype(float)
    x = rng.standard_normal(len(cluster))
    level = np.sqrt(icc) * rng.standard_normal(n_clusters)
    y = 1 + 0.3 * treated + 0.5 * x + level[cluster] + rng.standard_normal(len(cluster))
    return np.column_stack([np.ones(len(y)), treated, x]), y, cluster


def residual_of(design: Rows, y: Rows) -> Rows:
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


@pytest.mark.exercise("6.11")
def test_four_rows_in_two_clusters_by_hand() -> None:
    """One column of ones, residuals 1, 1, -1, -1: the clusters' sums are 2 and -2.

    ``(X'X)^-1 = 1/4``, the middle is 4 + 4 = 8, the correction 2/1 * 3/3: V = 2 * 8 / 16 = 1.
    Rows on their own would give 4/3 / 4 = 1/3: a third of it.
    """
    found = clustered.cluster_robust_covariance(
        np.ones((4, 1)), np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1])
    )
    assert found.shape == (1, 1), f"expected the shape (1, 1), got {found.shape}"
    assert found[0, 0] == pytest.approx(1.0), f"expected 1.0, got {found[0, 0]:.6f}"


@pytest.mark.exercise("6.11")
def test_clusters_of_one_row_are_independent_rows() -> None:
    """Then the middle is ``sum e^2 x x'``, White's, and the correction n / (n - k), called HC1."""
    design, y, _ = rows(0)
    residual = residual_of(design, y)
    n, k = design.shape
    bread = np.linalg.inv(design.T @ design)
    expected = n / (n - k) * bread @ (design.T * residual**2) @ design @ bread
    found = clustered.cluster_robust_covariance(design, residual, np.arange(n))
    assert found == pytest.approx(expected, rel=1e-9), f"expected\n{expected}\ngot\n{found}"


@pytest.mark.exercise("6.11")
def test_a_copy_of_every_row_adds_no_information() -> None:
    """Each row twice within its cluster: every coefficient is as uncertain as before.

    Up to the correction for columns, (n - 1) / (n - k), which knows the number of rows.
    """
    design, y, cluster = rows(1)
    residual = residual_of(design, y)
    n, k = design.shape
    once = clustered.cluster_robust_covariance(design, residual, cluster)
    twice = clustered.cluster_robust_covariance(
        np.repeat(design, 2, axis=0), np.repeat(residual, 2), np.repeat(cluster, 2)
    )
    expected = once * (n - k) / (n - 1) * (2 * n - 1) / (2 * n - k)
    assert twice == pytest.approx(expected, rel=1e-9), (
        f"expected a variance of {expected[1, 1]:.6f} for the treatment, got {twice[1, 1]:.6f}"
    )


@pytest.mark.exercise("6.11")
def test_it_is_the_spread_of_the_effect_over_repeated_experiments() -> None:
    """400 experiments on 60 clusters: the standard errors are near the spread of the estimates."""
    effects, errors = [], []
    for seed in range(400):
        design, y, cluster = rows(seed)
        design = design[:, :2]
        residual = residual_of(design, y)
        effects.append(np.linalg.lstsq(design, y, rcond=None)[0][1])
        covariance = clustered.cluster_robust_covariance(design, residual, cluster)
        errors.append(np.sqrt(covariance[1, 1]))
    spread, found = np.std(effects), np.mean(errors)
    assert found == pytest.approx(spread, rel=0.12), f"spread {spread:.4f}, found {found:.4f}"


@pytest.mark.parametrize("seed", range(3))
def test_the_covariance_equals_statsmodels(seed: int) -> None:
    """cov_type="cluster" with its small-sample correction, to 1e-9."""
    import statsmodels.api as sm

    design, y, cluster = rows(seed)
    fit = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": cluster})
    found = clustered.cluster_robust_covariance(design, residual_of(design, y), cluster)
    np.testing.assert_allclose(found, fit.cov_params(), atol=1e-9)


def test_a_comparison_equals_statsmodels_and_the_delta_method() -> None:
    """The regression's CR1 error is the delta method's, but for the small-sample factors."""
    import statsmodels.api as sm

    design, y, cluster = rows(5, 200)
    treated = design[:, 1] == 1
    mine = clustered.compare_clustered(y[~treated], cluster[~treated], y[treated], cluster[treated])
    fit = sm.OLS(y, design[:, :2]).fit(cov_type="cluster", cov_kwds={"groups": cluster})
    assert mine.estimate.effect == pytest.approx(fit.params[1], abs=1e-9)
    assert mine.estimate.se == pytest.approx(fit.bse[1], abs=1e-9)
    sums, size = np.bincount(cluster, y), np.bincount(cluster).astype(float)
    arm = np.arange(200) % 3 == 0
    delta = compare_ratios(RatioArm(sums[~arm], size[~arm]), RatioArm(sums[arm], size[arm]))
    assert mine.estimate.effect == pytest.approx(delta.effect, abs=1e-9)
    n = len(y)
    cr0 = mine.estimate.se**2 / (200 / 199 * (n - 1) / (n - 2))
    parts = 0.0
    for part in (arm, ~arm):
        error = sums[part] - sums[part].sum() / size[part].sum() * size[part]
        parts += float(error @ error) / size[part].sum() ** 2
    assert cr0 == pytest.approx(parts, rel=1e-9)
    assert mine.estimate.se == pytest.approx(delta.se, rel=0.01)


def test_the_design_effect_is_what_rows_would_have_hidden() -> None:
    """About 1 + (m - 1) icc for clusters of m rows."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(2000), 10)
    y = np.sqrt(0.2) * rng.standard_normal(2000)[cluster]
    y += np.sqrt(0.8) * rng.standard_normal(20_000)
    half = 10_000
    found = clustered.compare_clustered(y[:half], cluster[:half], y[half:], cluster[half:])
    assert found.design_effect == pytest.approx(1 + 9 * 0.2, rel=0.1)
    assert found.warning is None


def test_few_clusters_come_with_a_warning() -> None:
    design, y, cluster = rows(6, 12)
    treated = design[:, 1] == 1
    found = clustered.compare_clustered(
        y[~treated], cluster[~treated], y[treated], cluster[treated]
    )
    assert found.warning is not None
    assert "12 clusters: below 40" in found.warning


def test_false_positives_by_the_number_of_clusters() -> None:
    """Rows as independent: far above 5 % at any number. The sandwich: from about 40 on.

    With six clusters the correction and Student's law together come near 5 %.
    """
    few, many = clustered.study_few_clusters(clusters=[6, 200], n=4000)
    assert many.rows > 0.2
    assert many.cr1_t == pytest.approx(0.05, abs=0.012)
    assert few.cr0 > few.cr1 > few.cr1_t
    assert few.cr0 > 0.12
    uneven = clustered.study_few_clusters(clusters=[20], treated_share=0.1, n=4000)[0]
    assert uneven.cr1_t > 0.1  # two treated clusters: no correction knows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0, 0], [1.0, 2.0], [1, 2]), "clusters in control = 1 must be at"),
        (([1.0, 2.0], [0, 1], [1.0, 2.0], [1, 2]), "clusters in both arms = 1 must be 0"),
        (([1.0, np.inf], [0, 1], [1.0, 2.0], [2, 3]), "not finite = 1 must be 0"),
        (([1.0, 2.0], [0], [1.0, 2.0], [2, 3]), "shape of control_cluster"),
        (([1.0, 1.0], [0, 1], [2.0, 2.0], [2, 3]), "a constant needs no test"),
    ],
)
def test_unusable_clusters_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clustered.compare_clustered(*arguments)


def test_a_study_without_two_clusters_an_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters in the smaller arm = 1"):
        clustered.study_few_clusters(clusters=[3])
