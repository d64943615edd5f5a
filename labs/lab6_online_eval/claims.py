"""What the lab promises to show, each promise one metric of the run and one bound."""

from __future__ import annotations

from typing import Literal

from common.results import Claim


def _claim(
    name: str, text: str, metric: str, op: Literal["<", "<=", ">", ">=", "=="], target: float
) -> Claim:
    return Claim(f"L6.{name}", text, metric=metric, op=op, target=target)


CLAIMS = (
    _claim(
        "ranking_ab",
        "an A/B test of two rankers, designed, run, logged, analysed: its 95 % interval holds the "
        "true effect (distance in half widths)",
        "experiment.error_in_half_widths",
        "<=",
        1,
    ),
    _claim(
        "validated",
        "honest methods that fail on simulated truth (false positives, coverage, power)",
        "validation.honest_refused",
        "==",
        0,
    ),
    _claim(
        "mistakes_found",
        "classic mistakes that pass as methods",
        "validation.flawed_offered",
        "==",
        0,
    ),
    _claim(
        "peeking",
        "twenty looks at p < .05: false positives of the naive test, about 25 %",
        "peeking.naive_peeking.20_looks.fpr",
        ">=",
        0.24,
    ),
    _claim(
        "sequential",
        "a confidence sequence under the same twenty looks: false positives",
        "aa.confidence_sequence.fpr",
        "<=",
        0.05,
    ),
    _claim(
        "power",
        "power by the formula and simulated, difference",
        "design.power_gap.plain",
        "<=",
        0.02,
    ),
    _claim(
        "cuped",
        "variance that CUPED removes from clicks a user",
        "cuped.variance_reduction",
        ">=",
        0.25,
    ),
    _claim("log", "planted faults of the log that no check found", "log.faults_missed", "==", 0),
    _claim("sound", "refusals of a sound log", "log.sound_refusals", "==", 0),
    _claim(
        "offline",
        "offline accuracy orders the rankers as clicks do (Kendall's tau of NDCG): it does not",
        "offline.tau.ndcg",
        "<",
        0.5,
    ),
    _claim(
        "interleaving",
        "sessions that an A/B test needs, over those of team-draft interleaving",
        "interleaving.sensitivity_ratio",
        ">",
        10,
    ),
    _claim(
        "interleaving_right",
        "pairs of rankers that interleaving puts in the true order",
        "interleaving.agreement",
        ">=",
        1,
    ),
    _claim(
        "stop",
        "runs at the edge of their guardrails that the hourly watch stops",
        "stop.at_margin.share",
        "<=",
        0.05,
    ),
    _claim(
        "ope_known",
        "Open Bandit: IPW of BTS from the random log is the known .00457, to its digits",
        "ope.ipw.known_deviation",
        "<",
        1e-9,
    ),
    _claim(
        "ope_refusal",
        "Open Bandit, Women, random from BTS: two effective rows, and a refusal",
        "ope.women.bts.refusals",
        "==",
        1,
    ),
    _claim(
        "nsw",
        "job training: 1794.3433 +- 670.9966 dollars, to half a cent",
        "nsw.deviation",
        "<",
        0.005,
    ),
    _claim(
        "novelty",
        "error of the fitted long-run effect, over that of the first week",
        "novelty.error_left",
        "<",
        0.5,
    ),
    _claim(
        "surrogate",
        "coverage of the surrogate index where surrogacy is violated",
        "surrogate.direct.coverage",
        "<",
        0.5,
    ),
    _claim(
        "holdback",
        "a season's launches by the sum of their estimates, over the truth",
        "holdback.naive_ratio",
        ">",
        1.5,
    ),
)
