"""Silent failures without an experiment: whose log it was, and who was at hand to compare with."""

from __future__ import annotations

import numpy as np

from common.data import load
from common.traps import Trap


def estimate_of_two_rows() -> Trap:
    """Open Bandit, Women: the random policy evaluated from the Thompson log."""
    from labs.lab6_online_eval import off_policy
    from labs.lab6_online_eval.open_bandit import read_log

    dataset = load("open-bandit")
    log, judge = (read_log(dataset, policy, "women") for policy in ("bts", "random"))
    target = np.full(log.n, 1 / log.n_actions)
    weights = off_policy.importance_weights(log.propensity, target)
    value = float(off_policy.ipw(log.reward, weights).mean())
    return Trap(
        title="10,000 rows that are worth two",
        wrong=("clicks per 1,000 by IPW", 1000 * value),
        right=("what is said instead", f"refused: {off_policy.refusal(weights, log.reward)}"),
        why=f"One row was shown with probability 1e-6 and weighs {weights.max():,.0f}; it carries "
        f"{weights.max() / weights.sum():.0%} of all weight. The random policy's own log says "
        f"{1000 * judge.reward.mean():.1f}. Nothing in the estimate warns; the effective sample "
        "size does.",
    )


def survey_for_a_control_group() -> Trap:
    """Job training: the treated compared with the general population."""
    from labs.lab6_online_eval.causal_estimate import difference_in_means
    from labs.lab6_online_eval.observational_study import experiment_of, nsw_with_cps

    dataset = load("nsw")
    data = nsw_with_cps(dataset)
    naive = difference_in_means(data.outcome, data.treated)
    return Trap(
        title="Whoever was at hand for a control group",
        wrong=("effect on earnings against the CPS (USD)", round(naive.effect)),
        right=("effect by the randomised experiment (USD)", round(experiment_of(dataset).effect)),
        why="The programme took people out of work; the survey asked everybody. Its interval is "
        "narrow, and 17 standard errors from the truth: an error says how much the sample varies, "
        "and nothing of whom it compares. More people would only make it surer.",
    )
