"""The stages of the run that change or open a model: mitigation, explanation, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from common.runner import Run
    from labs.lab3_fairness.config import Config
    from labs.lab3_fairness.tabular import Task
SLOW_METHODS = ("lagrangian_dp_boosting", "exponentiated_gradient_eo", "fairlearn_adversarial_dp")
UNSTABLE = ("logistic", "fair_loss_dp", "adversarial_dp", "fairlearn_adversarial_dp")
SUBSAMPLE = 8000  # training rows, where a method is trained several times


@dataclass(frozen=True)
class Adult:
    """The two halves, the model that is audited, and its scores of the test half."""

    train_table: pd.DataFrame
    test_table: pd.DataFrame
    train: Task
    test: Task
    scores: NDArray[np.float64]


def train_adult(run: Run, config: Config) -> Adult:
    """Boosting on the official training half, without the column sex; the test half is scored."""
    from common.data import load
    from labs.lab3_fairness.scoring import scores, tuned_boosting
    from labs.lab3_fairness.tabular import adult_task

    tables = load("adult")
    train_table, test_table = tables.table("train"), tables.table("test")
    if config.rows:
        train_table, test_table = train_table[: config.rows], test_table[: config.rows // 2]
    train, test = adult_task(train_table), adult_task(test_table)
    model = tuned_boosting(run.seed).fit(train.features, train.labels)
    return Adult(train_table, test_table, train, test, scores(model, test.features))


def mitigate(run: Run, config: Config, adult: Adult) -> None:
    """Every method with its price in accuracy and in *both* gaps; then rules made for a target."""
    from labs.lab3_fairness import report_mitigation as report
    from labs.lab3_fairness.decisions import outcome
    from labs.lab3_fairness.frontier import (
        compare_with_programme,
        fairlearn_rules,
        frontier_curve,
    )
    from labs.lab3_fairness.mitigation import methods, subsample
    from labs.lab3_fairness.preprocessing import group_leak
    from labs.lab3_fairness.scoring import cross_fitted, tuned_boosting
    from labs.lab3_fairness.stability import across_seeds
    from labs.lab3_fairness.target_rules import TARGETS, ScoredRows, pursue

    train, test = adult.train, adult.test
    small = subsample(train, 1000, seed=run.seed) if config.quick else train
    available = methods()
    made = [
        method(small, test, seed=run.seed)
        for name, method in run.progress(available.items(), "methods", len(available))
        if not (config.quick and name in SLOW_METHODS)
    ]
    own = cross_fitted(tuned_boosting, train, folds=config.folds, seed=run.seed)
    validation = ScoredRows(own, train.labels, train.groups)
    judged = ScoredRows(adult.scores, test.labels, test.groups)
    made += fairlearn_rules(validation, judged)
    base = outcome(test.labels, adult.scores > 0.5, test.groups, n_boot=config.n_boot)
    outcomes = {each.name: each.outcome(test, n_boot=config.n_boot, seed=run.seed) for each in made}
    report.methods(run, outcomes)
    pursuits = [
        pursue(
            validation,
            judged,
            test.features,
            target,
            repeats=config.rehearsals,
            n_boot=config.n_boot,
            seed=run.seed,
        )
        for target in run.progress(TARGETS, "targets", len(TARGETS))
    ]
    report.targets(run, pursuits, base)
    compared = compare_with_programme(
        [each for each in made if each.family != "post"],
        validation,
        judged,
        n_boot=config.n_boot,
        seed=run.seed,
    )
    bounds = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2]
    free = [1.0] * len(bounds)
    curves = (
        frontier_curve(validation, judged, bounds, free),
        frontier_curve(validation, judged, free, bounds),
    )
    report.frontier(run, compared, pursuits, curves, validation)
    report.leak(run, group_leak(small, test, seed=run.seed))
    if config.seeds:
        part, seeds = subsample(train, SUBSAMPLE, seed=run.seed), range(config.seeds)
        several = [
            across_seeds(available[name], part, test, seeds)
            for name in run.progress(UNSTABLE, "seeds", len(UNSTABLE))
        ]
        report.stability(run, several)


def explain(run: Run, config: Config, adult: Adult) -> None:
    """No explanation without a test: of exactness, of repeatability, of faithfulness."""
    from common.data import load
    from labs.lab3_fairness import report_explanations as report
    from labs.lab3_fairness.explainer_comparison import compare_explainers
    from labs.lab3_fairness.gap_attribution import gap_study
    from labs.lab3_fairness.scaffolding import fooling_experiment
    from labs.lab3_fairness.tabular import compas_task

    task = compas_task(load("compas").table("scores"))
    few = {"n_rows": 2, "n_background": 20, "n_seeds": 2} if config.quick else {}
    report.explainers(run, compare_explainers(task, seed=run.seed, **few))
    fewer = {"per_group": 60, "n_background": 20} if config.quick else {}
    found = gap_study(
        adult.train,
        adult.test,
        n_boot=config.n_boot,
        n_permutations=config.n_permutations,
        seed=run.seed,
        **fewer,
    )
    report.gap(run, found)
    samples = 200 if config.quick else 500
    report.fooled(
        run,
        fooling_experiment(
            task,
            n_rows=config.explained_rows,
            n_samples=samples,
            n_boot=config.n_boot,
            seed=run.seed,
        ),
    )


def look_inside(run: Run, config: Config, adult: Adult) -> None:
    """What deleting columns says of every explanation, and what attention says of anything."""
    from labs.lab3_fairness import report_explanations as report
    from labs.lab3_fairness.attention import Training
    from labs.lab3_fairness.attention_study import planted_attention, study_attention
    from labs.lab3_fairness.faithfulness_study import study_faithfulness

    few: dict[str, Any] = {}
    fewer: dict[str, Any] = {}
    if config.quick:
        few = {"n_rows": 20, "n_background": 4, "n_best": 1, "n_orders": 3, "n_sets": 4}
        fewer = {"n_train": 3000, "n_rows": 20, "n_background": 4, "n_deleted": 5}
        fewer |= {"n_programmes": 2, "training": Training(epochs=1)}
    train, test, seed = adult.train, adult.test, run.seed
    report.faithfulness(run, *study_faithfulness(train, test, seed=seed, **few))
    found = study_attention(train, test, seed=seed, **fewer)
    report.attention(run, found, None if config.quick else planted_attention(0.3, seed=seed))


def calibration(run: Run, config: Config, adult: Adult) -> None:
    """Does a score of 0.7 mean the same for everybody, and does the model know what it does not?"""
    from common.data import load
    from labs.lab3_fairness import calibration_study as study
    from labs.lab3_fairness import report_explanations as report
    from labs.lab3_fairness.scoring import boosting, logistic_regression

    scores = load("compas").table("scores")
    train, test = adult.train_table, adult.test_table
    n_boot, seed = min(config.n_boot, 1000), run.seed
    report.compas_calibration(
        run, study.calibrate_compas(scores, logistic_regression, n_boot=n_boot, seed=seed)
    )
    models = {"logistic": logistic_regression}
    if not config.quick:
        models["boosting"] = boosting
    n_simulations = 99 if config.quick else 500
    report.multicalibration(
        run,
        {
            name: study.multicalibrate_adult(
                train, test, make, n_boot=n_boot, n_simulations=n_simulations, seed=seed
            )
            for name, make in models.items()
        },
    )
    report.conformal(
        run,
        {
            "adult": study.cover_adult(train, test, boosting, seed=seed),
            "compas": study.cover_compas(scores, logistic_regression, seed=seed),
        },
    )
    members = {"n_members": 3, "n_rows": 3000} if config.quick else {"n_members": 10}
    report.uncertainty(run, study.doubt_adult(train, test, boosting, seed=seed, **members))
