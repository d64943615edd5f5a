"""Attempts to break a causal estimate. None can prove it; each can only fail to refute it.

Every test here says which error it can find, and which not. The one that matters most, a cause that
nobody measured, no test of the data can find: for it there are only statements of how strong such
a cause would have to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np

from common.errors import require
from labs.lab6_online_eval.causal_estimate import Estimate, Floats, Study

Estimator = Callable[[Study], Estimate]


@dataclass(frozen=True)
class Refutation:
    """The outcome of one attempt.

    ``expected`` is what the estimate should be if the analysis is sound, ``found`` the mean over
    the repetitions, ``low`` and ``high`` their central 95 % (for one repetition its interval).
    ``passed``: whether ``expected`` lies within. ``finds`` and ``misses`` say what a failure means,
    and what a pass does not.
    """

    name: str
    expected: float
    found: float
    low: float
    high: float
    repetitions: int
    finds: str
    misses: str

    @property
    def passed(self) -> bool:
        return self.low <= self.expected <= self.high

    def __str__(self) -> str:
        verdict = "not refuted" if self.passed else "refuted"
        return (
            f"{self.name}: expected {self.expected:,.0f}, found {self.found:,.0f} "
            f"({self.low:,.0f} to {self.high:,.0f}), {verdict}. It finds {self.finds}; "
            f"it misses {self.misses}"
        )


def placebo_treatment(
    study: Study, estimator: Estimator, *, repetitions: int = 50, seed: int = 0
) -> Refutation:
    """The treatment is dealt out anew at random among the units: the effect must vanish."""
    rng = _rng(repetitions, seed)
    effects = []
    for _ in range(repetitions):
        treated = rng.permutation(study.treated)
        effects.append(
            estimator(Study(study.outcome, treated, study.covariates, study.names)).effect
        )
    return _refutation(
        "placebo treatment",
        0.0,
        effects,
        finds="an estimator that reports an effect whatever the data, or a leak in its code",
        misses="confounding: the shuffle removes that together with the effect",
    )


def placebo_outcome(
    study: Study, estimator: Estimator, before: Floats, covariates: Floats, names: tuple[str, ...]
) -> Refutation:
    """The outcome is replaced by one from before the treatment, which nothing can have changed.

    Parameters
    ----------
    before
        Float [n]: the earlier outcome.
    covariates, names
        Float [n, k] and k names: the covariates without that outcome, and what is made of it.
    """
    found = estimator(Study(before, study.treated, covariates, names))
    return Refutation(
        "placebo outcome",
        0.0,
        found.effect,
        *found.ci95,
        1,
        finds="groups that differ in ways that the covariates do not carry: real confounding",
        misses="a confounder that acts on the later outcome only",
    )


def random_common_cause(
    study: Study, estimator: Estimator, *, repetitions: int = 50, seed: int = 0
) -> Refutation:
    """A column of noise joins the covariates: the estimate must not move."""
    rng = _rng(repetitions, seed)
    effects = []
    for _ in range(repetitions):
        wider = np.column_stack([study.covariates, rng.normal(0, 1, study.n)])
        effects.append(
            estimator(Study(study.outcome, study.treated, wider, (*study.names, "noise"))).effect
        )
    original = estimator(study)
    moved = np.asarray(effects) - original.effect
    # noise moves any estimate a little; more than a quarter of its error is instability
    half = max(0.25 * original.se, 1.96 * float(moved.std(ddof=1)) / sqrt(repetitions))
    found = float(np.mean(effects))
    return Refutation(
        "random common cause",
        original.effect,
        found,
        found - half,
        found + half,
        repetitions,
        finds="a model so flexible, or so badly conditioned, that a useless column changes it",
        misses="confounding: noise causes nothing",
    )


def data_subset(
    study: Study,
    estimator: Estimator,
    *,
    share: float = 0.8,
    repetitions: int = 50,
    seed: int = 0,
) -> Refutation:
    """Estimate on random parts of the units: the whole's estimate must be typical of them."""
    require(0.1 <= share < 1, "share", share, "must be from 0.1 to below 1", "try 0.8")
    rng = _rng(repetitions, seed)
    effects = []
    arms = np.flatnonzero(study.treated), np.flatnonzero(~study.treated)
    for _ in range(repetitions):
        rows = np.concatenate(
            [rng.choice(arm, round(share * len(arm)), replace=False) for arm in arms]
        )
        effects.append(estimator(study.where(rows)).effect)
    return _refutation(
        "data subset",
        estimator(study).effect,
        effects,
        finds="an estimate that hangs on a few units",
        misses="confounding: it is in every subset",
    )


def e_value(effect: float, deviation: float) -> float:
    """How strong an unmeasured confounder must be to explain the effect away, as a risk ratio.

        d = effect / deviation        RR = exp(0.91 |d|)        E = RR + sqrt(RR (RR - 1))

    A confounder that is tied to treatment and to outcome by risk ratios of E each (beyond the
    covariates) could do it, a weaker one could not.

    Parameters
    ----------
    effect
        Difference of means; or the limit of its interval that is nearer to 0.
    deviation
        Standard deviation of the outcome.

    Notes
    -----
    VanderWeele & Ding (2017), Sensitivity Analysis in Observational Research: Introducing the
    E-Value, Annals of Internal Medicine 167; the conversion of a mean difference is theirs.
    """
    require(deviation > 0, "deviation", deviation, "must be > 0")
    return e_value_of_ratio(exp(0.91 * abs(effect) / deviation))


def e_value_of_ratio(ratio: float) -> float:
    """The E-value of a risk ratio; one below 1 is turned over first."""
    require(ratio > 0, "risk ratio", ratio, "must be > 0")
    ratio = max(ratio, 1 / ratio)
    return ratio + sqrt(ratio * (ratio - 1))


def e_value_of_interval(estimate: Estimate, deviation: float) -> float:
    """The E-value of the nearer end of the interval; 1 where the interval holds 0 already."""
    if estimate.covers(0.0):
        return 1.0
    return e_value(min(estimate.ci95, key=abs), deviation)


def tipping_point(effect: float, outcome_difference: float) -> float:
    """The imbalance of a hidden binary cause at which the effect is gone.

    A hidden cause U with share p_1 among the treated and p_0 among the controls, that changes the
    outcome by ``outcome_difference``, biases the estimate by ``(p_1 - p_0) * outcome_difference``.

    Returns
    -------
    float
        The p_1 - p_0 that explains the whole effect; beyond +-1 no such cause exists.

    Notes
    -----
    Rosenbaum & Rubin (1983), JRSS B 45; Lin, Psaty & Kronmal (1998), Biometrics 54.
    """
    require(outcome_difference != 0, "outcome_difference", outcome_difference, "must not be 0")
    return effect / outcome_difference


def robustness_value(t: float, dof: int) -> float:
    """The partial R2 with treatment *and* outcome that a hidden cause needs to remove the effect.

        f = |t| / sqrt(dof)        RV = (sqrt(f^4 + 4 f^2) - f^2) / 2

    Parameters
    ----------
    t, dof
        Of the treatment's coefficient in a linear regression.

    Notes
    -----
    Cinelli & Hazlett (2020), Making Sense of Sensitivity, JRSS B 82.
    """
    require(dof >= 1, "dof", dof, "must be at least 1")
    f = abs(t) / sqrt(dof)
    return (sqrt(f**4 + 4 * f**2) - f**2) / 2


def _rng(repetitions: int, seed: int) -> np.random.Generator:
    require(repetitions >= 10, "repetitions", repetitions, "must be at least 10", "try 50")
    return np.random.default_rng(seed)


def _refutation(
    name: str, expected: float, effects: list[float], *, finds: str, misses: str
) -> Refutation:
    low, high = np.quantile(effects, [0.025, 0.975])
    return Refutation(
        name,
        expected,
        float(np.mean(effects)),
        float(low),
        float(high),
        len(effects),
        finds,
        misses,
    )
