"""What the first half of the run writes down: known numbers, data, audits, slices, rankings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.runner import Run
    from labs.lab3_fairness.coverage_study import Study
    from labs.lab3_fairness.data_audit import DataAudit
    from labs.lab3_fairness.fair_ranking import RankedTest
    from labs.lab3_fairness.fairness_metrics import FairnessResult, FourFifths
    from labs.lab3_fairness.gap_bias import FairGap
    from labs.lab3_fairness.gate import GateReport
    from labs.lab3_fairness.group_metrics import GroupReport
    from labs.lab3_fairness.impossibility import CompasDebate
    from labs.lab3_fairness.intersections import IntersectionReport
    from labs.lab3_fairness.lending import CreditScores, LendingPolicy
    from labs.lab3_fairness.proxies import ProxyReport
    from labs.lab3_fairness.ranking_comparison import Pool, RankingOutcome
    from labs.lab3_fairness.resampling import GapNull
    from labs.lab3_fairness.slice_confirmation import SliceReport
    from labs.lab3_fairness.slice_study import NullStudy, PlantedStudy, Rate

COMPAS_DPD = 0.2451072146652139  # ProPublica's filter, decile > 4, African-American and Caucasian
COMPAS_EOD = 0.2115821530429738
FICO_SHARES = {  # Hardt, Price, Srebro 2016, of the largest profit, in percent
    "race blind": 99.35,
    "equal opportunity": 92.9,
    "equalized odds": 80.42,
    "demographic parity": 70.47,
}
FAIR_STAR = 0.10515247355215251  # failure probability of FA*IR's own adjusted table
LEAST_NULL_SETS = 100  # below, a share of 5 % is a matter of a few data sets


def slug(text: str) -> str:
    """Lower case, one underscore for whatever is neither letter nor digit."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def put(
    run: Run,
    name: str,
    value: float,
    unit: str = "ratio",
    *,
    n: int | None = None,
    ci95: tuple[float, float] | None = None,
    how: str = "",
) -> None:
    """Record a value; one that is not finite is recorded as unknown, with that as the reason."""
    if not isfinite(value):
        reason = "undefined: nobody is in its denominator, or nothing was found to measure"
        run.metric(name, None, unit=unit, n=n, how=how, reason=reason)
        return
    known = ci95 if ci95 is not None and all(map(isfinite, ci95)) else None
    run.metric(name, value, unit=unit, n=n, ci95=known, how=how)


def known(run: Run, debate: CompasDebate, dpd: float, eod: float) -> None:
    """COMPAS's rates by race, and how far they are from the published numbers."""
    for race, row in debate.rates.iterrows():
        for name in ("fpr", "fnr", "ppv"):
            put(run, f"known.{slug(str(race))}_{name}", row[name], n=int(row["n"]))
    n = int(debate.rates["n"].sum())
    put(run, "known.compas_dpd", dpd, "difference", n=n)
    put(run, "known.compas_eod", eod, "difference", n=n)
    error = max(abs(dpd - COMPAS_DPD), abs(eod - COMPAS_EOD))
    put(run, "known.largest_error", error, "difference", how="of DPD and EOD")
    put(run, "impossibility.identity_error", debate.identity_error, "difference")
    for race, fpr in debate.forced_fpr.items():
        put(
            run,
            f"impossibility.forced_fpr_{slug(str(race))}",
            float(fpr),
            how="what the base rate forces once PPV and FNR are equal",
        )
    put(run, "impossibility.forced_fpr_gap", debate.forced_gap, "difference")


def lending(run: Run, policies: Mapping[str, LendingPolicy], credit: CreditScores) -> None:
    """The price of each definition on FICO's scores, beside the published one."""
    from labs.lab3_fairness.figures_metrics import draw_lending

    found = {slug(name): 100 * policy.profit_share for name, policy in policies.items()}
    for name, share in found.items():
        put(run, f"lending.{name}_profit_share", share, "% of the largest profit")
    distance = max(abs(found[slug(name)] - value) for name, value in FICO_SHARES.items())
    put(run, "lending.largest_distance", distance, "percentage points", n=len(FICO_SHARES))
    caption = "What a lender keeps of the largest profit under each definition, and who is served."
    run.figure("lending", draw_lending(policies, credit), caption=caption)


def data(
    run: Run,
    audits: Mapping[str, DataAudit],
    proxies: Mapping[str, ProxyReport],
) -> None:
    """Who is in the tables, what they are labelled, and which columns tell the group."""
    from labs.lab3_fairness.figures_data import draw_missingness, draw_proxies, draw_representation

    for name, audit in audits.items():
        for share in audit.representation:
            group = slug(f"{share.attribute}_{share.group}")
            put(run, f"data.{name}_share_{group}", share.share, n=audit.rows, ci95=share.ci95)
        for rate in audit.base_rates:
            group = slug(f"{rate.attribute}_{rate.group}")
            put(run, f"data.{name}_base_rate_{group}", rate.rate, n=rate.n, ci95=rate.ci95)
        for gap in audit.base_rate_gaps:
            put(run, f"data.{name}_base_rate_gap_{gap.attribute}", gap.gap, "difference")
            put(run, f"data.{name}_base_rate_gap_{gap.attribute}_p", gap.p_gap, "probability")
        put(run, f"data.{name}_warnings", len(audit.warnings), "warnings")
        for warning in audit.warnings[:3]:
            run.note(f"{name}: {warning}")
    for name, report in proxies.items():
        put(run, f"proxies.{name}_auc", report.auc, "AUC", n=report.rows, ci95=report.auc_ci95)
        for fewer in report.drop_one[:1]:
            without = "_".join(map(slug, fewer.dropped))
            put(run, f"proxies.{name}_auc_without_{without}", fewer.auc, "AUC", ci95=fewer.auc_ci95)
    first = next(iter(audits.values()))
    run.figure(
        "representation",
        draw_representation(first),
        caption="Share and base rate of each group of Adult, with 95 % Wilson intervals; diamonds: "
        "the share in a reference population, where one was given.",
    )
    run.figure(
        "missingness",
        draw_missingness(first),
        caption="Missing answers by group; red survives Holm's correction over all columns.",
    )
    run.figure(
        "proxies",
        draw_proxies(next(iter(proxies.values()))),
        caption="How well each column alone tells the sexes apart, and what is left when the best "
        "ones are dropped.",
    )


def audit(run: Run, name: str, report: GroupReport) -> None:
    """Each disparity with its interval, the gap chance gives, and the p-value."""
    n_groups = len({value.group for value in report.groups})
    for gap in report.disparities:
        rows = sum(value.n_counted for value in report.groups if value.metric == gap.metric)
        put(
            run,
            f"{name}.{gap.metric}_difference",
            gap.difference,
            "difference",
            n=rows,
            ci95=gap.difference_ci95,
            how=f"max - min over {n_groups} groups ({gap.highest} - {gap.lowest})",
        )
        put(
            run,
            f"{name}.{gap.metric}_null_q95",
            gap.null_q95,
            "difference",
            how="the gap that randomly dealt groups exceed in 5 % of shuffles",
        )
        put(
            run,
            f"{name}.{gap.metric}_p",
            gap.p_value,
            "probability",
            n=report.n_permutations,
            how="permutation of the groups",
        )
    put(run, f"{name}.small_group_warnings", len(report.warnings), "warnings")
    for warning in report.warnings[:3]:
        run.note(f"{name}: {warning}")


SHORT = {
    "selection_rate": "selection_rate",
    "true_positive_rate": "tpr",
    "false_positive_rate": "fpr",
    "positive_predictive_value": "ppv",
    "accuracy": "accuracy",
}


def group_values(run: Run, area: str, report: GroupReport) -> None:
    """The rates of each group themselves, for the model card."""
    for value in report.groups:
        put(
            run,
            f"{area}.{slug(value.group)}_{SHORT[value.metric]}",
            value.value,
            n=value.n_counted,
            ci95=value.ci95,
        )


def definitions(run: Run, results: Sequence[FairnessResult], rule: FourFifths) -> None:
    """Every definition on one set of decisions: they do not agree, and need not."""
    for result in results:
        name = f"definitions.{slug(result.definition)}"
        gap = result.gap
        put(run, f"{name}_difference", gap.difference, "difference", ci95=result.ci95)
        put(run, f"{name}_p", result.p_value, "probability")
    put(run, "definitions.four_fifths_ratio", rule.ratio, ci95=rule.ci95, how="COMPAS, low risk")


def completeness(run: Run, reports: Mapping[str, GroupReport]) -> None:
    """Count the disparities, and those that lack an interval or a null."""
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


def intersections(run: Run, report: IntersectionReport) -> None:
    """Groups of sex, race and age together, and how many are too small to speak of."""
    from labs.lab3_fairness.figures_audit import draw_intersections

    put(run, "intersections.groups", len(report.intersections), "groups")
    put(run, "intersections.too_small", report.n_too_small, "groups")
    put(run, "intersections.worse_than_margins", len(report.worse()), "groups", how="Holm, 5 %")
    run.figure(
        "intersections",
        draw_intersections(report, least=10),
        caption=f"{report.metric.replace('_', ' ')} of groups by {', '.join(report.columns)}: as "
        "counted, with 95 % interval, and pulled towards the mean by how little is known.",
    )


def coverage(run: Run, study: Study, gaps: Sequence[FairGap], nulls: Mapping[int, GapNull]) -> None:
    """Do the intervals hold what they promise, and does the null reject what it promises?"""
    from labs.lab3_fairness.figures_audit import draw_coverage, draw_gap_bias

    for of, method in (("value", "Wilson"), ("difference", "Newcombe")):
        worst, share = study.worst(of, method), study.worst(of, "percentile")
        how = f"{method}, worst choice of sizes, mean over rates; percentile: {share:.3f}"
        put(run, f"coverage.{of}_farthest", worst, n=study.n_sets, how=how)
        put(run, f"coverage.{of}_error", abs(worst - 0.95), n=study.n_sets)
    pairs = study.averages("largest difference")
    least, percentile = float(pairs["all pairs"].min()), float(pairs["percentile"].min())
    how = f"all pairs; percentile bootstrap: {percentile:.3f}"
    put(run, "coverage.largest_difference_least", least, n=study.n_sets, how=how)
    rates = study.false_positives.values()
    put(run, "null.false_positives_least", min(rates), n=4 * study.n_sets)
    put(run, "null.false_positives_most", max(rates), n=4 * study.n_sets)
    error = max(abs(rate - 0.05) for rate in rates)
    put(run, "null.error", error, n=4 * study.n_sets, how="farthest from .05 of five kinds of data")
    fair = next(gap for gap in gaps if (gap.n_groups, gap.size) == (8, 50))
    put(run, "bias.expected_gap", fair.expected_gap, "difference", how="8 groups of 50, exact")
    put(run, "bias.four_fifths_fails", fair.four_fifths_fails, how="8 groups of 50, exact")
    if run.scale == "smoke":
        for claim in (
            "L3.coverage_values",
            "L3.coverage_differences",
            "L3.coverage_gaps",
            "L3.null",
        ):
            run.unmeasured(claim, f"{study.n_sets} data sets are too few; --scale standard")
    run.figure(
        "coverage",
        draw_coverage(study),
        caption="How often 95 % intervals hold the truth; grey: 93 to 97 %.",
    )
    run.figure(
        "gap_bias",
        draw_gap_bias(gaps, nulls),
        caption="The largest difference that chance gives between equal groups, beside its "
        "permutation null, and how often fair data fails the four-fifths rule.",
    )


def slices(run: Run, reports: Mapping[str, SliceReport]) -> None:
    """Slices found on one half, and what is left of them on the other."""
    from labs.lab3_fairness.figures_slices import draw_held_out_effects

    for name, report in reports.items():
        area = f"slices.{slug(name)}"
        put(run, f"{area}_tested", report.tested, "slices")
        put(run, f"{area}_found", len(report.slices), "slices", n=report.n_discovery)
        put(run, f"{area}_confirmed", len(report.confirmed), "slices", n=report.n_held_out)
        put(run, f"{area}_kept", report.shrinkage, how="effect held out / effect where found")
        for worst in report.confirmed[:1]:
            run.note(
                f"{name}, worst confirmed slice: {worst.text}: {worst.mean:.3f} against "
                f"{worst.rest:.3f} elsewhere, on {worst.n} held-out rows"
            )
    run.figure(
        "slices",
        draw_held_out_effects(reports),
        caption="Each slice's effect on the half that found it (diamond) and on held-out rows "
        "(dot, 95 % interval; red: confirmed by Holm's test).",
    )


def slice_studies(run: Run, null: NullStudy, planted: PlantedStudy) -> None:
    """The search where the truth is known: nothing to find, and slices put there."""
    from labs.lab3_fairness.figures_slices import draw_null_discoveries

    def rate(name: str, value: Rate) -> None:
        put(run, f"slices.{name}", value.value, n=value.n, ci95=value.ci95)

    rate("null_uncorrected", null.any_uncorrected)
    rate("null_bonferroni", null.any_bonferroni)
    rate("null_bh", null.any_benjamini_hochberg)
    rate("null_confirmed", null.any_confirmed)
    rate("planted_recall", planted.recall)
    rate("planted_precision", planted.precision)
    how = "confirmed slices that are exactly one that was planted, and not a part of one"
    put(run, "slices.planted_exact", planted.exact, how=how)
    if null.any_confirmed.n < LEAST_NULL_SETS:
        run.unmeasured(
            "L3.slices_null", f"{null.any_confirmed.n} data sets are too few to tell 5 %"
        )
    run.figure(
        "slices_null",
        draw_null_discoveries(null),
        caption="Share of data sets without any bad slice in which each procedure reports one, "
        "beside the level it promises.",
    )


def ranking(
    run: Run, pool: Pool, outcomes: Sequence[RankingOutcome], tests: Mapping[str, RankedTest]
) -> None:
    """Exposure and its price under each rule, and FA*IR's known numbers."""
    from labs.lab3_fairness.figures_ranking import draw_exposure

    for outcome in outcomes:
        area, n = f"ranking.{slug(outcome.rule)}", len(pool.scores)
        put(run, f"{area}_share", outcome.share, how="protected among the first k")
        put(run, f"{area}_exposure_ratio", outcome.exposure_ratio, ci95=outcome.exposure_ratio_ci95)
        price = outcome.ndcg_price
        put(run, f"{area}_ndcg_price", price, "NDCG", n=n, ci95=outcome.ndcg_price_ci95)
    for name, test in tests.items():
        put(run, f"ranking.fair_{name}_failure", test.failure, "probability")
    error = abs(tests["reference"].failure - FAIR_STAR)
    put(run, "ranking.fair_number_error", error, "probability", how="against the published number")
    run.figure(
        "exposure",
        draw_exposure(outcomes),
        caption="German credit, applicants of 25 or younger: their exposure, and what each rule "
        "costs in NDCG.",
    )


def gates(run: Run, reports: Mapping[str, GateReport]) -> None:
    """How many rules of each policy pass, fail, or cannot be decided yet."""
    from labs.lab3_fairness.figures_data import draw_gate

    kinds = set()
    for name, report in reports.items():
        verdicts = [str(result.verdict.value) for result in report.results]
        for verdict in ("pass", "fail", "not enough data"):
            put(run, f"gate.{name}_{slug(verdict)}", verdicts.count(verdict), "rules")
        run.note(f"Gate {name}: {report.verdict.value}")
        kinds = set(verdicts)
    put(run, "gate.compas_kinds_of_verdict", len(kinds), "kinds")
    run.figure(
        "gate",
        draw_gate(reports["compas"]),
        caption="COMPAS before its gate: the confidence limits of each rule beside its bound.",
    )
