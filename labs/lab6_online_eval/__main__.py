"""Lab 6: put the methods on trial, then design an experiment on a ranker, run it, and decide."""

from __future__ import annotations

from common.runner import Run, main
from labs.lab6_online_eval.claims import CLAIMS
from labs.lab6_online_eval.config import SCALES, Config


def story(run: Run, config: Config) -> None:
    """What offline cannot say, whom to trust, one experiment, and what lies beyond it."""
    from labs.lab6_online_eval import evidence_stages as evidence
    from labs.lab6_online_eval import experiment_stages as experiment
    from labs.lab6_online_eval import learning_stages as learning

    with run.stage("Fit the world, read the experiment's file", key="world"):
        setting = evidence.build(run, config)
    with run.stage("Offline against online", key="offline"):
        evidence.offline_against_online(run, config, setting)
    with run.stage("Every method on trial, on simulated truth", key="validation"):
        offered = evidence.put_methods_on_trial(run, config)
        evidence.try_on_real_users(run, config, setting)
    with run.stage("Many metrics, few clusters, priors", key="significance"):
        evidence.count_the_metrics(run, config)
    with run.stage("What looking often costs", key="peeking"):
        evidence.peek(run, config)
    with run.stage("Design the experiment", key="design"):
        experiment.design(run, config, setting)
    with run.stage("Run it, check its log, analyse, decide", key="experiment"):
        experiment.run_and_decide(run, config, setting, offered)
    with run.stage("The same question by interleaving", key="interleaving"):
        experiment.compare_with_interleaving(run, config, setting)
    with run.stage("Guardrails, and a watch that stops by itself", key="guardrails"):
        experiment.guard(run, config, setting)
    with run.stage("The long term", key="long_term"):
        learning.look_further(run, config, setting)
    with run.stage("Bandits", key="bandits"):
        learning.play_bandits(run, config)
    with run.stage("Policies judged from other policies' logs (Open Bandit)", key="off_policy"):
        learning.judge_from_logs(run, config)
    with run.stage("Causes without an experiment, judged by one (job training)", key="causal"):
        learning.judge_by_experiment(run, config, setting)


if __name__ == "__main__":
    main(
        "lab6_online_eval",
        SCALES,
        story,
        title="Lab 6: online evaluation and A/B testing",
        claims=CLAIMS,
        reading=(
            "Kohavi, Tang, Xu: Trustworthy Online Controlled Experiments (2020), "
            "https://experimentguide.com",
            "Deng et al.: Improving the Sensitivity of Online Experiments (CUPED, 2013), "
            "https://doi.org/10.1145/2433396.2433413",
            "Waudby-Smith et al.: Time-uniform central limit theory and asymptotic confidence "
            "sequences, https://arxiv.org/abs/2103.06476",
            "Chapelle et al.: Large-scale validation and analysis of interleaved search evaluation "
            "(2012), https://doi.org/10.1145/2094072.2094078",
            "Saito et al.: Open Bandit Dataset and Pipeline (2021), https://arxiv.org/abs/2008.07146",
            "Athey et al.: The surrogate index (2019), https://www.nber.org/papers/w26463",
        ),
    )
