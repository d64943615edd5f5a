"""The causal estimators as methods to be validated, each in a simulated world with its trouble.

In every world a comparison of the treated with the others is wrong, and the effect is known. Two
methods are here to fail: the naive comparison, and a regression that controls for a collider.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    difference_in_means,
)
from labs.lab6_online_eval.difference_in_differences import did_of_panel
from labs.lab6_online_eval.doubly_robust import aipw_estimate
from labs.lab6_online_eval.instrumental_variables import wald
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.propensity import fit_logistic
from labs.lab6_online_eval.regression_discontinuity import regression_discontinuity
from labs.lab6_online_eval.validation import Findings, Method, Simulate
from labs.lab6_online_eval.weighting import hajek

UNITS = 400
SHARE = 0.4
WIDTH = 0.45


def methods() -> list[Method]:
    """All of them; ``naive_observational`` and ``ols_with_a_collider`` must fail."""
    return [
        Method("did", _each(_did), effect=0.3),
        Method("ipw_hajek", _ipw, effect=0.4),
        Method("aipw", _aipw, effect=0.4),
        Method("two_stage_least_squares", _each(_encouraged), effect=0.6),
        Method("regression_discontinuity", _each(_discontinuity), effect=0.5),
        Method("naive_observational", _each(_naive), effect=0.4, flawed=True),
        Method("ols_with_a_collider", _each(_collider), effect=0.4, flawed=True),
    ]


def findings(estimates: list[Estimate]) -> Findings:
    """One row an estimate."""
    rows = np.array([(each.effect, *each.ci95, each.p) for each in estimates])
    return Findings(*rows.T)


def _each(analyse: Callable[[np.random.Generator, float], Estimate]) -> Simulate:
    def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
        return findings([analyse(rng, effect) for _ in range(n)])

    return simulate


def _did(rng: np.random.Generator, effect: float) -> Estimate:
    """Groups that differ in level, a common trend, and units that resemble themselves."""
    treated = rng.random(UNITS) < SHARE
    level = rng.normal(0, 1, UNITS) + 1.5 * treated
    before = level + rng.normal(0, 0.7, UNITS)
    after = level + 0.5 + effect * treated + rng.normal(0, 0.7, UNITS)
    return did_of_panel(before, after, treated)


def _confounded(rng: np.random.Generator, n: int, effect: float) -> tuple[Floats, Bools, Floats]:
    """n studies: covariates [n, UNITS, 2], treated, outcome [n, UNITS]; x_0 drives both."""
    x = rng.normal(0, 1, (n, UNITS, 2))
    chance = 1 / (1 + np.exp(-(0.5 * x[..., 0] + 0.3 * x[..., 1] - 0.2)))
    treated = rng.random((n, UNITS)) < chance
    noise = rng.normal(0, 1, (n, UNITS))
    outcome = x[..., 0] + 0.5 * x[..., 1] + effect * treated + noise
    return x, treated, outcome


def _scores(x: Floats, treated: Bools) -> tuple[Floats, Floats]:
    """Propensities [n, UNITS] and designs [n, UNITS, 3] of many studies at once."""
    design = np.concatenate([np.ones((*x.shape[:2], 1)), x], axis=2)
    beta = fit_logistic(design, treated.astype(float), tolerance=1e-8)
    return np.asarray(1 / (1 + np.exp(-(design @ beta[..., None])[..., 0]))), design


def _ipw(rng: np.random.Generator, n: int, effect: float) -> Findings:
    x, treated, outcome = _confounded(rng, n, effect)
    scores, design = _scores(x, treated)
    return findings(
        [
            hajek(y, t, e, Estimand.ATE, design=columns)
            for y, t, e, columns in zip(outcome, treated, scores, design)
        ]
    )


def _aipw(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """Linear and logistic models of the whole sample: too stiff to need folds."""
    x, treated, outcome = _confounded(rng, n, effect)
    scores, design = _scores(x, treated)
    found = []
    predicted = [_predictions(design, outcome, arm) for arm in (~treated, treated)]
    for row in range(n):
        t = treated[row]
        value, se = aipw_estimate(
            outcome[row], t, scores[row], predicted[0][row], predicted[1][row]
        )
        ones = int(t.sum())
        found.append(
            Estimate.of(value, se, estimand=Estimand.ATE, n_treated=ones, n_control=UNITS - ones)
        )
    return findings(found)


def _predictions(design: Floats, outcome: Floats, arm: Bools) -> Floats:
    """Least squares in one arm of each study, predicted for all: float [n, UNITS]."""
    masked = np.swapaxes(design * arm[..., None], -1, -2)
    beta = np.linalg.solve(masked @ design, masked @ outcome[..., None])
    return np.asarray((design @ beta)[..., 0])


def _encouraged(rng: np.random.Generator, effect: float) -> Estimate:
    """An invitation that 50 % accept; the accepting have better outcomes anyway."""
    keen = rng.normal(0, 1, UNITS)
    assigned = rng.random(UNITS) < 0.5
    received = assigned & (keen + rng.normal(0, 0.5, UNITS) > 0)
    outcome = 1.0 * keen + effect * received + rng.normal(0, 0.5, UNITS)
    return wald(outcome, received, assigned)


def _discontinuity(rng: np.random.Generator, effect: float) -> Estimate:
    """A rising, bent curve with a jump at 0; the bandwidth is fixed before the data."""
    n = 2 * UNITS
    score = rng.uniform(-1, 1, n)
    curve = score + 0.8 * score**2 + 0.3 * np.sin(3 * score)
    outcome = curve + effect * (score >= 0) + rng.normal(0, 0.5, n)
    return regression_discontinuity(outcome, score, 0.0, bandwidth=WIDTH).robust


def _naive(rng: np.random.Generator, effect: float) -> Estimate:
    _, treated, outcome = _confounded(rng, 1, effect)
    return difference_in_means(outcome[0], treated[0])


def _collider(rng: np.random.Generator, effect: float) -> Estimate:
    """A fair coin, analysed with a covariate that treatment *and* outcome have caused."""
    treated = rng.random(UNITS) < 0.5
    outcome = effect * treated + rng.normal(0, 1, UNITS)
    opened = treated + outcome + rng.normal(0, 1, UNITS)
    fit = least_squares(with_intercept(opened[:, None], treated.astype(float)), outcome)
    ones = int(treated.sum())
    return Estimate.of(
        float(fit.coefficients[1]),
        float(fit.se[1]),
        estimand=Estimand.ATE,
        n_treated=ones,
        n_control=UNITS - ones,
    )
