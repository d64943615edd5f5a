"""The stages of the run that look: known answers, tools, data, audits, slices, rankings, gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from common.runner import Run
    from labs.lab3_fairness.config import Config
    from labs.lab3_fairness.model_stages import Adult
Columns = tuple[Any, Any, Any]  # labels, decisions, groups


def known_answers(run: Run, config: Config) -> None:
    """An audit tool that cannot reproduce published numbers has no business judging new ones."""
    from common.data import load
    from labs.lab3_fairness import report
    from labs.lab3_fairness.confusion import (
        demographic_parity_difference,
        equalized_odds_difference,
    )
    from labs.lab3_fairness.figures_metrics import draw_impossibility
    from labs.lab3_fairness.impossibility import compas_debate
    from labs.lab3_fairness.lending import fico_scores, lending_policies
    from labs.lab3_fairness.tabular import TWO_RACES, high_risk, propublica_filter

    compas = load("compas")
    run.data(compas)
    scores = compas.table("scores")
    kept = propublica_filter(scores)
    two = kept[kept["race"].isin(TWO_RACES)]
    columns = (two["two_year_recid"], high_risk(two), two["race"])
    debate = compas_debate(
        scores, n_boot=config.n_boot, n_permutations=config.n_permutations, seed=run.seed
    )
    dpd, eod = demographic_parity_difference(*columns), equalized_odds_difference(*columns)
    report.known(run, debate, dpd, eod)
    run.figure(
        "impossibility",
        draw_impossibility(debate),
        caption="COMPAS: rearrest by decile and race; and the error rates that equal PPV and FNR "
        "force on groups of different base rates.",
    )
    fico = load("fico")
    run.data(fico)
    credit = fico_scores(fico)
    report.lending(run, lending_policies(credit), credit)


def tools(run: Run, config: Config) -> None:
    """Methods that are trusted below, tried first where the truth is known."""
    from common.data import load
    from labs.lab3_fairness import report
    from labs.lab3_fairness.cell_bootstrap import cell_counts
    from labs.lab3_fairness.coverage_study import study
    from labs.lab3_fairness.gap_bias import fair_gaps, null_of_fair_data
    from labs.lab3_fairness.row_metrics import RATE_METRICS, RowMetric, group_codes
    from labs.lab3_fairness.scoring import logistic_regression
    from labs.lab3_fairness.slice_inputs import bin_features, row_loss
    from labs.lab3_fairness.slice_study import null_study, planted_study
    from labs.lab3_fairness.tabular import adult_task

    adult = load("adult")
    run.data(adult)
    train, test = adult_task(adult.table("train")), adult_task(adult.table("test"))
    few = train.rows(_first(4000))
    model = logistic_regression(run.seed).fit(few.features, few.labels)
    chosen = model.predict_proba(test.features)[:, 1]
    codes, _ = group_codes(test.groups, len(test))
    cells = cell_counts(test.labels, (chosen > 0.5).astype(int), codes, 2)
    assert cells is not None, "labels and decisions are 0 and 1: eight cells a group at most"
    rates = {name: metric for name, metric in RATE_METRICS.items() if isinstance(metric, RowMetric)}
    n_sets = max(100, config.studied_sets)
    n_boot = 100 if config.quick else 1000
    covered = study({"adult": (cells, rates)}, n_sets=n_sets, n_boot=n_boot, seed=run.seed)
    nulls = {size: null_of_fair_data(8, size, 0.3, seed=run.seed) for size in (20, 50, 200, 1000)}
    report.coverage(run, covered, fair_gaps(), nulls)
    part = test.rows(_first(4000))
    literals = bin_features(part.features.assign(sex=part.groups))
    loss = row_loss("error", part.labels, chosen[:4000])
    null = null_study(literals, loss, n_datasets=config.null_sets, seed=run.seed)
    planted = planted_study(repetitions=5 if config.quick else 50, seed=run.seed)
    report.slice_studies(run, null, planted)


def data_bias(run: Run, config: Config) -> None:
    """What no model can mend, because it is in what the model is made of."""
    from common.data import load
    from labs.lab3_fairness import report
    from labs.lab3_fairness.data_audit import data_audit
    from labs.lab3_fairness.proxies import proxy_report
    from labs.lab3_fairness.tabular import COMPAS_FEATURES, TWO_RACES, propublica_filter

    adult = load("adult").table("train")
    compas = propublica_filter(load("compas").table("scores"))
    both: dict[str, Any] = {"n_permutations": config.n_permutations, "seed": run.seed}
    audits = {
        "adult": data_audit(
            adult,
            label="income",
            sensitive=["sex", "race"],
            ignore=["fnlwgt"],
            reference={"sex": {"Female": 0.5, "Male": 0.5}},
            **both,
        ),
        "compas": data_audit(
            compas,
            label="two_year_recid",
            sensitive=["race", "sex"],
            ignore=["id", "name", "first", "last"],
            **both,
        ),
    }
    quick: dict[str, Any] = {"n_drop": 1, "folds": 2} if config.quick else {"n_drop": 2, "folds": 3}
    some = adult.sample(3000, random_state=run.seed) if config.quick else adult
    proxies = {
        "adult_sex": proxy_report(
            some, sensitive="sex", group="Male", label="income", ignore=["fnlwgt"], seed=run.seed,
            **quick,
        )
    }  # fmt: skip
    if not config.quick:
        two = compas[compas["race"].isin(TWO_RACES)]
        proxies["compas_race"] = proxy_report(
            two[[*COMPAS_FEATURES, "race", "sex", "two_year_recid"]].reset_index(drop=True),
            sensitive="race",
            group=TWO_RACES[0],
            label="two_year_recid",
            seed=run.seed,
            **quick,
        )
    report.data(run, audits, proxies)


def audits(run: Run, config: Config, adult: Adult) -> None:
    """Every rate of every group, with an interval, and every gap with its null."""
    from common.data import load
    from labs.lab3_fairness import figures_rates, report
    from labs.lab3_fairness.decisions import outcome
    from labs.lab3_fairness.fairness_metrics import evaluate_definitions, four_fifths_rule
    from labs.lab3_fairness.group_metrics import group_metrics
    from labs.lab3_fairness.intersections import age_bands, intersection_report
    from labs.lab3_fairness.report_mitigation import outcome as record_outcome
    from labs.lab3_fairness.row_metrics import RATE_METRICS, selection_rate
    from labs.lab3_fairness.tabular import TWO_RACES, high_risk, propublica_filter

    how: dict[str, Any] = {
        "n_boot": config.n_boot,
        "n_permutations": config.n_permutations,
        "seed": run.seed,
    }
    test, chosen = adult.test, (adult.scores > config.threshold).astype(int)
    kept = propublica_filter(load("compas").table("scores"))
    two = kept[kept["race"].isin(TWO_RACES)]
    audited: dict[str, Columns] = {
        "adult_sex": (test.labels, chosen, test.groups),
        "compas_two": (two["two_year_recid"], high_risk(two), two["race"]),
        "compas_all": (kept["two_year_recid"], high_risk(kept), kept["race"]),
    }
    reports = {
        name: group_metrics(*columns, RATE_METRICS, min_rows=config.min_rows, **how)
        for name, columns in audited.items()
    }
    for name, found in reports.items():
        report.audit(run, name, found)
    report.completeness(run, reports)
    report.group_values(run, "adult.base", reports["adult_sex"])
    base = outcome(test.labels, chosen, test.groups, n_boot=config.n_boot, seed=run.seed)
    record_outcome(run, "base", base, how="boosting without the column sex; test half")
    low_risk = 1 - high_risk(two)
    report.definitions(
        run,
        evaluate_definitions(*audited["compas_two"], **how),
        four_fifths_rule(low_risk, two["race"], **how),
    )
    table = adult.test_table.assign(age_band=age_bands(adult.test_table["age"]))
    columns = ("sex", "race", "age_band")
    report.intersections(
        run,
        intersection_report(
            test.labels, chosen, table, columns, selection_rate, min_rows=config.min_rows
        ),
    )
    figures_rates.draw(run, reports)


def worst_slices(run: Run, config: Config, adult: Adult) -> None:
    """Nobody named these groups; the search did, on one half, and the other half was asked."""
    from common.data import load
    from labs.lab3_fairness import report
    from labs.lab3_fairness.slice_confirmation import confirm_slices
    from labs.lab3_fairness.slice_inputs import bin_features, row_loss
    from labs.lab3_fairness.tabular import compas_task, propublica_filter

    test = adult.test
    columns = bin_features(test.features.assign(sex=test.groups))
    scores = load("compas").table("scores")
    task = compas_task(scores, None)
    people = bin_features(
        task.features.assign(race=task.groups, sex=propublica_filter(scores)["sex"].to_numpy())
    )
    decile = propublica_filter(scores)["decile_score"].to_numpy(dtype=float)
    reports = {
        "Adult, errors": confirm_slices(
            columns, row_loss("error", test.labels, adult.scores), seed=run.seed
        ),
        "Adult, label above score": confirm_slices(
            columns, row_loss("residual", test.labels, adult.scores), seed=run.seed
        ),
        "COMPAS, false alarms": confirm_slices(
            people,
            row_loss("false_positive", task.labels, decile / 10, threshold=0.45),
            seed=run.seed,
        ),
    }
    report.slices(run, reports)


def rankings(run: Run, config: Config) -> None:
    """Where there are places to give away, and not decisions to make."""
    from common.data import load
    from labs.lab3_fairness import report
    from labs.lab3_fairness.fair_ranking import adjust_alpha, adjust_alpha_nearest
    from labs.lab3_fairness.ranking_comparison import compare_rankings, german_credit_pool

    german = load("german")
    run.data(german)
    pool = german_credit_pool(german.table("applicants"), seed=run.seed)
    outcomes = compare_rankings(
        pool,
        n_boot=min(config.n_boot, 1000),
        n_permutations=min(config.n_permutations, 1000),
        seed=run.seed,
    )
    tests = {
        "adjusted": adjust_alpha(20, 0.25, 0.1),
        "reference": adjust_alpha_nearest(20, 0.25, 0.1),
    }
    report.ranking(run, pool, outcomes, tests)


def gate(run: Run, config: Config, adult: Adult) -> None:
    """The promises of two policies, held against the decisions."""
    from pathlib import Path

    from common.data import load
    from labs.lab3_fairness import gate as gates
    from labs.lab3_fairness import report
    from labs.lab3_fairness.gate_policy import read_policy
    from labs.lab3_fairness.tabular import high_risk, propublica_filter

    kept = propublica_filter(load("compas").table("scores"))
    policies = Path(__file__).with_name("policies")
    chosen = (adult.scores > config.threshold).astype(int)
    columns: dict[str, Columns] = {
        "adult": (adult.test.labels, chosen, adult.test.groups),
        "compas": (kept["two_year_recid"], high_risk(kept), kept["race"]),
    }
    report.gates(
        run,
        {
            name: gates.judge(read_policy(policies / f"{name}.toml"), *given)
            for name, given in columns.items()
        },
    )


def card(run: Run) -> None:
    """The model card, from what this run has measured so far and nothing else."""
    import json

    from labs.lab3_fairness.card_numbers import read_results
    from labs.lab3_fairness.card_words import read_words
    from labs.lab3_fairness.claims import CLAIMS
    from labs.lab3_fairness.model_card import (
        DEFAULT_WORDS,
        missing_from,
        model_card,
        write_card,
    )

    so_far = run.work / "results.json"
    so_far.write_text(json.dumps(run.results.as_json(CLAIMS)), encoding="utf-8")
    results, words = read_results(so_far), read_words(DEFAULT_WORDS)
    made = model_card(results, words)
    write_card(made, run.dir / "model_card.md")
    written = (run.dir / "model_card.md").read_text(encoding="utf-8")
    missing = missing_from(written, results, words)
    run.metric("card.missing", len(missing), unit="numbers", how="promised, and not in the file")
    run.note("The model card is model_card.md in the run's folder.")


def _first(n: int) -> NDArray[np.intp]:
    import numpy as np

    return np.arange(n)
