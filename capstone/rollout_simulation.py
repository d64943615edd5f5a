"""Rollouts in the simulated world, many times over: what the rule does to good and bad candidates.

The rule that acts live (`rollout_decision`) is run on simulated windows. A look draws the sessions
of both arms from their exact law: the number of clicks of a random person's session, summed over
the positions, and whether it had a hide. So a whole rollout costs milliseconds, and how often a
harmful candidate is stopped, how soon, and how often a good one is sent back can be counted.

Simulated: people, reactions and servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.rollout import Look, Plan
from capstone.rollout_decision import ArmWindow, judge_windows, next_action
from common.errors import require
from common.statistics import proportion_ci
from labs.lab4_model_serving.rollout import Status
from labs.lab6_online_eval.interleaving_sensitivity import Law, law_of_sum

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SESSIONS = 1000
"""Sessions of both arms between two looks."""


@dataclass(frozen=True)
class ArmLaw:
    """What one session of an arm is like: the law of its clicks, and the chances of what is bad.

    ``error``, ``fallback`` and ``slow`` are of the arm's servers, and assumed.
    """

    clicks: Law
    hidden: float
    error: float = 0.0005
    fallback: float = 0.002
    slow: float = 0.002

    def window(self, n: int, rng: np.random.Generator, *, seen: bool = True) -> ArmWindow:
        """Simulated counts of n feeds; nobody reacts to a feed that was not ``seen``."""
        errors, fallbacks, slow = (
            int(rng.binomial(n, p)) for p in (self.error, self.fallback, self.slow)
        )
        if not seen:
            return ArmWindow(n, errors, fallbacks)
        sessions = n - errors
        counts = rng.multinomial(sessions, self.clicks.chance)
        return ArmWindow(
            feeds=n,
            errors=errors,
            fallbacks=fallbacks,
            slow=slow,
            sessions=sessions,
            hidden=int(rng.binomial(sessions, self.hidden)),
            clicks=float(counts @ self.clicks.values),
            squares=float(counts @ self.clicks.values**2),
        )


def arm_law(chances: Mapping[str, Floats], **bad: float) -> ArmLaw:
    """The law of a random person's session with a list of their own.

    Parameters
    ----------
    chances
        ``click`` and ``hide``: float [n_users, k], probability of each at each position.
    bad
        ``error``, ``fallback``, ``slow`` of the arm's servers.
    """
    click = chances["click"]
    law = law_of_sum(click, np.ones(click.shape, dtype=np.int64))
    kept = law.values >= 0
    chance = law.chance[kept]
    hidden = float((1 - np.prod(1 - chances["hide"], axis=1)).mean())
    return ArmLaw(Law(law.values[kept], chance / chance.sum()), hidden, **bad)


@dataclass(frozen=True)
class SimulatedRollout:
    """One rollout: how it ended, what it cost, and every look.

    ``exposed``: sessions in which a person saw the candidate; ``looks`` of all steps.
    """

    status: Status
    reason: str
    state: str
    """The step at which it ended."""
    exposed: int
    trace: tuple[Look, ...]

    @property
    def looks(self) -> int:
        return len(self.trace)


def simulate_rollout(
    champion: ArmLaw,
    candidate: ArmLaw,
    plan: Plan,
    *,
    sessions: int = SESSIONS,
    seed: int | Sequence[int] = 0,
) -> SimulatedRollout:
    """One rollout by the live rule; ``sessions`` of both arms come between two looks.

    In a shadow the candidate gets a copy of a tenth of them.
    """
    require(sessions >= 10, "sessions", sessions, "must be at least 10")
    rng = np.random.default_rng(seed)
    trace: list[Look] = []
    exposed = 0
    for number, step in enumerate(plan.steps):
        last = number == len(plan.steps) - 1
        shadow = step.weight == 0
        n_new = round(sessions * (0.1 if shadow else step.weight))
        n_old = sessions if shadow else sessions - n_new
        new, old = ArmWindow(), ArmWindow()
        for look in range(1, step.looks + 1):
            new += candidate.window(n_new, rng, seen=not shadow)
            old += champion.window(n_old, rng)
            exposed += 0 if shadow else n_new
            evidence = judge_windows(new, old, plan.limits, looks=look, steps=len(plan.steps))
            decision = next_action(step, evidence, last=last, margin=plan.limits.success_margin)
            known = bool(np.isfinite(evidence.success).all())
            trace.append(
                Look(
                    step.name,
                    look,
                    step.weight,
                    old,
                    new,
                    dict(evidence.guardrails),
                    evidence.success if known else None,
                    decision.action,
                    decision.reason,
                )
            )
            if decision.action != "wait":
                break
        if decision.action == "rollback":
            return SimulatedRollout(
                "rolled_back", decision.reason, step.name, exposed, tuple(trace)
            )
    return SimulatedRollout("promoted", decision.reason, step.name, exposed, tuple(trace))


@dataclass(frozen=True)
class Characteristics:
    """What became of many rollouts of one candidate. Shares with Wilson's 95 % interval.

    Attributes
    ----------
    effect, hides
        True: clicks a session minus the champion's; sessions with a hide over the champion's.
    promoted, stopped, given_up
        Shares that were promoted, sent back for harm or a certain loss, sent back because nothing
        could be shown in time.
    by_guardrail
        Of all rollouts, the share that a guardrail stopped, and not a loss of clicks.
    exposed
        Median number of sessions that saw the candidate until the end.
    states
        Step to the share of rollouts that ended there.
    """

    name: str
    n: int
    effect: float
    hides: float
    promoted: float
    promoted_ci: tuple[float, float]
    stopped: float
    stopped_ci: tuple[float, float]
    given_up: float
    by_guardrail: float
    exposed: float
    looks: float
    states: dict[str, float]
    example: SimulatedRollout


def characteristics(
    name: str,
    champion: ArmLaw,
    candidate: ArmLaw,
    plan: Plan,
    *,
    repeats: int = 200,
    sessions: int = SESSIONS,
    seed: int = 0,
) -> Characteristics:
    """Repeat :func:`simulate_rollout`, every time with other people."""
    require(repeats >= 2, "repeats", repeats, "must be at least 2", "try 200")
    runs = [
        simulate_rollout(champion, candidate, plan, sessions=sessions, seed=[seed, number])
        for number in range(repeats)
    ]
    promoted = sum(run.status == "promoted" for run in runs)
    given_up = sum(run.reason.startswith("given up") for run in runs)
    stopped = repeats - promoted - given_up
    ends = [run.state for run in runs]
    return Characteristics(
        name=name,
        n=repeats,
        effect=candidate.clicks.mean - champion.clicks.mean,
        hides=candidate.hidden / champion.hidden,
        promoted=promoted / repeats,
        promoted_ci=proportion_ci(promoted, repeats),
        stopped=stopped / repeats,
        stopped_ci=proportion_ci(stopped, repeats),
        given_up=given_up / repeats,
        by_guardrail=sum(run.reason.startswith("harm") for run in runs) / repeats,
        exposed=float(np.median([run.exposed for run in runs])),
        looks=float(np.median([run.looks for run in runs])),
        states={step.name: ends.count(step.name) / repeats for step in plan.steps},
        example=runs[0],
    )
