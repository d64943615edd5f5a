"""Post-stratification: compare within strata that were known before, then average.

When by chance one arm got more of the heavy users, the raw difference credits them to the
treatment. Inside a stratum that cannot happen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.estimates import Estimate, finite, summed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@exercise(
    "6.17",
    points=8,
    title="A post-stratified effect and its variance",
    hint="Both arms must be averaged with the same weights. Which units say how large a stratum "
    "is? The variance is a sum over strata: weight squared times the variance of the difference.",
)
def post_stratified(
    control: Floats, treatment: Floats, control_stratum: Ints, treatment_stratum: Ints
) -> Estimate:
    """Difference of means within each stratum, averaged by the strata's shares of all units.

        effect = sum_k w_k (mean_tk - mean_ck),   w_k = (n_tk + n_ck) / (n_t + n_c)
        se^2   = sum_k w_k^2 (s_tk^2 / n_tk + s_ck^2 / n_ck)

    with s^2 the sample variances (n - 1) within stratum and arm. The degrees of freedom are
    Satterthwaite's over all these pieces: `estimates.summed`.

    Parameters
    ----------
    control, treatment
        The metric, one value a unit: float [n_control], float [n_treatment].
    control_stratum, treatment_stratum
        The stratum of each unit, int, known *before* the experiment, in the same order.

    Returns
    -------
    Estimate
        For the mean effect on the units at hand.

    Raises
    ------
    InputError
        A stratum with fewer than two units of an arm (merge it with a neighbour), lengths that
        differ, NaN or infinity, or no variance at all.

    Notes
    -----
    Miratrix, Sekhon & Yu (2013), Adjusting treatment effect estimates by post-stratification in
    randomized experiments, JRSS B 75(2).
    """
    control, treatment = finite("control", control), finite("treatment", treatment)
    strata = check_strata(control, treatment, control_stratum, treatment_stratum)
    # BEGIN SOLUTION
    n = len(control) + len(treatment)
    effect, pieces, dofs = 0.0, [], []
    for stratum in strata:
        arms = treatment[treatment_stratum == stratum], control[control_stratum == stratum]
        weight = (len(arms[0]) + len(arms[1])) / n
        effect += weight * (arms[0].mean() - arms[1].mean())
        for arm in arms:
            pieces.append(weight**2 * arm.var(ddof=1) / len(arm))
            dofs.append(len(arm) - 1)
    return summed(effect, np.array(pieces), np.array(dofs))
    # END SOLUTION


def check_strata(
    control: Floats, treatment: Floats, control_stratum: Ints, treatment_stratum: Ints
) -> Ints:
    """The strata in order, int [k]; `InputError` unless each has two units of each arm."""
    counts = []
    for name, values, stratum in (
        ("control", control, control_stratum),
        ("treatment", treatment, treatment_stratum),
    ):
        shape = np.shape(stratum)
        require(shape == values.shape, f"shape of {name}_stratum", shape, f"must be {values.shape}")
        counts.append(dict(zip(*np.unique(stratum, return_counts=True), strict=True)))
    strata = sorted(set(counts[0]) | set(counts[1]))
    for stratum in strata:
        least = min(int(each.get(stratum, 0)) for each in counts)
        require(
            least >= 2,
            f"units of stratum {stratum} in its smaller arm",
            least,
            "must be at least 2",
            "merge it with a neighbouring stratum",
        )
    return np.array(strata)


def quantile_strata(covariate: ArrayLike, k: int) -> Ints:
    """Strata of about equal size by a covariate: int [n], 0 to at most k - 1.

    Cut at the k - 1 inner quantiles; equal values stay together, so there may be fewer strata.
    """
    values = finite("covariate", covariate)
    require(2 <= k <= len(values) // 4, "k", k, f"must be from 2 to {len(values) // 4}")
    cuts = np.unique(np.quantile(values, np.arange(1, k) / k))
    return np.searchsorted(cuts, values, side="right").astype(np.int64)


def dummies(stratum: Ints) -> Floats:
    """Indicator columns of all strata but the first, as covariates for CUPED: float [n, k - 1]."""
    return (np.asarray(stratum)[:, None] == np.unique(stratum)[None, 1:]).astype(float)


def stratified_assignment(
    stratum: Ints, rng: np.random.Generator, *, treated_share: float = 0.5
) -> NDArray[np.bool_]:
    """Who is treated, bool [n]: the same share of every stratum, at random within it.

    Needs all units at once, so it is for shops, cities or servers, which are few and known before;
    a visitor is assigned on arrival and stratified afterwards.
    """
    require(0 < treated_share < 1, "treated_share", treated_share, "must be in (0, 1)", "try 0.5")
    treated = np.zeros(len(stratum), dtype=bool)
    for which in np.unique(stratum):
        members = rng.permutation(np.flatnonzero(stratum == which))
        wanted = treated_share * len(members)
        # an odd unit goes to either arm by chance, or one arm would be larger in every stratum
        treated[members[: int(wanted + rng.random())]] = True
    return treated


@dataclass(frozen=True)
class DesignComparison:
    """Variance of the effect under each design and analysis, as a share of the raw difference's."""

    n_units: int
    n_strata: int
    between_share: float
    post_stratified: float
    cuped_dummies: float
    cuped_continuous: float
    stratified_assignment: float


def compare_designs(
    values: ArrayLike,
    covariate: ArrayLike,
    *,
    n_strata: int = 4,
    n_units: int = 400,
    n_experiments: int = 1000,
    seed: int = 0,
) -> DesignComparison:
    """A/A experiments on units drawn from real ones: how much each way takes off the variance.

    Parameters
    ----------
    values, covariate
        The metric of each unit, and what was known before: float [m] each.
    """
    from labs.lab6_online_eval.cuped import cuped_adjust

    metric, known = finite("values", values), finite("covariate", covariate)
    require(len(known) == len(metric), "length of covariate", len(known), f"must be {len(metric)}")
    rng = np.random.default_rng(seed)
    strata = quantile_strata(known, n_strata)
    columns = dummies(strata)
    names = ("raw", "post_stratified", "cuped_dummies", "cuped_continuous", "stratified")
    effects: dict[str, list[float]] = {name: [] for name in names}
    half = np.arange(n_units) < n_units // 2
    for _ in range(n_experiments):
        who = rng.integers(0, len(metric), n_units)
        c, t = who[~half], who[half]
        effects["raw"].append(metric[t].mean() - metric[c].mean())
        effects["post_stratified"].append(
            post_stratified(metric[c], metric[t], strata[c], strata[t]).effect
        )
        for name, x in (("cuped_dummies", columns), ("cuped_continuous", known[:, None])):
            adjusted = cuped_adjust(metric[c], metric[t], x[c], x[t])
            effects[name].append(float(adjusted.treatment.mean() - adjusted.control.mean()))
        arm = stratified_assignment(strata[who], rng)
        c, t = who[~arm], who[arm]
        effects["stratified"].append(
            post_stratified(metric[c], metric[t], strata[c], strata[t]).effect
        )
    raw = float(np.var(effects["raw"]))
    inside = sum((strata == k).mean() * metric[strata == k].var() for k in np.unique(strata))
    return DesignComparison(
        n_units=n_units,
        n_strata=len(np.unique(strata)),
        between_share=float(1 - inside / metric.var()),
        **{name: float(np.var(effects[name])) / raw for name in names[1:4]},
        stratified_assignment=float(np.var(effects["stratified"])) / raw,
    )
