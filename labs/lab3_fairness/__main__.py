"""Lab 3: how far apart are the groups, how sure is that, and what would chance alone give?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab3_fairness.config import SCALES, Config

if TYPE_CHECKING:
    from labs.lab3_fairness.group_metrics import GroupReport

COMPAS_DPD = 0.2451072146652139  # ProPublica's filter, decile > 4, African-American and Caucasian
COMPAS_EOD = 0.2115821530429738

CLAIMS = (
    Claim(
        "L3.known",
        "COMPAS demographic parity difference equals the known value to 1e-9",
        metric="known.compas_dpd_error",
        op="<",
        target=1e-9,
    ),
    Claim(
        "L3.audit",
        "every audited disparity has an interval and a null",
        metric="audit.without_interval_or_null",
        op="==",
        target=0,
    ),
    Claim(
        "L3.mitigation",
        "a mitigation halves the demographic parity difference of the audited model",
        metric="mitigation.dpd_ratio",
        op="<=",
        target=0.5,
    ),
)


def story(run: Run, config: Config) -> None:
    """Check the code against known numbers, train a model, audit it and COMPAS."""
    with run.stage("Known numbers: COMPAS from the confusion matrix", key="known"):
        known_numbers(run)
    reports = {}
    with run.stage("Adult: train without the column sex, audit by sex", key="adult"):
        reports["adult_sex"] = audit_adult(run, config)
    with run.stage("COMPAS: audit by race", key="compas"):
        reports["compas_two"] = audit_compas(run, config, ("African-American", "Caucasian"))
        reports["compas_all"] = audit_compas(run, config, None)
    with run.stage("Write the audits down", key="report"):
        for name, report in reports.items():
            record(run, name, report)
        completeness(run, reports)
        draw_rates(run, reports)
        draw_gaps(run, reports)
    run.unmeasured("L3.mitigation", "this run audits a model and mitigates nothing")


def known_numbers(run: Run) -> None:
    """Rates by race for the two groups ProPublica compared, against the published table."""
    from common.data import load
    from labs.lab3_fairness.confusion import (
        demographic_parity_difference,
        equalized_odds_difference,
        group_rates,
    )
    from labs.lab3_fairness.tabular import high_risk, propublica_filter

    compas = load("compas")
    run.data(compas)
    kept = propublica_filter(compas.table("scores"))
    run.metric("known.compas_rows", len(kept), unit="rows", how="ProPublica's filter")
    two = kept[kept["race"].isin(["African-American", "Caucasian"])]
    columns = (two["two_year_recid"], high_risk(two), two["race"])
    rates = group_rates(*columns)
    for race, row in rates.iterrows():
        for name in ("fpr", "fnr", "ppv"):
            slug = str(race).lower().replace("-", "_")
            run.metric(f"known.{slug}_{name}", row[name], unit="ratio", n=int(row["n"]))
    dpd, eod = demographic_parity_difference(*columns), equalized_odds_difference(*columns)
    run.metric("known.compas_dpd", dpd, unit="difference", n=len(two))
    run.metric("known.compas_eod", eod, unit="difference", n=len(two))
    run.metric("known.compas_dpd_error", abs(dpd - COMPAS_DPD), unit="difference")
    run.metric("known.compas_eod_error", abs(eod - COMPAS_EOD), unit="difference")


def audit_adult(run: Run, config: Config) -> GroupReport:
    """Logistic regression on the official split; the test half is audited."""
    from common.data import load
    from labs.lab3_fairness.group_metrics import group_metrics
    from labs.lab3_fairness.row_metrics import RATE_METRICS
    from labs.lab3_fairness.tabular import features, fit_logistic_regression

    adult = load("adult")
    run.data(adult)
    train, test = adult.table("train"), adult.table("test")
    model = fit_logistic_regression(train)
    predicted = (model.predict_proba(features(test))[:, 1] > config.threshold).astype("int64")
    report = group_metrics(
        test["income"],
        predicted,
        test["sex"],
        RATE_METRICS,
        n_boot=config.n_boot,
        n_permutations=config.n_permutations,
        seed=run.seed,
        min_rows=config.min_rows,
    )
    accuracy = report.disparity("accuracy")
    run.metric(
        "model.accuracy", accuracy.overall, unit="ratio", n=len(test), ci95=accuracy.overall_ci95
    )
    return report


def audit_compas(run: Run, config: Config, races: tuple[str, ...] | None) -> GroupReport:
    """COMPAS's own decision, decile > 4; ``races`` None takes all six groups."""
    from common.data import load
    from labs.lab3_fairness.group_metrics import group_metrics
    from labs.lab3_fairness.row_metrics import RATE_METRICS
    from labs.lab3_fairness.tabular import high_risk, propublica_filter

    kept = propublica_filter(load("compas").table("scores"))
    if races is not None:
        kept = kept[kept["race"].isin(races)]
    return group_metrics(
        kept["two_year_recid"],
        high_risk(kept),
        kept["race"],
        RATE_METRICS,
        n_boot=config.n_boot,
        n_permutations=config.n_permutations,
        seed=run.seed,
        min_rows=config.min_rows,
    )


def record(run: Run, name: str, report: GroupReport) -> None:
    """Each disparity with its interval, the gap chance gives, and the p-value."""
    n = len({value.group for value in report.groups})
    rows = sum(value.n for value in report.groups if value.metric == report.groups[0].metric)
    for gap in report.disparities:
        run.metric(
            f"{name}.{gap.metric}_difference",
            gap.difference,
            unit="difference",
            n=rows,
            ci95=gap.difference_ci95,
            how=f"max - min over {n} groups ({gap.highest} - {gap.lowest}); "
            f"bootstrap within groups, {report.n_boot} replicates",
        )
        run.metric(
            f"{name}.{gap.metric}_null_q95",
            gap.null_q95,
            unit="difference",
            how="the gap that randomly dealt groups exceed in 5 % of shuffles",
        )
        run.metric(
            f"{name}.{gap.metric}_p",
            gap.p_value,
            unit="probability",
            n=report.n_permutations,
            how="permutation of the groups",
        )
    run.metric(f"{name}.small_group_warnings", len(report.warnings), unit="warnings")
    for warning in report.warnings:
        run.note(f"{name}: {warning}")


def completeness(run: Run, reports: dict[str, GroupReport]) -> None:
    """Count the disparities, and those that lack an interval or a null."""
    from math import isfinite

    gaps = [gap for report in reports.values() for gap in report.disparities]
    lacking = [
        gap
        for gap in gaps
        if not all(map(isfinite, (*gap.difference_ci95, gap.null_q95, gap.p_value)))
    ]
    run.metric("audit.disparities", len(gaps), unit="disparities")
    run.metric("audit.without_interval_or_null", len(lacking), unit="disparities", n=len(gaps))
    no_gap = sum(gap.p_value > 0.05 for gap in gaps)
    run.metric("audit.not_told_from_chance", no_gap, unit="disparities", n=len(gaps), how="p > .05")


TITLES = {
    "adult_sex": "Adult by sex (model)",
    "compas_two": "COMPAS by race, two groups",
    "compas_all": "COMPAS by race, all groups",
}


def draw_rates(run: Run, reports: dict[str, GroupReport]) -> None:
    """One panel an audit: each rate of each group with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2))
    for axes, (name, report) in zip(figure.subplots(1, len(reports), sharey=True), reports.items()):
        metrics = [gap.metric for gap in report.disparities]
        groups = sorted({value.group for value in report.groups})
        for number, group in enumerate(groups):
            values = [report.group(metric, group) for metric in metrics]
            shift = (number - (len(groups) - 1) / 2) * 0.7 / len(groups)
            axes.errorbar(
                [position + shift for position in range(len(metrics))],
                [value.value for value in values],
                yerr=[
                    [value.value - value.ci95[0] for value in values],
                    [value.ci95[1] - value.value for value in values],
                ],
                fmt="o",
                markersize=4,
                label=group,
            )
        labels = [metric.replace("_", "\n") for metric in metrics]
        axes.set_xticks(range(len(metrics)), labels, fontsize=7)
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_ylim(-0.03, 1.3)
        axes.legend(fontsize=7, loc="upper center", ncols=2)
    figure.tight_layout()
    run.figure(
        "group_rates",
        figure,
        caption="Rates by group with 95 % bootstrap intervals, resampled within groups. An "
        "interval without width (Native American, 5 positives, all found) is a small group, "
        "not certainty.",
    )


def draw_gaps(run: Run, reports: dict[str, GroupReport]) -> None:
    """Observed gaps beside the gaps that chance gives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8))
    axes = figure.subplots()
    rows = [(TITLES[name], gap) for name, report in reports.items() for gap in report.disparities]
    for place, (_, gap) in enumerate(rows):
        label = "chance, up to its 95th percentile" if place == 0 else None
        axes.barh(place, gap.null_q95, color="lightgrey", label=label)
        axes.plot(gap.difference_ci95, (place, place), color="tab:blue")
        axes.plot(gap.difference, place, "o", color="tab:blue")
    names = [f"{title}: {gap.metric.replace('_', ' ')}" for title, gap in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("largest minus smallest group value")
    axes.legend(fontsize=8)
    figure.tight_layout()
    run.figure(
        "gaps_and_chance",
        figure,
        caption="Each gap (dot, 95 % interval) beside what randomly dealt groups of the same "
        "sizes give (grey). Six groups, two of them tiny, make large gaps out of nothing.",
    )


if __name__ == "__main__":
    main(
        "lab3_fairness",
        SCALES,
        story,
        title="Lab 3: fairness, bias and interpretability",
        claims=CLAIMS,
        reading=(
            "Verma, Rubin: Fairness Definitions Explained (2018), "
            "https://fairware.cs.umass.edu/papers/Verma.pdf",
            "Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning (2016), "
            "https://arxiv.org/abs/1610.02413",
            "Barocas, Hardt, Narayanan: Fairness and Machine Learning, https://fairmlbook.org",
            "DiCiccio et al.: Evaluating Fairness Using Permutation Tests (2020), "
            "https://arxiv.org/abs/2007.05124",
        ),
    )
