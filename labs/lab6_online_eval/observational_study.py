"""Job training without the experiment: can an observational study find what the experiment found?

The National Supported Work programme was randomised, and its answer is known. Take its treated
people and, for controls, a survey of the general population (CPS), as if nobody had randomised.
Every estimator of the lab answers, and the experiment judges. LaLonde (1986), AER 76; Dehejia &
Wahba (1999), JASA 94.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimand,
    Estimate,
    Floats,
    Study,
    difference_in_means,
    study,
)
from labs.lab6_online_eval.difference_in_differences import (
    did_of_panel,
    did_with_covariates,
    parallel_trends,
)
from labs.lab6_online_eval.doubly_robust import aipw, aipw_treated, cross_fit
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.matching import (
    bias_corrected_matching,
    match_without_replacement,
    propensity_matching,
)
from labs.lab6_online_eval.propensity import (
    Overlap,
    balancing_weights,
    fit_propensity,
    overlap,
    require_overlap,
    standardised_differences,
)
from labs.lab6_online_eval.refutation import (
    Refutation,
    data_subset,
    e_value,
    e_value_of_interval,
    placebo_outcome,
    placebo_treatment,
    random_common_cause,
    robustness_value,
)
from labs.lab6_online_eval.weighting import entropy_balancing, ipw

if TYPE_CHECKING:
    from common.data import Dataset

EARNINGS_BEFORE = ("re74", "re75")


def experiment_of(dataset: Dataset) -> Estimate:
    """The randomised answer: 1,794.34 dollars, standard error 671.00."""
    table = dataset.table("nsw")
    return difference_in_means(table["re78"].to_numpy(), (table["treat"] == 1).to_numpy())


def nsw_with_cps(dataset: Dataset) -> Study:
    """NSW's treated (185) with CPS controls (15,992); the covariates of Dehejia and Wahba (2002).

    Their published specification, taken before any answer was looked at: age to the third power,
    education to the second, its product with the earnings of 1974, four indicators, earnings of
    1974 and 1975, and whether these were 0.
    """
    return _nsw_study(dataset)


def nhefs_study(dataset: Dataset) -> Study:
    """Quitting smoking and weight gain, 1971 to 1982: the study of Hernan and Robins (What If).

    1,566 people whose weight of 1982 is known; their covariates of chapter 12.
    """
    table = dataset.table("nhefs").dropna(subset=["wt82_71"])
    columns: dict[str, Any] = {"sex": table["sex"], "race": table["race"]}
    for name in ("age", "smokeintensity", "smokeyrs", "wt71"):
        columns |= {name: table[name], f"{name}^2": table[name] ** 2}
    for name in ("education", "exercise", "active"):
        for level in sorted(table[name].unique())[1:]:
            columns[f"{name}={level:g}"] = table[name] == level
    return study(
        table["wt82_71"].to_numpy(),
        table["qsmk"].to_numpy(),
        np.column_stack([np.asarray(column, dtype=float) for column in columns.values()]),
        tuple(columns),
    )


def regression_adjustment(data: Study) -> Estimate:
    """The treated minus what a regression on the controls predicts for them: the ATT.

    Refused without overlap, since a regression extrapolates without a word. The error is that of
    the treated units' mean residual plus that of the prediction (HC2).

    Notes
    -----
    Imbens & Wooldridge (2009), Journal of Economic Literature 47.
    """
    t = data.treated
    require_overlap(fit_propensity(data).score, t, Estimand.ATT)
    centre, scale = data.covariates[~t].mean(axis=0), data.covariates[~t].std(axis=0)
    x = (data.covariates - centre) / np.where(scale > 0, scale, 1.0)
    fit = least_squares(with_intercept(x[~t]), data.outcome[~t])
    design = with_intercept(x[t])
    residual = data.outcome[t] - design @ fit.coefficients
    mean = design.mean(axis=0)
    variance = residual.var(ddof=1) / len(residual) + mean @ fit.covariance @ mean
    n_treated = int(t.sum())
    return Estimate.of(
        float(residual.mean()),
        float(np.sqrt(variance)),
        estimand=Estimand.ATT,
        n_treated=n_treated,
        n_control=data.n - n_treated,
    )


def matching_without_replacement(data: Study) -> Estimate:
    """Greedy pairs on the log odds of the propensity, no caliper."""
    fit = fit_propensity(data)
    require_overlap(fit.score, data.treated, Estimand.ATT)
    return match_without_replacement(data.outcome, data.treated, fit.log_odds).estimate


def doubly_robust(data: Study, *, seed: int = 0) -> Estimate:
    """AIPW of the ATT, five folds, linear and logistic."""
    return aipw_treated(data, cross_fit(data, seed=seed))


ESTIMATORS: dict[str, Callable[[Study], Estimate]] = {
    "naive": lambda data: difference_in_means(data.outcome, data.treated),
    "regression": regression_adjustment,
    "matching": lambda data: propensity_matching(data).estimate,
    "matching_without_replacement": matching_without_replacement,
    "matching_bias_corrected": lambda data: bias_corrected_matching(data).estimate,
    "ipw": ipw,
    "aipw": doubly_robust,
    "entropy_balancing": lambda data: entropy_balancing(data).estimate,
}
"""Estimators of the effect on the treated. All but ``naive`` refuse data without overlap."""


@dataclass(frozen=True)
class ObservationalStudy:
    """Every estimator beside the experiment.

    Attributes
    ----------
    experiment
        The judge.
    estimates
        By name: those of `ESTIMATORS`, and ``did`` and ``did_with_covariates``.
    names, before, after
        Covariates, and their standardised mean differences without and with the ATT weights.
    score, treated
        Float [n], bool [n]: propensities for the figure of overlap.
    overlap
        For the effect on the treated.
    refused
        What the lab said when asked for the effect on everybody (ATE).
    pre_trend
        Difference in differences of 1974 to 1975, where nothing had happened yet.
    refutations
        Of the IPW estimate.
    e_value, e_value_interval, robustness
        What a hidden cause would need (see `refutation`).
    smoking
        NHEFS: ``ipw`` and ``aipw`` of quitting on weight, in kg (the published IPW: 3.4).
    """

    experiment: Estimate
    estimates: dict[str, Estimate]
    names: tuple[str, ...]
    before: Floats
    after: Floats
    score: Floats
    treated: Bools
    overlap: Overlap
    refused: str
    pre_trend: Estimate
    refutations: tuple[Refutation, ...]
    e_value: float
    e_value_interval: float
    robustness: float
    smoking: dict[str, Estimate]

    def error(self, name: str) -> float:
        """Estimate minus the experiment's, in dollars."""
        return self.estimates[name].effect - self.experiment.effect


def study_observational(
    dataset: Dataset, *, repetitions: int = 40, seed: int = 0
) -> ObservationalStudy:
    """Everything above on ``load("nsw")``; about 3 CPU seconds with 40 repetitions."""
    data = nsw_with_cps(dataset)
    earlier, before = (_earnings(dataset, name) for name in EARNINGS_BEFORE)
    estimates = {name: estimator(data) for name, estimator in ESTIMATORS.items()}
    estimates["aipw"] = doubly_robust(data, seed=seed)
    estimates["did"] = did_of_panel(before, data.outcome, data.treated)
    estimates["did_with_covariates"] = did_with_covariates(
        before, data.outcome, data.treated, _standard(data.covariates)
    )
    fit = fit_propensity(data)
    weights = balancing_weights(fit.score, data.treated, Estimand.ATT)
    try:
        ipw(data, Estimand.ATE)
        refused = ""
    except InputError as error:
        refused = str(error)
    without = _nsw_study(dataset, without="re75")
    refutations = (
        placebo_treatment(data, ipw, repetitions=repetitions, seed=seed),
        placebo_outcome(data, ipw, before, without.covariates, without.names),
        random_common_cause(data, ipw, repetitions=repetitions, seed=seed),
        data_subset(data, ipw, repetitions=repetitions, seed=seed),
    )
    found = estimates["ipw"]
    deviation = float(data.outcome[data.treated].std(ddof=1))
    regression = least_squares(
        with_intercept(_standard(data.covariates), data.treated.astype(float)), data.outcome
    )
    smoking = nhefs_study(dataset)
    return ObservationalStudy(
        experiment=experiment_of(dataset),
        estimates=estimates,
        names=data.names,
        before=standardised_differences(data.covariates, data.treated),
        after=standardised_differences(data.covariates, data.treated, weights),
        score=fit.score,
        treated=data.treated,
        overlap=overlap(fit.score, data.treated, Estimand.ATT),
        refused=refused,
        pre_trend=parallel_trends(earlier, before, data.treated),
        refutations=refutations,
        e_value=e_value(found.effect, deviation),
        e_value_interval=e_value_of_interval(found, deviation),
        robustness=robustness_value(
            float(regression.coefficients[1] / regression.se[1]), regression.dof
        ),
        smoking={
            "ipw": ipw(smoking, Estimand.ATE),
            "aipw": aipw(smoking, cross_fit(smoking, seed=seed)),
        },
    )


def _nsw_study(dataset: Dataset, *, without: str = "") -> Study:
    treated = dataset.table("nsw").query("treat == 1")
    controls = dataset.table("cps")
    raw = {
        name: np.concatenate([treated[name].to_numpy(), controls[name].to_numpy()]).astype(float)
        for name in treated.columns
        if name != "data_id"
    }
    columns = {
        "age": raw["age"],
        "age^2": raw["age"] ** 2,
        "age^3": raw["age"] ** 3,
        "educ": raw["educ"],
        "educ^2": raw["educ"] ** 2,
        **{name: raw[name] for name in ("marr", "nodegree", "black", "hisp")},
        "re74": raw["re74"],
        "u74": (raw["re74"] == 0).astype(float),
        "educ*re74": raw["educ"] * raw["re74"],
    }
    if without != "re75":
        columns |= {"re75": raw["re75"], "u75": (raw["re75"] == 0).astype(float)}
    return study(raw["re78"], raw["treat"], np.column_stack(list(columns.values())), tuple(columns))


def _earnings(dataset: Dataset, name: str) -> Floats:
    tables = dataset.table("nsw").query("treat == 1"), dataset.table("cps")
    return np.concatenate([table[name].to_numpy() for table in tables]).astype(float)


def _standard(columns: Floats) -> Floats:
    return np.asarray((columns - columns.mean(axis=0)) / columns.std(axis=0))
