"""What a run of the capstone claims, and the stage that measures it."""

from __future__ import annotations

from common.results import Op
from common.runner import Claim

GOAL_FEEDS = 500.0
ASKED_FEEDS = 200.0
ONE_BILLION = 1_000_000_000


def _claim(id: str, claim: str, metric: str, op: Op, target: float) -> Claim:
    return Claim(id, claim, metric=metric, op=op, target=target)


MODEL = (
    _claim("C.system", "the feed's NDCG@10, exploration apart, is at least .088 (whole catalogue)",
           "system.ndcg_at_10", ">=", 0.088),
    _claim("C.system_goal", "goal: .095", "system.ndcg_at_10", ">=", 0.095),
    _claim("C.retrieval", "retrieval beats EASE in NDCG@10: the paired gain's interval is above 0",
           "retrieval.gain_over_ease.low", ">", 0.0),
    _claim("C.ranker", "ranker's AUC on the random 8:1:1 split is at least .79",
           "random_split.auc", ">=", 0.79),
    _claim("C.ranker_goal", "goal: .80", "random_split.auc", ">=", 0.80),
    _claim("C.student_ndcg", "the student as served keeps 98 % of the teacher's NDCG@10",
           "student.ndcg_retention", ">=", 0.98),
    _claim("C.student_auc", "the student as served keeps 99 % of the teacher's AUC",
           "student.auc_retention", ">=", 0.99),
    _claim("C.gates", "the champion passed every gate, fairness included, and is registered",
           "registry.registered", "==", 1),
    _claim("C.merge", "sources beside the encoder find more: the paired gain in recall is above 0",
           "sources.gain_recall.low", ">", 0.0),
    _claim("C.exposure", "small (simulated) creators are shown at least 80 % of their share",
           "fairness.small_creators.low", ">=", 0.80),
    _claim("C.isolation", "target-aware ranker: a score depends on no other candidate, to 1e-6",
           "impressions.isolation_max_change", "<=", 1e-6),
    _claim("C.billion", "1B+ parameters trained on the simulated world",
           "impressions.parameters", ">=", ONE_BILLION),
)  # fmt: skip
SERVICE = (
    _claim("C.parity", "the service returns the feed the models were judged on (top 10 overlap)",
           "serving.offline_agreement", ">=", 0.99),
    _claim("C.feeds", f"{ASKED_FEEDS:.0f} feeds/s for 60 s: p99 under 50 ms",
           "serving.asked_p99_ms", "<", 50.0),
    _claim("C.feeds_rate", f"and all were answered: {ASKED_FEEDS:.0f}/s within 2 %",
           "serving.asked_rate", ">=", 0.98 * ASKED_FEEDS),
    _claim("C.feeds_goal", f"goal: {GOAL_FEEDS:.0f} feeds/s with p99 under 50 ms",
           "serving.qps", ">=", GOAL_FEEDS),
    _claim("C.stages", "the stages' latencies add up to the total within 5 %",
           "serving.stage_sum_error", "<=", 0.05),
    _claim("C.drilled", "every drill's fault was seen to be there",
           "drills.without_effect", "==", 0),
    _claim("C.budget", "no drill gives 5xx beyond the declared 0.1 %",
           "drills.over_budget", "==", 0),
    _claim("C.events", "no acknowledged reaction is lost in any drill", "drills.lost", "==", 0),
    _claim("C.page", "in a browser, reacting to an item changes the next feed",
           "page.changed_feeds", ">=", 1),
)  # fmt: skip
EVIDENCE = (
    _claim("C.promoted", "live: the student takes its teacher's place, and the registry's alias",
           "live_rollout.promoted", "==", 1),
    _claim("C.switches", "no request fails while the weights move",
           "live_rollout.failed", "==", 0),
    _claim("C.rollback", "a poisoned candidate is rolled back by itself",
           "drills.rolled_back", "==", 1),
    _claim("C.exposed", "and fewer than 100 feeds were of it",
           "drills.rollback_exposed", "<", 100),
    _claim("C.reconciled", "off-policy estimates from the served log agree with the served arm",
           "off_policy.live.agrees", "==", 1),
    _claim("C.srm", "the experiment's arms have the sizes they were given (SRM p above .001)",
           "experiment.srm_p", ">", 0.001),
    _claim("C.truth", "the A/B interval covers the simulated world's true effect",
           "experiment.truth_inside", "==", 1),
    _claim("C.aa", "A/A stays quiet: false positives within the binomial interval of 5 %",
           "aa.excess", "<=", 0.0),
    _claim("C.harm", "clickbait is stopped by the guardrail on hides in 95 % of its rollouts",
           "rollout.bait.by_guardrail", ">=", 0.95),
    _claim("C.loss", "an arm that loses clicks is stopped in 95 % of its rollouts",
           "rollout.harmful.stopped", ">=", 0.95),
    _claim("C.equal", "an arm that changes nothing is promoted in at most 5 % of its rollouts",
           "rollout.equal.promoted", "<=", 0.05),
    _claim("C.interleaving", "interleaving finds the sign of the simulated true effect",
           "interleaving.agrees", "==", 1),
)  # fmt: skip
CLAIMS = MODEL + SERVICE + EVIDENCE
STAGE_OF = {
    "C.system": "fairness", "C.system_goal": "fairness", "C.retrieval": "train",
    "C.ranker": "auc", "C.ranker_goal": "auc",
    "C.student_ndcg": "export", "C.student_auc": "export", "C.gates": "register",
    "C.isolation": "impressions", "C.billion": "impressions",
    "C.parity": "load", "C.feeds": "load", "C.feeds_rate": "load", "C.feeds_goal": "load",
    "C.stages": "load", "C.budget": "drills", "C.drilled": "drills", "C.events": "drills",
    "C.promoted": "experiment", "C.switches": "experiment", "C.rollback": "experiment",
    "C.exposed": "experiment", "C.reconciled": "experiment",
    "C.page": "page", "C.srm": "experiment", "C.truth": "experiment", "C.aa": "evidence",
    "C.harm": "evidence", "C.loss": "evidence", "C.equal": "evidence",
    "C.interleaving": "evidence", "C.exposure": "fairness", "C.merge": "retrieval",
}  # fmt: skip
"""The stage that measures each claim."""
TRAINED = (
    "C.system", "C.system_goal", "C.retrieval", "C.ranker", "C.ranker_goal", "C.student_ndcg",
    "C.student_auc", "C.gates", "C.merge", "C.exposure",
)  # fmt: skip
"""Claims about trained models, which a smoke run of a few epochs cannot show."""
