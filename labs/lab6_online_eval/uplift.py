"""Uplift: for whom does it work? Effects by covariates, learned by four meta-learners.

Nobody shows both outcomes, so no error of a single prediction can be computed; what a learner's
*ranking* is worth can be (see `uplift_metrics`), if the treatment was randomised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import require
from labs.lab6_online_eval.causal_estimate import Floats, Study
from labs.lab6_online_eval.doubly_robust import (
    LeastSquaresModel,
    LogisticModel,
    cross_fit,
)
from labs.lab6_online_eval.propensity import Estimand, require_overlap

Learner = Callable[[], Any]
Uplift = Callable[[Floats], Floats]


def s_learner(study: Study, model: Learner = LeastSquaresModel) -> Uplift:
    """One model of the outcome with the treatment as a column: ``mu(x, 1) - mu(x, 0)``.

    A linear model without interactions gives everybody the same effect; a regularised one shrinks
    the effect to nothing, for the treatment is only one column among many.
    """
    fitted = model().fit(np.column_stack([study.covariates, study.treated]), study.outcome)

    def uplift(x: Floats) -> Floats:
        ones = np.ones(len(x))
        with_, without = (fitted.predict(np.column_stack([x, arm * ones])) for arm in (1.0, 0.0))
        return np.asarray(with_ - without)

    return uplift


def t_learner(study: Study, model: Learner = LeastSquaresModel) -> Uplift:
    """A model an arm: ``mu_1(x) - mu_0(x)``. The errors of two models add up."""
    fitted = _by_arm(study, model)
    return lambda x: np.asarray(fitted[1].predict(x) - fitted[0].predict(x))


def x_learner(
    study: Study, model: Learner = LeastSquaresModel, propensity_model: Learner = LogisticModel
) -> Uplift:
    """Impute each unit's effect by the other arm's model, and learn that: for unequal arms.

        D_1 = Y - mu_0(x) of the treated        D_0 = mu_1(x) - Y of the controls
        tau(x) = e(x) tau_0(x) + (1 - e(x)) tau_1(x)

    Notes
    -----
    Kunzel, Sekhon, Bickel & Yu (2019), Metalearners for estimating heterogeneous treatment effects,
    PNAS 116.
    """
    fitted = _by_arm(study, model)
    x, t = study.covariates, study.treated
    of_treated = model().fit(x[t], study.outcome[t] - fitted[0].predict(x[t]))
    of_control = model().fit(x[~t], fitted[1].predict(x[~t]) - study.outcome[~t])
    propensity = propensity_model().fit(x, t)

    def uplift(new: Floats) -> Floats:
        e = propensity.predict_proba(new)[:, 1]
        return np.asarray(e * of_control.predict(new) + (1 - e) * of_treated.predict(new))

    return uplift


def dr_learner(
    study: Study,
    model: Learner = LeastSquaresModel,
    propensity_model: Learner = LogisticModel,
    final_model: Learner | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Uplift:
    """Regress the doubly robust terms psi of `doubly_robust.aipw_estimate` on the covariates.

    Their expectation given x is the effect at x, if the propensity *or* the outcome model is
    right. In an observational study it is the learner of choice.

    Raises
    ------
    InputError
        No overlap.

    Notes
    -----
    Kennedy (2023), Towards optimal doubly robust estimation of heterogeneous causal effects,
    Electronic Journal of Statistics 17.
    """
    nuisances = cross_fit(
        study, folds=folds, seed=seed, outcome_model=model, propensity_model=propensity_model
    )
    require_overlap(nuisances.propensity, study.treated, Estimand.ATE)
    e, m0, m1 = nuisances.propensity, nuisances.control_outcome, nuisances.treated_outcome
    t, y = study.treated, study.outcome
    psi = m1 - m0 + t * (y - m1) / e - ~t * (y - m0) / (1 - e)
    final = (final_model or model)().fit(study.covariates, psi)
    return lambda x: np.asarray(final.predict(x))


def boosted_trees() -> Any:
    """scikit-learn's histogram gradient boosting, shallow: the default of the lab's runs."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=80, max_leaf_nodes=8, learning_rate=0.08, min_samples_leaf=40, random_state=0
    )


@dataclass(frozen=True)
class Campaign:
    """A simulated campaign: ``study``, with each unit's true effect ``uplift`` float [n]."""

    study: Study
    uplift: Floats


def simulate_campaign(rng: np.random.Generator, n: int, *, confounded: bool = False) -> Campaign:
    """People of whom some are persuadable, some unmoved, and some annoyed. Simulated.

        y = 2 x_0 + x_1^2 + T uplift(x) + noise
        uplift(x) = 1.2 for x_1 > 0.3 and x_2 > -0.5, -0.6 for x_3 > 1, else 0.1 (in that order)

    The people with the largest outcomes are not those with the largest effects.

    Parameters
    ----------
    confounded
        False: a fair coin. True: the treated are those with a large x_0.
    """
    require(n >= 100, "n", n, "must be at least 100")
    x = rng.normal(0, 1, (n, 6))
    effect = np.where(x[:, 3] > 1, -0.6, 0.1)
    effect = np.where((x[:, 1] > 0.3) & (x[:, 2] > -0.5), 1.2, effect)
    chance = 1 / (1 + np.exp(-x[:, 0])) if confounded else np.full(n, 0.5)
    treated = rng.random(n) < chance
    outcome = 2 * x[:, 0] + x[:, 1] ** 2 + treated * effect + rng.normal(0, 1, n)
    return Campaign(Study(outcome, treated, x), effect)


def _by_arm(study: Study, model: Learner) -> tuple[Any, Any]:
    x, t, y = study.covariates, study.treated, study.outcome
    return model().fit(x[~t], y[~t]), model().fit(x[t], y[t])
