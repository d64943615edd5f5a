"""The bandits as a study: regret against theory, late rewards, and inference afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from labs.lab6_online_eval import bandit_inference as inference
from labs.lab6_online_eval.bandit_inference import Reliability
from labs.lab6_online_eval.bandits import (
    DecayingEpsilonGreedy,
    EpsilonGreedy,
    KlUcb,
    Played,
    Policy,
    ThompsonSampling,
    Ucb1,
    play,
)
from labs.lab6_online_eval.contextual_bandits import (
    ContextualPolicy,
    IgnoringContext,
    LinThompson,
    LinUcb,
    linear_world,
    play_contextual,
)
from labs.lab6_online_eval.regret import (
    LogFit,
    ab_then_commit,
    lai_robbins_constant,
    log_fit,
    ucb1_bound,
)

MEANS = (0.5, 0.45, 0.4, 0.35, 0.3)
POLICIES: dict[str, Policy] = {
    "epsilon_greedy": EpsilonGreedy(0.1),
    "epsilon_decaying": DecayingEpsilonGreedy(0.05, c=0.2),
    "ucb1": Ucb1(),
    "kl_ucb": KlUcb(),
    "thompson": ThompsonSampling(),
}
CONTEXTUAL: dict[str, ContextualPolicy] = {
    "linucb": LinUcb(0.5),
    "linear_thompson": LinThompson(0.5),
    "greedy": LinUcb(0.0),
    "no_context": IgnoringContext(0.5),
}
LATE: dict[str, ContextualPolicy] = {
    name: CONTEXTUAL[name] for name in ("linucb", "linear_thompson")
}
ADAPTIVE_ARMS = (0.0, 0.0)


@dataclass(frozen=True)
class BestArm:
    """Share of runs that name the best arm at the end, and what finding out cost."""

    policy: str
    rounds: int
    identified: float
    regret: float


@dataclass(frozen=True)
class BanditStudy:
    """Everything that the bandit stage records.

    Attributes
    ----------
    means
        Of the Bernoulli arms.
    played, fits
        By policy: regret curves, and the late slope in ln t. ``ab_test``: a test of ``per_arm``
        rounds an arm, then the winner.
    lai_robbins
        Constant of the lower bound, to be compared with the slopes.
    ucb1_limit
        Auer's bound at the last round.
    contextual, late
        By policy; ``late`` with every reward ``delay`` rounds late.
    reliability
        Estimators of two equal arms' means that Thompson sampling collected.
    best_arm
        Equal shares, Thompson and top-two Thompson.
    """

    means: tuple[float, ...]
    played: dict[str, Played]
    fits: dict[str, LogFit]
    ab_test: Played
    per_arm: int
    lai_robbins: float
    ucb1_limit: float
    contextual: dict[str, Played]
    late: dict[str, Played]
    delay: int
    reliability: tuple[Reliability, ...]
    best_arm: tuple[BestArm, ...]

    def final_regret(self, policy: str) -> float:
        """Mean regret of a policy (or ``"ab_test"``) at the last round."""
        played = self.ab_test if policy == "ab_test" else self.played[policy]
        return float(played.mean[-1])

    def of(self, estimator: str, arm: int = 0) -> Reliability:
        return next(r for r in self.reliability if (r.estimator, r.arm) == (estimator, arm))


def study_bandits(
    *,
    rounds: int = 10_000,
    runs: int = 100,
    contextual_rounds: int = 2000,
    contextual_runs: int = 50,
    delay: int = 200,
    n_adaptive: int = 20_000,
    best_arm_rounds: int = 2000,
    best_arm_runs: int = 400,
    seed: int = 0,
) -> BanditStudy:
    """Play every policy, and see what can be concluded from what they collected.

    The A/B test before committing gets a tenth of the rounds, in equal shares.
    """
    played = {
        name: play(policy, MEANS, rounds, runs, seed + number)
        for number, (name, policy) in enumerate(POLICIES.items())
    }
    per_arm = max(1, rounds // 10 // len(MEANS))
    world = linear_world(seed=seed)
    size = contextual_rounds, contextual_runs
    seekers: dict[str, Policy] = {
        "equal_shares": inference.Uniform(),
        "thompson": ThompsonSampling(),
        "top_two": inference.TopTwo(),
    }
    best = []
    for name, policy in seekers.items():
        run = play(policy, MEANS, best_arm_rounds, best_arm_runs, seed)
        share = inference.share_identified(MEANS, run.wins, run.pulls)
        best.append(BestArm(name, best_arm_rounds, share, float(run.mean[-1])))
    return BanditStudy(
        means=MEANS,
        played=played,
        fits={name: log_fit(each) for name, each in played.items()},
        ab_test=ab_then_commit(MEANS, per_arm, rounds, 4 * runs, seed),
        per_arm=per_arm,
        lai_robbins=lai_robbins_constant(MEANS),
        ucb1_limit=float(ucb1_bound(MEANS, rounds)),
        contextual={
            name: play_contextual(policy, world, *size, seed) for name, policy in CONTEXTUAL.items()
        },
        late={
            name: play_contextual(policy, world, *size, seed, delay=delay)
            for name, policy in LATE.items()
        },
        delay=delay,
        reliability=inference.reliability(ADAPTIVE_ARMS, n_adaptive, seed),
        best_arm=tuple(best),
    )
