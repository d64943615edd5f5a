"""Augmented inverse propensity weighting: two models, of which one may be wrong.

A regression says what every unit's outcome would have been in each arm; the propensity weights the
errors of that regression and adds them. If either model is right the estimate is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    Study,
    check_finite,
    check_units,
)
from labs.lab6_online_eval.propensity import fit_logistic, require_overlap

Learner = Callable[[], Any]


@exercise(
    "6.24",
    points=10,
    title="The augmented inverse propensity estimate and its standard error",
    hint="Start from the difference of the two predictions. Whose prediction errors are seen, and "
    "how many units like them are not? The estimate is a mean of independent terms.",
)
def aipw_estimate(
    outcome: Floats,
    treated: Bools,
    propensity: Floats,
    control_outcome: Floats,
    treated_outcome: Floats,
) -> tuple[float, float]:
    """The mean effect on everybody from a regression and a propensity, and its standard error.

        psi_i = m1_i - m0_i + T_i (Y_i - m1_i) / e_i - (1 - T_i) (Y_i - m0_i) / (1 - e_i)
        effect = mean of psi        se = s(psi) / sqrt(n),  s with n - 1

    Parameters
    ----------
    outcome, treated
        Float [n], bool [n].
    propensity
        Float [n] in (0, 1): e, the probability of being treated.
    control_outcome, treated_outcome
        Float [n]: m0 and m1, each unit's predicted outcome in either arm, from a model that has
        not seen the unit.

    Returns
    -------
    (effect, se)

    Notes
    -----
    Robins, Rotnitzky & Zhao (1994), JASA 89; Chernozhukov et al. (2018), Double/debiased machine
    learning, Econometrics Journal 21, for models that are learned on other folds.
    """
    # BEGIN SOLUTION
    psi = (
        treated_outcome
        - control_outcome
        + treated * (outcome - treated_outcome) / propensity
        - ~treated * (outcome - control_outcome) / (1 - propensity)
    )
    return float(psi.mean()), float(psi.std(ddof=1) / np.sqrt(len(psi)))
    # END SOLUTION


@dataclass(frozen=True)
class Nuisances:
    """What the two models say of units that they were not fitted on: float [n] each."""

    propensity: Floats
    control_outcome: Floats
    treated_outcome: Floats


class LeastSquaresModel:
    """Linear regression with ``fit`` and ``predict``, as scikit-learn's."""

    def fit(self, x: Floats, y: Floats) -> LeastSquaresModel:
        """x float [n, k], y float [n]."""
        self.centre, self.scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
        design = np.column_stack([np.ones(len(x)), (x - self.centre) / self.scale])
        self.coefficients = np.linalg.lstsq(design, y, rcond=1e-10)[0]
        return self

    def predict(self, x: Floats) -> Floats:
        """Float [n]."""
        standard = (x - self.centre) / self.scale
        return np.asarray(self.coefficients[0] + standard @ self.coefficients[1:])


class LogisticModel:
    """Logistic regression without a penalty, with ``fit`` and ``predict_proba``."""

    def fit(self, x: Floats, y: Floats) -> LogisticModel:
        """x float [n, k], y [n] of 0 and 1."""
        self.centre, self.scale = x.mean(axis=0), x.std(axis=0)
        varies = self.scale > 1e-12
        self.scale = np.where(varies, self.scale, 1.0)
        self.columns = np.flatnonzero(varies)
        self.coefficients = fit_logistic(self._design(x), np.asarray(y, dtype=float))
        return self

    def predict_proba(self, x: Floats) -> Floats:
        """Float [n, 2]: of 0 and of 1."""
        ones = 1 / (1 + np.exp(-np.clip(self._design(x) @ self.coefficients, -500, 500)))
        return np.column_stack([1 - ones, ones])

    def _design(self, x: Floats) -> Floats:
        standard = ((x - self.centre) / self.scale)[:, self.columns]
        return np.column_stack([np.ones(len(x)), standard])


def stratified_folds(treated: Bools, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each unit, int [n], with both arms spread evenly over the folds."""
    require(folds >= 2, "folds", folds, "must be at least 2", "try 5")
    smallest = int(min(treated.sum(), (~treated).sum()))
    require(smallest >= 2 * folds, "units in the smaller arm", smallest, f"must be {2 * folds}")
    rng = np.random.default_rng(seed)
    number = np.empty(len(treated), dtype=np.int64)
    for arm in (treated, ~treated):
        count = int(arm.sum())
        number[arm] = rng.permutation(np.arange(count) % folds)
    return number


def cross_fit(
    study: Study,
    *,
    folds: int = 5,
    seed: int = 0,
    outcome_model: Learner = LeastSquaresModel,
    propensity_model: Learner = LogisticModel,
    fold_of: NDArray[np.int64] | None = None,
) -> Nuisances:
    """Each unit's propensity and two outcomes, by models fitted on the other folds.

    A flexible model fitted on the unit itself has learned part of that unit's noise, and the
    residual that the correction needs is no longer there.

    Parameters
    ----------
    outcome_model, propensity_model
        Make a fresh model: a class, or a function without arguments. scikit-learn's regressors and
        classifiers will do.
    fold_of
        Int [n]: the fold of each unit, to compare with another program; drawn by ``seed`` if None.
    """
    folds_of = stratified_folds(study.treated, folds, seed) if fold_of is None else fold_of
    e, m0, m1 = (np.empty(study.n) for _ in range(3))
    for fold in np.unique(folds_of):
        inside = folds_of == fold
        x, t, y = (part[~inside] for part in (study.covariates, study.treated, study.outcome))
        e[inside] = propensity_model().fit(x, t).predict_proba(study.covariates[inside])[:, 1]
        for arm, into in ((~t, m0), (t, m1)):
            into[inside] = outcome_model().fit(x[arm], y[arm]).predict(study.covariates[inside])
    return Nuisances(e, m0, m1)


def aipw(study: Study, nuisances: Nuisances) -> Estimate:
    """`aipw_estimate` of everybody's mean effect, refused where there is no overlap."""
    _check(study, nuisances)
    require_overlap(nuisances.propensity, study.treated, Estimand.ATE)
    effect, se = aipw_estimate(
        study.outcome,
        study.treated,
        nuisances.propensity,
        nuisances.control_outcome,
        nuisances.treated_outcome,
    )
    n_treated = int(study.treated.sum())
    return Estimate.of(
        effect,
        se,
        estimand=Estimand.ATE,
        n_treated=n_treated,
        n_control=study.n - n_treated,
    )


def aipw_treated(study: Study, nuisances: Nuisances) -> Estimate:
    """The doubly robust effect on the treated: needs the model of the untreated outcome only.

        psi_i = [ T_i (Y_i - m0_i) - (1 - T_i) e_i / (1 - e_i) (Y_i - m0_i) ] / mean(T)

    with the controls' weights made to sum to the number treated.

    Notes
    -----
    Mercatanti & Li (2014), Annals of Applied Statistics 8. Error from the influence function
    ``psi_i - T_i effect / mean(T)``.
    """
    _check(study, nuisances)
    t, e = study.treated, nuisances.propensity
    require_overlap(e, t, Estimand.ATT)
    residual = study.outcome - nuisances.control_outcome
    odds = np.where(t, 0.0, e / (1 - e))
    n_treated = int(t.sum())
    mean_treated = residual[t].mean()
    mean_control = float(odds @ residual / odds.sum())
    effect = float(mean_treated - mean_control)
    influence = (
        t * (residual - mean_treated) / n_treated - odds * (residual - mean_control) / odds.sum()
    )
    return Estimate.of(
        effect,
        float(np.sqrt(influence @ influence)),
        estimand=Estimand.ATT,
        n_treated=n_treated,
        n_control=study.n - n_treated,
    )


def _check(study: Study, nuisances: Nuisances) -> None:
    check_units(study.outcome, study.treated)
    for name in ("propensity", "control_outcome", "treated_outcome"):
        values = getattr(nuisances, name)
        require(
            values.shape == (study.n,), f"shape of {name}", values.shape, f"must be ({study.n},)"
        )
        check_finite(name, values)
