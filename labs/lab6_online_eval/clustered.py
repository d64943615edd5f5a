"""Events in users, users in countries: the variance when rows are not independent.

What is randomised together is one observation, however many rows it has. The cluster-robust
("sandwich") variance lets rows of a cluster resemble each other in any way and only needs that
*clusters* are independent, and that there are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.estimates import Estimate, finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW = 40
"""Below this number of clusters the sandwich is too small on average: the usual rule of thumb."""


@exercise(
    "6.11",
    points=10,
    title="Cluster-robust covariance of least squares",
    hint="With independent rows the middle of the sandwich is a sum of e_i^2 x_i x_i^T over rows. "
    "If rows of a cluster may go up and down together, what has to be added up before it is "
    "squared? And the corrections: one for few clusters, one for the columns.",
)
def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    """The covariance of least-squares coefficients when rows are independent between clusters only.

        V = c (X^T X)^-1 ( sum_g s_g s_g^T ) (X^T X)^-1,    s_g = sum over rows i of g of x_i e_i
        c = G / (G - 1) * (n - 1) / (n - k)

    Parameters
    ----------
    design
        X, float [n, k] of full column rank: an intercept, the treatment, covariates.
    residual
        ``y - X beta``, float [n].
    cluster
        The cluster of each row, int [n]: numbers from 0 to G - 1, each with at least one row.

    Returns
    -------
    float [k, k]

    Notes
    -----
    Liang & Zeger (1986), Biometrika 73; the correction c is called CR1. Without it (CR0) the
    covariance is too small when clusters are few.
    """
    # BEGIN SOLUTION
    n, k = design.shape
    n_clusters = int(cluster.max()) + 1
    score = np.zeros((n_clusters, k))
    np.add.at(score, cluster, design * residual[:, None])
    bread = np.linalg.inv(design.T @ design)
    correction = n_clusters / (n_clusters - 1) * (n - 1) / (n - k)
    return np.asarray(correction * bread @ (score.T @ score) @ bread)
    # END SOLUTION


@dataclass(frozen=True)
class ClusteredComparison:
    """The effect on the mean of rows, with the standard error of clusters.

    Attributes
    ----------
    estimate
        Effect, CR1 standard error, and ``G - 2`` degrees of freedom: clusters less one an arm.
    naive_se
        What the standard error would be if rows were independent.
    mean_control, mean_treatment
        Over rows.
    n_clusters
        In both arms together.
    """

    estimate: Estimate
    naive_se: float
    mean_control: float
    mean_treatment: float
    n_clusters: int

    @property
    def design_effect(self) -> float:
        """How many times larger the variance is than that of as many independent rows."""
        return (self.estimate.se / self.naive_se) ** 2

    @property
    def warning(self) -> str | None:
        """What to say beside the result when clusters are few, or None."""
        if self.n_clusters >= FEW:
            return None
        return (
            f"{self.n_clusters} clusters: below {FEW} the standard error is too small on average; "
            "use a permutation test over clusters"
        )


def compare_clustered(
    control: ArrayLike,
    control_cluster: ArrayLike,
    treatment: ArrayLike,
    treatment_cluster: ArrayLike,
) -> ClusteredComparison:
    """Treatment against control on rows that come in clusters, by least squares on the arm.

    Parameters
    ----------
    control, treatment
        One value a row, float [n].
    control_cluster, treatment_cluster
        The cluster of each row: what was randomised. None may be in both arms.

    Raises
    ------
    InputError
        Fewer than two clusters in an arm, one that is in both, values that are not finite, or a
        metric that does not vary between clusters.

    Notes
    -----
    For two arms CR0 is the delta method of a ratio, ``sum of values / number of rows`` over
    clusters, exactly: a regression and `ratio_metrics` say the same thing (Deng, Lu & Qin 2021,
    The Equivalence of the Delta Method and the Cluster-Robust Variance Estimator).
    """
    rows = [finite("control", control), finite("treatment", treatment)]
    names = [
        _labels("control_cluster", control_cluster, len(rows[0])),
        _labels("treatment_cluster", treatment_cluster, len(rows[1])),
    ]
    n = [len(each) for each in rows]
    found, cluster = np.unique(np.concatenate(names), return_inverse=True)
    present = [np.bincount(c, minlength=len(found)) > 0 for c in np.split(cluster, n[:1])]
    shared = int((present[0] & present[1]).sum())
    require(shared == 0, "clusters in both arms", shared, "must be 0")
    for name, arm in zip(("control", "treatment"), present):
        require(int(arm.sum()) >= 2, f"clusters in {name}", int(arm.sum()), "must be at least 2")
    y, treated = np.concatenate(rows), np.repeat([0.0, 1.0], n)
    design = np.column_stack([np.ones(len(y)), treated])
    means = [float(each.mean()) for each in rows]
    residual = y - np.where(treated == 1, means[1], means[0])
    variance = float(cluster_robust_covariance(design, residual, cluster)[1, 1])
    naive = sum(float(each.var(ddof=1)) / len(each) for each in rows)
    require(naive > 0, "variance of the metric", 0.0, "must be > 0", "a constant needs no test")
    require(variance > 0, "variance between clusters", variance, "must be > 0")
    return ClusteredComparison(
        estimate=Estimate(means[1] - means[0], variance**0.5, len(found) - 2.0),
        naive_se=naive**0.5,
        mean_control=means[0],
        mean_treatment=means[1],
        n_clusters=len(found),
    )


@dataclass(frozen=True)
class FewClusters:
    """A/A false positives at 5 % by number of clusters in both arms together.

    ``rows`` takes rows as independent; ``cr0`` and ``cr1`` are the sandwich without and with its
    correction, against the normal law; ``cr1_t`` with G - 2 degrees of freedom.
    """

    n_clusters: int
    rows: float
    cr0: float
    cr1: float
    cr1_t: float
    n: int


def study_few_clusters(
    *,
    clusters: Sequence[int] = (6, 10, 20, 40, 100, 200),
    rows_a_cluster: int = 20,
    icc: float = 0.1,
    treated_share: float = 0.5,
    n: int = 4000,
    seed: int = 0,
) -> tuple[FewClusters, ...]:
    """How many clusters are many? A/A experiments on clusters of equal size.

    Drawn through each cluster's mean and squares, exactly, so that rows need not exist.

    Parameters
    ----------
    clusters
        Numbers of clusters to try, at least 4.
    rows_a_cluster, icc
        Rows of each cluster, and the share of a row's variance that its cluster decides.
    treated_share
        Of the clusters.

    Raises
    ------
    InputError
        Fewer than two clusters in an arm, or an icc outside [0, 1].
    """
    require(0 <= icc <= 1, "icc", icc, "must be from 0 to 1")
    rng = np.random.default_rng(seed)
    m, found = rows_a_cluster, []
    for g in clusters:
        treated = round(g * treated_share)
        least = min(treated, g - treated)
        require(least >= 2, "clusters in the smaller arm", least, "must be at least 2")
        mean = rng.standard_normal((n, g)) * np.sqrt(icc + (1 - icc) / m)
        within = (1 - icc) * rng.chisquare(m - 1, (n, g))
        effect, cr0, rows = np.zeros(n), np.zeros(n), np.zeros(n)
        for sign, part in ((1, slice(0, treated)), (-1, slice(treated, g))):
            size = part.stop - part.start
            centred = mean[:, part] - mean[:, part].mean(axis=1, keepdims=True)
            between = (centred**2).sum(axis=1)
            effect += sign * mean[:, part].mean(axis=1)
            cr0 += between / size**2
            rows += (within[:, part].sum(axis=1) + m * between) / (size * m - 1) / (size * m)
        cr1 = cr0 * g / (g - 1) * (g * m - 1) / (g * m - 2)
        z, t = student_t.isf(0.025, 1e9), student_t.isf(0.025, g - 2)

        def share(variance: Floats, critical: float, effect: Floats = effect) -> float:
            return float((np.abs(effect) > critical * np.sqrt(variance)).mean())

        found.append(FewClusters(g, share(rows, z), share(cr0, z), share(cr1, z), share(cr1, t), n))
    return tuple(found)


def _labels(name: str, labels: ArrayLike, n: int) -> NDArray[np.generic]:
    array = np.asarray(labels)
    require(array.shape == (n,), f"shape of {name}", array.shape, f"must be [{n}], one a row")
    return array
