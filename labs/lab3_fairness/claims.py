"""What the lab promises to show, each promise one metric of the run and one bound."""

from __future__ import annotations

from typing import Literal

from common.results import Claim


def _claim(
    name: str, text: str, metric: str, op: Literal["<", "<=", ">", ">=", "=="], target: float
) -> Claim:
    return Claim(f"L3.{name}", text, metric=metric, op=op, target=target)


CLAIMS = (
    _claim(
        "known",
        "COMPAS demographic parity and equalized odds differences equal the known values to 1e-12",
        "known.largest_error",
        "<",
        1e-12,
    ),
    _claim(
        "fico",
        "FICO: the four published shares of the largest profit, to 0.05 points",
        "lending.largest_distance",
        "<=",
        0.05,
    ),
    _claim(
        "fair_star",
        "FA*IR: the published failure probability of its table, to 1e-12",
        "ranking.fair_number_error",
        "<",
        1e-12,
    ),
    _claim(
        "audit",
        "every disparity of the three audits has an interval and a null",
        "audit.without_interval_or_null",
        "==",
        0,
    ),
    _claim(
        "coverage_values",
        "95 % intervals of a group's rate hold it in 93 to 97 % of data sets, mean over rates",
        "coverage.value_error",
        "<=",
        0.02,
    ),
    _claim(
        "coverage_differences",
        "and those of a difference of two groups, mean over rates",
        "coverage.difference_error",
        "<=",
        0.02,
    ),
    _claim(
        "coverage_gaps",
        "those of the largest of many differences hold it in 93 % or more",
        "coverage.largest_difference_least",
        ">=",
        0.93,
    ),
    _claim(
        "null",
        "groups that do not differ are told apart at 5 % in 3 to 7 % of simulated data sets",
        "null.error",
        "<=",
        0.02,
    ),
    _claim(
        "slices_null",
        "where no slice is bad, one is confirmed in at most 5 % of data sets",
        "slices.null_confirmed",
        "<=",
        0.05,
    ),
    _claim(
        "slices_found",
        "slices that were put there are found",
        "slices.planted_recall",
        ">=",
        0.9,
    ),
    _claim(
        "slices_true",
        "and what is confirmed really is worse than the rest",
        "slices.planted_precision",
        ">=",
        0.9,
    ),
    _claim(
        "mitigation",
        "the rule made for demographic parity at least halves the model's difference",
        "mitigation.dpd_ratio",
        "<=",
        0.5,
    ),
    _claim(
        "eo_randomised",
        "Adult, test half: EO difference <= .015 at accuracy >= .860, by a rule with a coin",
        "target.eo_lottery_reached",
        "==",
        1,
    ),
    _claim(
        "eo_deterministic",
        "Adult, test half: the same without a coin, the rule that rehearsed better",
        "target.eo_deterministic_reached",
        "==",
        1,
    ),
    _claim(
        "dp_randomised",
        "Adult, test half: DP difference <= .010 at accuracy >= .849, by a rule with a coin",
        "target.dp_lottery_reached",
        "==",
        1,
    ),
    _claim(
        "dp_deterministic",
        "Adult, test half: the same without a coin, the rule that rehearsed better",
        "target.dp_deterministic_reached",
        "==",
        1,
    ),
    _claim(
        "joint_randomised",
        "Adult, test half: DP difference <= .05 and EO difference <= .10 together, with a coin",
        "target.joint_lottery_reached",
        "==",
        1,
    ),
    _claim(
        "joint_deterministic",
        "Adult, test half: the same without a coin, the rule that rehearsed better",
        "target.joint_deterministic_reached",
        "==",
        1,
    ),
    _claim(
        "frontier",
        "no method is significantly more accurate than the best model post-processed to its gaps",
        "frontier.ahead",
        "==",
        0,
    ),
    _claim(
        "exact_shap",
        "Shapley values by enumeration equal the closed form and shap to 1e-9",
        "explanations.largest_error",
        "<",
        1e-9,
    ),
    _claim(
        "gap_sums",
        "the columns' credits add up to the gap between the sexes",
        "gap.unexplained",
        "<",
        1e-9,
    ),
    _claim(
        "faithful",
        "exact Shapley values of a linear model keep every promise: their infidelity is 0",
        "explanations.linear_shapley_infidelity",
        "<",
        1e-12,
    ),
    _claim(
        "attention",
        "attention ranks columns as their ablation does less well than integrated gradients do",
        "explanations.ig_minus_attention",
        ">",
        0,
    ),
    _claim(
        "multicalibration",
        "after correction no group of hundreds is miscalibrated beyond chance",
        "multicalibration.logistic_multicalibrated_flagged",
        "==",
        0,
    ),
    _claim(
        "conformal",
        "sets with a threshold for each sex cover each as promised, to 0.015",
        "conformal.mondrian_error",
        "<=",
        0.015,
    ),
    _claim(
        "card",
        "the model card holds every number that was promised of the model, as this run measured it",
        "card.missing",
        "==",
        0,
    ),
)

FULL_DATA = (
    "L3.eo_randomised",
    "L3.eo_deterministic",
    "L3.dp_randomised",
    "L3.dp_deterministic",
    "L3.joint_randomised",
    "L3.joint_deterministic",
    "L3.frontier",
    "L3.attention",
    "L3.multicalibration",
    "L3.conformal",
)
"""Claims about Adult as it was published."""
