"""What the run writes down of explanations, calibration and uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labs.lab3_fairness.report import put, slug

if TYPE_CHECKING:
    from common.runner import Run
    from labs.lab3_fairness.attention_study import AttentionStudy, PlantedAttention
    from labs.lab3_fairness.calibration_study import (
        AdultMulticalibration,
        AdultUncertainty,
        CompasCalibration,
        Coverage,
    )
    from labs.lab3_fairness.explainer_comparison import Comparison
    from labs.lab3_fairness.faithfulness_study import FaithfulnessStudy
    from labs.lab3_fairness.gap_attribution import GapStudy
    from labs.lab3_fairness.scaffolding import FoolingResult

ALL = "(all)"


def explainers(run: Run, comparison: Comparison) -> None:
    """Is each explanation what it claims to be, and is it the same the next time?"""
    from labs.lab3_fairness.figures_explanations import draw_lime_spread

    area = "explanations"
    put(run, f"{area}.closed_form_error", comparison.closed_form_error, "probability")
    put(run, f"{area}.shap_error", comparison.shap_error, "probability")
    worst = max(comparison.closed_form_error, comparison.shap_error)
    put(run, f"{area}.largest_error", worst, "probability", how="enumeration against both")
    n = len(comparison.exact.values)
    for check in comparison.checks:
        name = f"{area}.{slug(check.method)}"
        put(run, f"{name}_largest_error", check.largest_error, "probability", n=n)
        put(
            run, f"{name}_spread", check.spread, "probability", n=n, how="standard deviation, seeds"
        )
        how = "share of the first three columns that two seeds agree on"
        put(run, f"{name}_top3_agreement", check.top3_agreement, n=n, how=how)
    run.figure(
        "lime_spread",
        draw_lime_spread(comparison),
        caption="LIME's credits for one row over seeds beside the exact values; a narrow kernel "
        "scatters less because it shrinks everything.",
    )


def gap(run: Run, study: GapStudy) -> None:
    """Which columns carry the gap between the sexes, and what dropping one of them does."""
    from labs.lab3_fairness.figures_explanations import draw_gap_attribution

    for name, found in (("linear", study.linear), ("boosting", study.trees)):
        put(run, f"gap.{name}", found.gap, "of the output", n=found.n, ci95=found.gap_ci95)
        largest = sorted(found.shares, key=lambda share: -abs(share.contribution))[:4]
        for share in largest:
            column = f"gap.{name}_{slug(share.column)}"
            put(run, column, share.contribution, "of the output", n=found.n, ci95=share.ci95)
    unexplained = max(abs(study.linear.unexplained), abs(study.trees.unexplained))
    put(run, "gap.unexplained", unexplained, "of the output", how="gap minus all credits")
    refit = study.refit
    how = f"column {refit.column}, which the explanation credits with {refit.attributed:.3f}"
    put(run, "gap.refit_attributed", refit.attributed, "of the output")
    put(run, "gap.refit_removed", refit.removed, "of the output", how=how)
    run.figure(
        "gap_attribution",
        draw_gap_attribution(study),
        caption="Each column's contribution to the gap in mean output between the sexes, with "
        "95 % intervals; grey is chance.",
    )


def fooled(run: Run, result: FoolingResult) -> None:
    """How often the explainers name race in a model that decides by nothing else."""
    from labs.lab3_fairness.figures_explanations import draw_fooling

    for top in result.tops:
        name = f"explanations.fooling_{slug(top.explainer)}_race_{slug(top.model)}"
        put(run, name, top.race, n=top.n, how="share of people for whom race is the first reason")
    for name, outcome in result.outcomes.items():
        area = f"explanations.fooling_{slug(name)}_dp_diff"
        put(run, area, outcome.dp_diff, "difference", n=outcome.n, ci95=outcome.dp_diff_ci95)
    run.figure(
        "fooling",
        draw_fooling(result),
        caption="The first reason that each explainer gives, before and after the attack; and what "
        "group metrics on real rows show.",
    )


def faithfulness(run: Run, linear: FaithfulnessStudy, trees: FaithfulnessStudy) -> None:
    """What happens to the output when the columns an explanation names are taken away?"""
    from labs.lab3_fairness.figures_faithfulness import draw_curves

    area = "explanations"
    for score in trees.scores:
        name = f"{area}.{slug(score.method)}"
        put(
            run, f"{name}_deletion", score.deletion, "log-odds", n=trees.n, ci95=score.deletion_ci95
        )
        if score.infidelity == score.infidelity:  # a method that only ranks has none
            unit, interval = "squared log-odds", score.infidelity_ci95
            put(run, f"{name}_infidelity", score.infidelity, unit, n=trees.n, ci95=interval)
    exact = linear.score("Shapley")
    how = "logistic regression, closed form"
    put(run, f"{area}.linear_shapley_infidelity", exact.infidelity, "squared log-odds", how=how)
    mean, interval = trees.difference("Shapley", "Shapley of logistic")
    how = "deletion area, paired: the model's own credits minus another model's"
    put(run, f"{area}.own_minus_other_model", mean, "log-odds", n=trees.n, ci95=interval, how=how)
    run.figure(
        "faithfulness",
        draw_curves(trees),
        caption="Boosting on Adult: distance from a person's output while columns are deleted and "
        "put back in the order of each explanation; grey: random orders.",
    )


def attention(run: Run, study: AttentionStudy, planted: PlantedAttention | None) -> None:
    """Does the model use what it attends to?"""
    from labs.lab3_fairness.figures_faithfulness import draw_attention

    area = "explanations"
    put(
        run,
        f"{area}.attention_model_accuracy",
        study.accuracy,
        how="transformer, Adult's test half",
    )
    for score in study.scores:
        name, interval = (
            f"{area}.{slug(score.method)}_rank_correlation",
            score.rank_correlation_ci95,
        )
        how = "with ablation, column by column; mean over people"
        put(run, name, score.rank_correlation, "Spearman", n=study.n, ci95=interval, how=how)
    mean, interval = study.difference("integrated gradients", "attention, last layer")
    put(run, f"{area}.ig_minus_attention", mean, "Spearman", n=study.n, ci95=interval)
    if planted is not None:
        group = planted.columns.index("group")
        looks = float(planted.attention[group])
        how = "on the one column that decides, after training not to look at it"
        put(run, f"{area}.planted_attention", looks, how=how)
        put(run, f"{area}.planted_ablation", float(planted.shares["ablation"][group]))
        put(run, f"{area}.planted_accuracy", planted.accuracy)
        run.figure(
            "attention",
            draw_attention(study, planted),
            caption="Share of each column by method on Adult; rank correlation with ablation; and "
            "a model that decides by one column and was trained not to look at it.",
        )


def compas_calibration(run: Run, result: CompasCalibration) -> None:
    """Calibration by race, and what repairing it does to the decisions."""
    from labs.lab3_fairness.figures_calibration import draw_reliability

    for group in result.groups:
        name = f"calibration.compas_{slug(group.group)}"
        how = f"a calibrated score has {group.ece_null_mean:.3f} here by chance"
        put(run, f"{name}_ece", group.ece, n=group.n, how=how)
        put(run, f"{name}_p", group.p_value, "probability", n=group.n)
        put(run, f"{name}_rms", group.rms, n=group.n, ci95=group.rms_ci95, how="bias removed")
    gaps = {}
    for each in result.recalibrated:
        name = f"recalibration.compas_{slug(each.method)}_{slug(each.scope)}"
        outcome = each.outcome
        gaps[each.method, each.scope] = outcome.dp_diff
        put(run, f"{name}_dp_diff", outcome.dp_diff, "difference", ci95=outcome.dp_diff_ci95)
        put(run, f"{name}_eo_diff", outcome.eo_diff, "difference", ci95=outcome.eo_diff_ci95)
    before = next(gap for (method, _), gap in gaps.items() if method == "none")
    widened = gaps["platt", "per group"] - before
    put(run, "recalibration.compas_dp_widened", widened, "difference", how="Platt for each race")
    run.figure(
        "reliability",
        draw_reliability(result),
        caption="COMPAS, own model: reliability by race over the bars within which a calibrated "
        "model stays.",
    )


def multicalibration(run: Run, results: Mapping[str, AdultMulticalibration]) -> None:
    """The worst of hundreds of groups, before and after."""
    from labs.lab3_fairness.figures_calibration import draw_multicalibration

    for model, result in results.items():
        for name in ("plain", "per_sex", "multicalibrated"):
            audited = getattr(result, name)
            area = f"multicalibration.{slug(model)}_{name}"
            how = f"by chance: up to {audited.audit.null_q95:.2f}"
            put(run, f"{area}_worst_z", audited.audit.worst_z, "standard errors", how=how)
            put(run, f"{area}_flagged", audited.audit.n_flagged, "groups")
            put(run, f"{area}_log_loss", audited.log_loss, "nats")
        put(run, "multicalibration.groups", result.plain.audit.n_audited, "groups")
    run.figure(
        "multicalibration",
        draw_multicalibration(results),
        caption="The worst group's calibration before and after, with what the worst of as many "
        "calibrated groups reaches by chance.",
    )


def conformal(run: Run, coverages: Mapping[str, Coverage]) -> None:
    """What the promised coverage is for each group, by one threshold and by one a group."""
    from labs.lab3_fairness.figures_calibration import draw_coverage

    for name, coverage in coverages.items():
        for kind, table in (("marginal", coverage.marginal), ("mondrian", coverage.mondrian)):
            for group, row in table.iterrows():
                whom = "all" if group == ALL else slug(str(group))
                area = f"conformal.{name}_{kind}"
                ci95 = (float(row["low"]), float(row["high"]))
                n = int(row["n"])
                put(run, f"{area}_coverage_{whom}", float(row["coverage"]), n=n, ci95=ci95)
                undecided = float(row["several"] + row["empty"])
                put(run, f"{area}_undecided_{whom}", undecided, n=n)
    adult = coverages["adult"]
    hidden = 1 - adult.alpha - float(adult.marginal.drop(ALL)["high"].min())
    put(run, "conformal.hidden", hidden, how="promise minus the upper limit of the worst group's")
    repaired = float((adult.mondrian.drop(ALL)["coverage"] - (1 - adult.alpha)).abs().max())
    put(run, "conformal.mondrian_error", repaired, how="farthest group from the promise")
    run.figure(
        "conformal",
        draw_coverage(adult),
        caption="90 % of all is more of the women and less of the men; a threshold for each "
        "repairs it, at a price in undecided cases.",
    )


def uncertainty(run: Run, result: AdultUncertainty) -> None:
    """Whose predictions the ensemble doubts, and whom abstaining helps."""
    from labs.lab3_fairness.figures_calibration import draw_selective

    for group, row in result.by_race.iterrows():
        put(
            run,
            f"uncertainty.epistemic_{slug(str(group))}",
            float(row["epistemic"]),
            "bits",
            n=int(row["n"]),
            ci95=(float(row["low"]), float(row["high"])),
        )
    gaps = {level: _high_earners_gap(result, level) for level in (1.0, 0.7)}
    for level, value in gaps.items():
        how = "accuracy of men minus women among high earners, of those decided"
        put(run, f"selective.gap_at_{round(100 * level)}", value, "difference", how=how)
    put(run, "selective.widened", gaps[0.7] - gaps[1.0], "difference")
    run.figure(
        "selective",
        draw_selective(result),
        caption="Leaving out what the model doubts helps men with a high income first.",
    )


def _high_earners_gap(result: AdultUncertainty, level: float) -> float:
    table: Any = result.selective
    at = table[(table["coverage"] - level).abs() < 1e-9].set_index("group")["accuracy"]
    return float(at["Male > 50K"] - at["Female > 50K"])
