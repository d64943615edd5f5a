"""The propensity score: how likely a unit was to be treated, given what was known before.

Units with the same score are comparable in everything the score was made of. It is first of all a
question to the data: is there anybody to compare with? Where nobody is, this module refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import InputError, require
from labs.lab6_online_eval.causal_estimate import Bools, Estimand, Floats, Study

BOUND = 0.01
MOST_OUTSIDE = 0.10
LEAST_EFFECTIVE = 10.0
STEPS = 50


@dataclass(frozen=True)
class Propensity:
    """A fitted logistic model.

    ``score`` float [n]: P(treated | x); ``design`` float [n, k + 1]: ones and standardised
    covariates, in whose terms ``coefficients`` [k + 1] are.
    """

    score: Floats
    design: Floats
    coefficients: Floats

    @property
    def log_odds(self) -> Floats:
        """Float [n]; distances are taken on this scale, where 0.98 and 0.99 are far apart."""
        return np.asarray(self.design @ self.coefficients)


def fit_propensity(study: Study) -> Propensity:
    """Logistic regression of the treatment on the covariates, without a penalty.

    Raises
    ------
    InputError
        The covariates tell treated from control without error (the likelihood has no maximum):
        there is no overlap, and nothing to compare.
    """
    x = study.covariates
    spread = x.std(axis=0)
    constant = [name for name, value in zip(study.names, spread) if value <= 1e-12]
    require(not constant, "covariates", constant, "must vary", "leave the constant ones out")
    design = np.column_stack([np.ones(study.n), (x - x.mean(axis=0)) / spread])
    coefficients = fit_logistic(design, study.treated.astype(float))
    score = _sigmoid(design @ coefficients)
    return Propensity(score, design, coefficients)


def fit_logistic(design: Floats, outcome: Floats, *, tolerance: float = 1e-10) -> Floats:
    """Maximum likelihood by Newton's method, for one table or for many at once.

        beta <- beta + (X' W X)^-1 X' (y - e),    W = e (1 - e),    e = 1 / (1 + exp(-X beta))

    Parameters
    ----------
    design
        Float [..., n, k]; leading axes are independent tables.
    outcome
        Float [..., n] of 0 and 1.
    tolerance
        Newton's decrement, ``step' X'WX step``, at which to stop.

    Returns
    -------
    float [..., k]

    Raises
    ------
    InputError
        No convergence: in at least one table the columns separate the classes.
    """
    beta = np.zeros((*design.shape[:-2], design.shape[-1]))
    transposed = np.swapaxes(design, -1, -2)
    for _ in range(STEPS):
        e = _sigmoid((design @ beta[..., None])[..., 0])
        gradient = (transposed @ (outcome - e)[..., None])[..., 0]
        hessian = (transposed * (e * (1 - e))[..., None, :]) @ design
        try:
            step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all() or float(np.abs(beta).max()) > 1e4:
            break
        beta = beta + step
        if float((step * gradient).sum(axis=-1).max()) < tolerance:
            e = _sigmoid((design @ beta[..., None])[..., 0])
            # a fit without a single error of any size is a likelihood still on its way to 1
            if float(np.abs(outcome - e).max(axis=-1).min()) < 1e-4:
                break
            return np.asarray(beta)
    raise InputError(
        "the propensity model does not converge: the covariates separate treated from control, or "
        "depend on each other; there is no overlap to estimate from. Leave out the covariate that "
        "decides the treatment, or restrict the study to units that could have gone either way"
    )


@dataclass(frozen=True)
class Overlap:
    """Is there anybody to compare with?

    ``outside``: share of the target population whose score lies beyond the bounds, where the other
    arm is all but absent. ``effective_treated``, ``effective_control``: Kish's effective sample
    size of the weights, ``(sum w)^2 / sum w^2``. ``largest_share``: the most that one unit weighs
    in its arm.
    """

    estimand: Estimand
    outside: float
    effective_treated: float
    effective_control: float
    largest_share: float


def balancing_weights(score: Floats, treated: Bools, estimand: Estimand) -> Floats:
    """Weights [n] that make both arms look like the target population.

        ATE: 1/e and 1/(1-e)      ATT: 1 and e/(1-e)      ATO: 1-e and e

    Notes
    -----
    Li, Morgan & Zaslavsky (2018), Balancing Covariates via Propensity Score Weighting, JASA 113.
    """
    require(
        bool(((score > 0) & (score < 1)).all()),
        "propensity",
        (float(score.min()), float(score.max())),
        "must be strictly between 0 and 1",
        "a unit that could not have gone either way has no weight",
    )
    if estimand is Estimand.ATE:
        return np.where(treated, 1 / score, 1 / (1 - score))
    if estimand is Estimand.ATT:
        return np.where(treated, 1.0, score / (1 - score))
    require(estimand is Estimand.ATO, "estimand", estimand.value, "must be ATE, ATT or ATO")
    return np.where(treated, 1 - score, score)


def effective_size(weights: Floats) -> float:
    """Kish's effective sample size, ``(sum w)^2 / sum w^2``."""
    return float(weights.sum() ** 2 / (weights @ weights))


def overlap(score: Floats, treated: Bools, estimand: Estimand, *, bound: float = BOUND) -> Overlap:
    """How well the arms overlap for an estimand; ``bound``: a score nearer to 0 or 1 is outside."""
    require(0 < bound < 0.5, "bound", bound, "must be between 0 and 0.5", "try 0.01")
    weights = balancing_weights(score, treated, estimand)
    if estimand is Estimand.ATT:
        outside = float((score[treated] > 1 - bound).mean())
    elif estimand is Estimand.ATE:
        outside = float(((score < bound) | (score > 1 - bound)).mean())
    else:
        outside = 0.0
    arms = weights[treated], weights[~treated]
    return Overlap(
        estimand,
        outside,
        effective_size(arms[0]),
        effective_size(arms[1]),
        max(float(arm.max() / arm.sum()) for arm in arms),
    )


def require_overlap(score: Floats, treated: Bools, estimand: Estimand) -> Overlap:
    """`overlap`, or `InputError` where an estimate would be an extrapolation.

    Refused when more than 10 % of the target population has a score within 0.01 of having nobody
    in the other arm, or when the weights of an arm are worth fewer than 10 units.
    """
    found = overlap(score, treated, estimand)
    require(
        found.outside <= MOST_OUTSIDE,
        f"share of the {estimand.value} population without overlap",
        round(found.outside, 4),
        f"must be at most {MOST_OUTSIDE}",
        "trim to the units with overlap, or ask for the effect on the treated (ATT) or on the "
        "overlap (ATO)",
    )
    least = min(found.effective_treated, found.effective_control)
    require(
        least >= LEAST_EFFECTIVE,
        "effective sample size of an arm after weighting",
        round(least, 2),
        f"must be at least {LEAST_EFFECTIVE:g}",
        "a few units carry the whole arm: trim, or collect controls that resemble the treated",
    )
    return found


def trim(score: Floats, low: float = 0.1, high: float = 0.9) -> Bools:
    """Which units to keep: score in [low, high]. bool [n].

    It changes the question: the effect is then that on the units that were kept.

    Notes
    -----
    Crump, Hotz, Imbens & Mitnik (2009), Biometrika 96: 0.1 and 0.9 are near the variance-optimal
    choice in many data sets.
    """
    require(0 <= low < high <= 1, "bounds", (low, high), "must be 0 <= low < high <= 1")
    keep = np.asarray((score >= low) & (score <= high))
    require(bool(keep.any()), "units within the bounds", 0, "must be at least 1")
    return keep


def standardised_differences(
    covariates: Floats, treated: Bools, weights: Floats | None = None
) -> Floats:
    """Standardised mean difference of each covariate, float [k]; beyond 0.1 is called imbalance.

        (weighted mean of the treated - weighted mean of the others) / sqrt((s_t^2 + s_c^2) / 2)

    The variances are of the unweighted arms, so that before and after share a scale.

    Notes
    -----
    Austin (2009), Statistics in Medicine 28. Not a test: its size does not grow with n.
    """
    weights = np.ones(len(treated)) if weights is None else weights
    means = [weights[arm] @ covariates[arm] / weights[arm].sum() for arm in (treated, ~treated)]
    variance = (
        covariates[treated].var(axis=0, ddof=1) + covariates[~treated].var(axis=0, ddof=1)
    ) / 2
    require(bool((variance > 0).all()), "variance of a covariate", 0.0, "must be > 0")
    return np.asarray((means[0] - means[1]) / np.sqrt(variance))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))
