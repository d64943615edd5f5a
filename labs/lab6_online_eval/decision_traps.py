"""Silent failures of decisions: when one looks, what is randomised, what silence means."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from common.data import load
from common.traps import Trap
from labs.lab6_online_eval import confidence_sequences
from labs.lab6_online_eval import peeking as looks_at
from labs.lab6_online_eval.non_inferiority import non_inferiority_p_values
from labs.lab6_online_eval.rankers import discovery, ease, top_k
from labs.lab6_online_eval.world import World, build_world, read_interactions

DRAFTED = 100_000


def peeking() -> Trap:
    """The experiment is looked at every day and stopped at the first p < .05."""
    n, looks = 50_000, 20
    times = np.arange(1, looks + 1) / looks
    z = looks_at.z_statistics(np.random.default_rng(0), n, times, 0.0)
    units = times * 10_000
    tuned_for = confidence_sequences.tuning_for_looks(list(units))
    p = confidence_sequences.always_valid_p(z, 1.0, units, tuned_for=tuned_for)
    naive = np.abs(z) > norm.isf(0.025)
    return Trap(
        title="Stopping at the first significant look",
        wrong=("A/A false positives, p < .05 at any of 20 looks", float(naive.any(axis=1).mean())),
        right=("the same looks, confidence sequence", float((p < 0.05).any(axis=1).mean())),
        why="Each look is another chance to be wrong. Fix the length before the start, plan the "
        "looks (group-sequential), or use a sequence whose interval holds at every look.",
    )


def guardrail_that_saw_nothing() -> Trap:
    """A guardrail is called safe because it is "not significantly worse"."""
    rng = np.random.default_rng(0)
    loss, margin, rate, sessions = 0.5, 0.25, 0.002, 10_000
    control = rng.binomial(sessions, rate, 20_000) / sessions
    treatment = rng.binomial(sessions, rate * (1 + loss), 20_000) / sessions
    usable = control > 0
    ratio = treatment[usable] / control[usable]
    variance = (treatment[usable] + ratio**2 * control[usable]) / sessions
    effect, se = ratio - 1, np.sqrt(variance) / control[usable]
    not_worse = effect / se < norm.isf(0.05)
    safe = non_inferiority_p_values(-effect, se, margin) < 0.05
    return Trap(
        title="A guardrail that is not significant is called safe",
        wrong=('errors +50 % pass as "not significantly worse"', float(not_worse.mean())),
        right=("errors +50 % pass as non-inferior, margin 25 %", float(safe.mean())),
        why="Twenty errors in an arm cannot show a loss of a half, so the test for harm stays "
        "silent, and silence is read as safety. Non-inferiority turns the burden of proof around: "
        "the same data do not exclude the margin, and the guardrail does not pass.",
    )


def users_who_share_a_stock() -> Trap:
    """Users are randomised one by one, though they compete for the same items."""
    from labs.lab6_online_eval.cluster_randomisation import SharedStock, compare_randomisations

    found = compare_randomisations(SharedStock(), n_experiments=300)
    return Trap(
        title="A gain that disappears at launch",
        wrong=("mean effect, users randomised", found.user_mean),
        right=("mean effect, clusters randomised", found.cluster_mean),
        why=f"With everybody treated the gain is {found.true_effect:.3f} items a user. Treated "
        "users took the rest from the control users beside them, which the difference counts "
        "as gain. Nothing in the A/B test shows it: the arms are balanced and p is small. "
        "Randomise what does not compete (clusters, or blocks of time), and pay with a larger "
        "variance.",
    )


def draft_without_a_coin() -> Trap:
    """Team-draft in which A begins every round: an A/A test of one ranker against itself."""
    from labs.lab6_online_eval.interleaving import (
        coins,
        compare_interleaved,
        credit,
        team_draft_many,
    )

    data = read_interactions(load("ml-100k"))
    world: World = build_world(data)
    lists = top_k(ease(data), data)
    rng = np.random.default_rng(0)
    people = rng.integers(0, world.n_users, DRAFTED)
    shown = lists[people]
    effect = {}
    fair = coins(DRAFTED, shown.shape[1], rng)
    for name, a_first in (("never", np.ones_like(fair)), ("coin", fair)):
        films, teams = team_draft_many(shown, shown, a_first)
        clicks = world.clicks(people, films, rng)
        found = compare_interleaved(np.arange(DRAFTED), credit(clicks, teams))
        effect[name] = f"{found.effect:+.4f} clicks a session, p = {found.p:.2g}"
    return Trap(
        title="Interleaving without a random draft order",
        wrong=("a ranker against itself, A always first", effect["never"]),
        right=("a ranker against itself, a coin each round", effect["coin"]),
        why="Of every two places A has the better one, and position bias does the rest. The "
        "difference does not shrink with more sessions; only its p-value does.",
    )


def novelty_as_long_run() -> Trap:
    """The first week's effect of a new list is taken for what the launch will bring."""
    from labs.lab6_online_eval.novelty import study_novelty

    data = read_interactions(load("ml-100k"))
    lists = top_k(ease(data), data), top_k(discovery(data, power=0.2), data)
    (study,) = study_novelty(build_world(data), lists, n_units=20_000, changes=("novelty",))
    first, later = study.first_week_ci95, study.fit.ci95
    return Trap(
        title="Novelty read as the long-run effect",
        wrong=(
            "effect on clicks a session, first week",
            f"{study.first_week:.3f} ({first[0]:.3f} to {first[1]:.3f})",
        ),
        right=(
            "long-run level of the fit",
            f"{study.fit.level:.3f} ({later[0]:.3f} to {later[1]:.3f})",
        ),
        why=f"The true long-run effect is {study.truth:.3f}. Curiosity multiplies it by 2.5 at the "
        "first sight and fades within days. The first week's interval is narrow and excludes the "
        "truth; the effect by days since exposure shows the decline.",
    )
