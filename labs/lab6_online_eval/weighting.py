"""Inverse propensity weighting, and weights that balance by construction (entropy balancing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import InputError, require
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    Study,
    check_units,
)
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.propensity import (
    balancing_weights,
    effective_size,
    fit_propensity,
    require_overlap,
)


def horvitz_thompson(
    outcome: Floats, treated: Bools, score: Floats, estimand: Estimand = Estimand.ATE
) -> Estimate:
    """Inverse propensity weighting by the known score, weights as they are.

        (1/m) sum_i w_i (T_i - (1 - T_i)) Y_i        m = n (ATE), or the number treated (ATT)

    Unbiased when the score is the true one. Adding 100 to every outcome changes the estimate,
    because the weights of an arm do not sum to m: use `hajek`.

    Parameters
    ----------
    outcome, treated, score
        [n] each.
    estimand
        ATE or ATT.

    Notes
    -----
    Horvitz & Thompson (1952), JASA 47.
    """
    check_units(outcome, treated)
    require(estimand is not Estimand.ATO, "estimand", estimand.value, "must be ATE or ATT")
    require_overlap(score, treated, estimand)
    weights = balancing_weights(score, treated, estimand)
    scale = 1.0 if estimand is Estimand.ATE else treated.mean()
    terms = np.where(treated, 1.0, -1.0) * weights * outcome / scale
    effect = terms.mean()
    # the number treated is random too: a ratio of two means
    deviation = terms - (effect if estimand is Estimand.ATE else effect * treated / scale)
    return Estimate.of(
        effect,
        np.sqrt(deviation @ deviation) / len(outcome),
        estimand=estimand,
        n_treated=int(treated.sum()),
        n_control=int((~treated).sum()),
    )


def hajek(
    outcome: Floats,
    treated: Bools,
    score: Floats,
    estimand: Estimand = Estimand.ATE,
    *,
    design: Floats | None = None,
) -> Estimate:
    """Inverse propensity weighting with weights that sum to 1 in each arm.

        effect = sum_T w Y / sum_T w  -  sum_C w Y / sum_C w

    The standard error is that of the influence function. With ``design`` the score counts as
    *estimated* by logistic regression on it: what the regression used up of the noise is taken out
    again (the estimated score balances by chance as well, so the error is usually smaller than
    with the true one).

    Parameters
    ----------
    outcome, treated, score
        [n] each.
    estimand
        ATE, ATT or ATO (the overlap weights).
    design
        Float [n, k], as `Propensity.design`; None for a known score.

    Raises
    ------
    InputError
        No overlap (see `propensity.require_overlap`), empty arms, missing values.

    Notes
    -----
    Hajek (1971); Lunceford & Davidian (2004), Statistics in Medicine 23, for the stacked
    estimating equations.
    """
    check_units(outcome, treated)
    require_overlap(score, treated, estimand)
    weights = balancing_weights(score, treated, estimand)
    effect, influence = _weighted_difference(outcome, treated, weights)
    if design is not None:
        slope = _slope_of_weights(score, treated, estimand)
        moved = (slope * influence / weights) @ design
        information = (design * (score * (1 - score))[:, None]).T @ design
        influence = influence + design @ np.linalg.solve(information, moved) * (treated - score)
    return Estimate.of(
        effect,
        float(np.sqrt(influence @ influence)),
        estimand=estimand,
        n_treated=int(treated.sum()),
        n_control=int((~treated).sum()),
    )


def ipw(study: Study, estimand: Estimand = Estimand.ATT) -> Estimate:
    """`hajek` with a logistic propensity score fitted to the covariates."""
    fit = fit_propensity(study)
    return hajek(study.outcome, study.treated, fit.score, estimand, design=fit.design)


@dataclass(frozen=True)
class Balanced:
    """``weights`` float [n]: equal for the treated, and for the controls such that they have the
    treated units' means (each arm sums to 1); ``effective_control``: how many equally weighted
    controls these are worth; ``estimate`` of the ATT.
    """

    weights: Floats
    effective_control: float
    estimate: Estimate


def entropy_weights(covariates: Floats, target: Floats, *, steps: int = 200) -> Floats:
    """The weights nearest to equal whose means are exactly ``target``: float [n], they sum to 1.

        min sum_i w_i log w_i    s.t.    sum_i w_i x_i = target,   sum_i w_i = 1
        w_i = exp(x_i' lambda) / sum_j exp(x_j' lambda)

    solved in the dual by Newton's method with backtracking.

    Parameters
    ----------
    covariates
        Float [n, k] of the controls.
    target
        Float [k]: means of the treated.

    Raises
    ------
    InputError
        No weights give these means: the target lies outside of the controls, so there is no
        overlap.

    Notes
    -----
    Hainmueller (2012), Entropy Balancing for Causal Effects, Political Analysis 20.
    """
    spread = covariates.std(axis=0)
    require(
        bool((spread > 1e-12).all()), "spread of a covariate of the controls", 0.0, "must be > 0"
    )
    x = (covariates - target) / spread
    dual = np.zeros(x.shape[1])
    value, weights = _log_partition(x, dual)
    for _ in range(steps):
        gradient = weights @ x
        if float(np.abs(gradient).max()) < 1e-10:
            return weights
        hessian = (x * weights[:, None]).T @ x - np.outer(gradient, gradient)
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
        size, slope = 1.0, float(gradient @ step)
        while size > 1e-8:
            trial, moved = _log_partition(x, dual - size * step)
            if trial <= value - 1e-4 * size * slope:
                break
            size /= 2
        else:
            break
        dual, value, weights = dual - size * step, trial, moved
    if float(np.abs(weights @ x).max()) < 1e-6:
        return weights
    raise InputError(
        "no weights of the controls have the means of the treated: the treated lie outside of the "
        "controls, so there is no overlap. Leave covariates out, or find controls that are alike"
    )


def entropy_balancing(study: Study) -> Balanced:
    """The ATT with controls weighted to the treated units' covariate means, exactly.

    The error is that of the regression of the outcome on the treatment and the covariates with
    these weights (HC2): weighting has removed the part that the covariates explain, and an error
    that does not know it would be too wide.
    """
    treated = study.treated
    controls = entropy_weights(study.covariates[~treated], study.covariates[treated].mean(axis=0))
    effective = effective_size(controls)
    require(
        effective >= 10,
        "effective number of controls",
        round(effective, 2),
        "must be at least 10",
        "a few controls carry the comparison: balance fewer covariates",
    )
    weights = np.empty(study.n)
    weights[treated] = 1 / treated.sum()
    weights[~treated] = controls
    effect, _ = _weighted_difference(study.outcome, treated, weights)
    scale = study.covariates.std(axis=0)
    centred = (study.covariates - study.covariates[treated].mean(axis=0)) / scale
    fit = least_squares(
        with_intercept(centred, treated.astype(float)), study.outcome, weights=weights
    )
    estimate = Estimate.of(
        effect,
        float(fit.se[1]),
        estimand=Estimand.ATT,
        n_treated=int(treated.sum()),
        n_control=int((~treated).sum()),
    )
    return Balanced(weights, effective, estimate)


def _weighted_difference(outcome: Floats, treated: Bools, weights: Floats) -> tuple[float, Floats]:
    """The difference of weighted means, and each unit's influence on it (they sum to 0)."""
    influence = np.empty(len(outcome))
    means = []
    for arm, sign in ((treated, 1.0), (~treated, -1.0)):
        share = weights[arm] / weights[arm].sum()
        mean = share @ outcome[arm]
        influence[arm] = sign * share * (outcome[arm] - mean)
        means.append(mean)
    return float(means[0] - means[1]), influence


def _slope_of_weights(score: Floats, treated: Bools, estimand: Estimand) -> Floats:
    """Derivative of each weight by its log odds, float [n]."""
    e = score
    if estimand is Estimand.ATE:
        return np.where(treated, -(1 - e) / e, e / (1 - e))
    if estimand is Estimand.ATT:
        return np.where(treated, 0.0, e / (1 - e))
    return np.where(treated, -1.0, 1.0) * e * (1 - e)


def _log_partition(x: Floats, dual: Floats) -> tuple[float, Floats]:
    exponent = x @ dual
    largest = float(exponent.max())
    parts = np.exp(exponent - largest)
    total = float(parts.sum())
    return largest + float(np.log(total)), parts / total
