"""Cluster randomisation: when one unit's treatment changes what another unit gets.

People who share rooms, drivers or an audience compete for them. If the treatment makes its users
take more, the control users find less; the A/B test sees a difference that is partly a transfer,
and that disappears when everybody is treated. Randomising whole clusters keeps the transfer inside
an arm. The price is variance: there are as many observations as clusters, not as users.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from common.errors import require
from labs.lab6_online_eval.estimates import Estimate, finite, summed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def cluster_randomised(total: ArrayLike, size: ArrayLike, treated: ArrayLike) -> Estimate:
    """The effect on the mean of units, from clusters that were randomised whole.

        m_a = sum_{g in a} total_g / sum_{g in a} size_g
        v_a = G_a / (G_a - 1) sum_{g in a} (total_g - m_a size_g)^2 / (sum_{g in a} size_g)^2
        effect = m_t - m_c,   se^2 = v_t + v_c

    on Satterthwaite's degrees of freedom with ``G_a - 1`` in each arm: clusters, not units.

    Parameters
    ----------
    total
        Sum of the metric over each cluster's units, float [n_clusters].
    size
        Units of each cluster, all > 0; for a ratio metric the sum of its denominator.
    treated
        Bool [n_clusters].

    Raises
    ------
    InputError
        Fewer than two clusters in an arm, a size that is not positive, NaN or infinity, or clusters
        that do not vary.

    Notes
    -----
    Liang & Zeger (1986), Biometrika 73: the cluster-robust variance with the correction
    ``G / (G - 1)`` in each arm. Below about 10 clusters an arm it is too small whatever the
    correction; then use randomisation inference.
    """
    totals, sizes = finite("total", total), finite("size", size)
    treated_clusters = as_arms("treated", treated, len(totals))
    require(len(sizes) == len(totals), "length of size", len(sizes), f"must be {len(totals)}")
    require(float(sizes.min()) > 0, "smallest size", float(sizes.min()), "must be > 0")
    means, pieces, dofs = [], [], []
    for arm in (treated_clusters, ~treated_clusters):
        n, weight = int(arm.sum()), float(sizes[arm].sum())
        mean = float(totals[arm].sum()) / weight
        residual = totals[arm] - mean * sizes[arm]
        means.append(mean)
        pieces.append(n / (n - 1) * float(residual @ residual) / weight**2)
        dofs.append(n - 1.0)
    return summed(means[0] - means[1], np.array(pieces), np.array(dofs))


def as_arms(name: str, treated: ArrayLike, n: int) -> Bools:
    """``treated`` as bool [n]; `InputError` unless both arms have at least two.

    NaN or a third arm would become True, so anything but 0 and 1 is refused.
    """
    arms = np.asarray(treated)
    require(arms.shape == (n,), f"shape of {name}", arms.shape, f"must be [{n}]")
    strange = int(np.count_nonzero((arms != 0) & (arms != 1)))
    require(strange == 0, f"values of {name} other than 0 and 1", strange, "must be 0")
    arms = arms.astype(bool)
    least = min(int(arms.sum()), int((~arms).sum()))
    require(
        least >= 2, "clusters in the smaller arm", least, "must be at least 2", "use more clusters"
    )
    return arms


def sums_by_cluster(values: ArrayLike, cluster: Ints) -> tuple[Floats, Floats]:
    """Total and size of each cluster, float [n_clusters] each; ``cluster`` int [n], 0, 1, 2, ..."""
    metric = finite("values", values)
    require(np.shape(cluster) == metric.shape, "shape of cluster", np.shape(cluster), "must be [n]")
    sizes = np.bincount(cluster)
    return np.asarray(np.bincount(cluster, weights=metric), dtype=float), sizes.astype(float)


def design_effect(size: ArrayLike, icc: float) -> float:
    """How many times larger the variance is than with as many independent units.

    ``1 + (m - 1) icc`` for clusters of m units; for unequal ones m is the size that a unit meets,
    ``sum size^2 / sum size``.

    Notes
    -----
    Kish (1965), Survey Sampling; unequal sizes: Eldridge, Ashby & Kerry (2006).
    """
    sizes = np.atleast_1d(np.asarray(size, dtype=float))
    require(float(sizes.min()) >= 1, "smallest size", float(sizes.min()), "must be at least 1")
    require(-1 <= icc <= 1, "icc", icc, "must be from -1 to 1")
    return float(1 + ((sizes**2).sum() / sizes.sum() - 1) * icc)


def intracluster_correlation(values: ArrayLike, cluster: Ints) -> float:
    """The share of a metric's variance that lies between clusters, by analysis of variance.

        icc = (MSB - MSW) / (MSB + (m0 - 1) MSW),   m0 = (N - sum m_g^2 / N) / (G - 1)

    Donner (1986), A review of inference procedures for the intraclass correlation coefficient.
    """
    totals, sizes = sums_by_cluster(values, cluster)
    metric = np.asarray(values, dtype=float)
    n, g = len(metric), len(totals)
    require(2 <= g < n, "clusters", g, f"must be from 2 to {n - 1}", "some must hold two units")
    require(
        float(sizes.min()) > 0, "smallest cluster", 0, "must hold a unit", "number them 0, 1, …"
    )
    means = totals / sizes
    between = float((sizes * (means - metric.mean()) ** 2).sum()) / (g - 1)
    within = float(((metric - means[cluster]) ** 2).sum()) / (n - g)
    typical = (n - float((sizes**2).sum()) / n) / (g - 1)
    bottom = between + (typical - 1) * within
    require(bottom > 0, "variance of values", 0.0, "must be > 0")
    return (between - within) / bottom


def clusters_needed(
    effect: float,
    variance: float,
    size: float,
    icc: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Clusters in all, half of them treated, to find an absolute effect; t quantiles, even.

    ``G = 2 (t_{1-alpha/2} + t_power)^2 2 variance design_effect / (size effect^2)`` with G - 2
    degrees of freedom, solved by iteration. As size grows it tends to a limit that is not 0:
    larger clusters do not replace more clusters.
    """
    require(effect != 0, "effect", effect, "must not be 0")
    require(variance > 0, "variance", variance, "must be > 0")
    require(0 < alpha < 1 and 0 < power < 1, "alpha, power", (alpha, power), "must be in (0, 1)")
    piece = 4 * variance * design_effect(size, icc) / (size * effect**2)
    clusters = max(4, ceil(piece * float(norm.isf(alpha / 2) + norm.ppf(power)) ** 2))
    while True:
        dof = clusters - 2
        quantiles = float(student_t.isf(alpha / 2, dof) + student_t.ppf(power, dof))
        if clusters >= piece * quantiles**2 and clusters % 2 == 0:
            return clusters
        clusters += 1


@dataclass(frozen=True)
class SharedStock:
    """A simulated world: users in clusters, each cluster sharing a stock that can run out.

    Each user wants ``wish`` items on average (Poisson), a treated one ``1 + lift`` times as many;
    a cluster's taste multiplies it (gamma, mean 1, variance ``taste``). A cluster has ``stock``
    items a user on average (gamma, relative variance ``uneven``). When more is wanted than there
    is, everybody in the cluster gets the same share of their wishes, so what treated users take
    more, others miss.
    """

    n_clusters: int = 60
    size: int = 30
    wish: float = 1.0
    lift: float = 0.2
    stock: float = 1.0
    taste: float = 0.1
    uneven: float = 0.1

    def __post_init__(self) -> None:
        require(self.n_clusters >= 4, "n_clusters", self.n_clusters, "must be at least 4")
        require(self.size >= 2, "size", self.size, "must be at least 2")
        for name in ("wish", "stock", "taste", "uneven"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(self.lift > -1, "lift", self.lift, "must be > -1")

    @property
    def cluster(self) -> Ints:
        """The cluster of each user, int [n_clusters * size]."""
        return np.repeat(np.arange(self.n_clusters), self.size)

    def outcomes(self, treated: Bools, rng: np.random.Generator) -> Floats:
        """What each user gets, float [n]: ``treated`` bool [n]."""
        taste = rng.gamma(1 / self.taste, self.taste, self.n_clusters)[self.cluster]
        wanted = rng.poisson(self.wish * taste * np.where(treated, 1 + self.lift, 1.0))
        demand = np.bincount(self.cluster, weights=wanted)
        stock = self.stock * self.size * rng.gamma(1 / self.uneven, self.uneven, self.n_clusters)
        served = np.minimum(1.0, stock / np.maximum(demand, 1.0))
        return np.asarray(wanted * served[self.cluster])

    def total_effect(self, *, n_clusters: int = 100_000, seed: int = 0) -> float:
        """Everybody treated against nobody, by simulation of many clusters with common chance."""
        rng = np.random.default_rng(seed)
        taste = rng.gamma(1 / self.taste, self.taste, n_clusters)
        mean = self.wish * self.size * taste
        base = rng.poisson(mean)
        more = base + rng.poisson(mean * max(self.lift, 0.0))
        if self.lift < 0:
            more = rng.binomial(base, 1 + self.lift)
        cap = self.stock * self.size * rng.gamma(1 / self.uneven, self.uneven, n_clusters)
        return float((np.minimum(more, cap) - np.minimum(base, cap)).mean()) / self.size


@dataclass(frozen=True)
class Interference:
    """What each design reports of one world, over ``n_experiments``: mean estimate, its spread,
    and the share of 95 % intervals that hold the true total effect. ``as_users`` is the analysis
    of clustered assignment that counts users."""

    true_effect: float
    user_mean: float
    user_sd: float
    user_coverage: float
    cluster_mean: float
    cluster_sd: float
    cluster_coverage: float
    as_users_coverage: float
    icc: float
    design_effect: float
    n_experiments: int


def compare_randomisations(
    world: SharedStock, *, n_experiments: int = 300, seed: int = 0
) -> Interference:
    """User against cluster randomisation on a world whose total effect is known."""
    require(n_experiments >= 20, "n_experiments", n_experiments, "must be at least 20")
    rng = np.random.default_rng(seed)
    truth, cluster = world.total_effect(seed=seed), world.cluster
    n = len(cluster)
    ones = np.ones(n)
    users, clusters, naive, iccs = [], [], [], []
    for _ in range(n_experiments):
        arm = rng.permutation(n) < n // 2
        users.append(cluster_randomised(world.outcomes(arm, rng), ones, arm))
        group = rng.permutation(world.n_clusters) < world.n_clusters // 2
        values = world.outcomes(group[cluster], rng)
        clusters.append(cluster_randomised(*sums_by_cluster(values, cluster), group))
        naive.append(cluster_randomised(values, ones, group[cluster]))
        iccs.append(
            intracluster_correlation(values - clusters[-1].effect * group[cluster], cluster)
        )

    def held(found: list[Estimate]) -> float:
        return float(np.mean([low <= truth <= high for low, high in (e.ci95 for e in found)]))

    icc = float(np.mean(iccs))
    return Interference(
        true_effect=truth,
        user_mean=float(np.mean([e.effect for e in users])),
        user_sd=float(np.std([e.effect for e in users])),
        user_coverage=held(users),
        cluster_mean=float(np.mean([e.effect for e in clusters])),
        cluster_sd=float(np.std([e.effect for e in clusters])),
        cluster_coverage=held(clusters),
        as_users_coverage=held(naive),
        icc=icc,
        design_effect=design_effect(world.size, icc),
        n_experiments=n_experiments,
    )
