"""Everything that the experiments' stage measures without a server, in the simulated world.

Five candidates against the champion: a good one, an equal one, bait (more clicks, more hides), a
harmful one and a broken one. What the rollout does to each over many repeats; when the watch stops
a harmful arm of an A/B test; how quiet A/A is; whether interleaving and the off-policy estimate
agree with the A/B test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from capstone.aa_study import AAStudy, Coverage, study_aa, study_coverage
from capstone.experiment import Outcome
from capstone.experiment_log import Floats, Ints, respond
from capstone.interleaved import Agreement, compare_designs
from capstone.off_policy import (
    TwoArms,
    estimate_slots,
    ran_for_real,
    simulate_log,
    slot_policies,
    slot_rows,
    true_slot_value,
    whole_feed,
)
from capstone.rollout import Plan, read_plan
from capstone.rollout_simulation import ArmLaw, Characteristics, arm_law, characteristics
from capstone.world import World
from labs.lab6_online_eval.automatic_stop import StopReport, watch
from labs.lab6_online_eval.off_policy import Estimate
from labs.lab6_online_eval.ranking_off_policy import OffPolicyEstimate
from labs.lab6_online_eval.world import Sessions

K = 10
BAIT = 7
"""Places of the bait's feed with items that people hide."""
HEAD = 50
"""Candidates that the harmful ranking turns upside down."""
KINDS = ("good", "equal", "bait", "harmful", "broken")
BROKEN = {"error": 0.03, "fallback": 0.2, "slow": 0.05}
"""Shares of the broken candidate's feeds: assumed."""
DAYS = 14.0
LATENCY_MS, SPREAD = 20.0, 0.35
"""Median and spread of the simulated latency of a feed, the same in both arms."""


@dataclass(frozen=True)
class Row:
    """One line of the reconciliation: a design, what it estimates, and the truth of that.

    ``refused`` says why the estimate must not be used; ``truth`` None where the world has none.
    """

    design: str
    estimand: str
    estimate: float
    low: float
    high: float
    truth: float | None
    refused: str = ""

    @property
    def holds_truth(self) -> bool | None:
        """Whether the interval holds the truth; None without a truth, or when it is refused."""
        if self.truth is None or self.refused:
            return None
        return self.low <= self.truth <= self.high


@dataclass(frozen=True)
class Stop:
    """The watch over one simulated A/B test: what it saw, and what it had cost by then.

    ``exposed``: sessions in which a person saw the candidate until the stop, or the end; ``of``:
    until the end.
    """

    report: StopReport
    exposed: int
    of: int


@dataclass(frozen=True)
class ExperimentStudy:
    """What `study_experiment` measured; everything of simulated people.

    Attributes
    ----------
    rollouts
        Each of `KINDS` to its operating characteristics.
    stops
        ``bait``, ``harmful`` and ``equal``: the watch over an A/B test of each.
    aa, coverage
        Repeats without an effect, and with the candidate's.
    designs
        Interleaving beside the A/B test.
    slots, slot_truth, slot_ran
        The candidate's draw in the exploration slots from the champion's log, its truth, and the
        same by serving it.
    whole
        The candidate's whole feed from that log.
    rows
        All of it and the live test in one table.
    """

    rollouts: dict[str, Characteristics]
    stops: dict[str, Stop]
    aa: AAStudy
    coverage: Coverage
    designs: Agreement
    slots: tuple[Estimate, ...]
    slot_truth: float
    logger_truth: float
    slot_ran: Estimate
    whole: OffPolicyEstimate
    rows: tuple[Row, ...]


def candidate_lists(world: World, arms: TwoArms, *, k: int = K) -> dict[str, Ints]:
    """The feeds of the champion and of the five candidates: int [n_users, k] each.

    ``good`` is the champion's best 2 k in the order of the world's own click probability, which no
    model knows. ``bait`` begins like it, and ends with `BAIT` items that people hide most: more
    clicks, and more hides. ``harmful`` is the champion's best `HEAD` from the last to the first, as
    when the weights of the value have the wrong sign. ``equal`` and ``broken`` show the champion's
    feed.
    """
    champion = arms.ranked(arms.champion, k)
    wide = arms.ranked(arms.champion, 2 * k)
    click = world.probabilities(np.arange(len(wide)), wide)["click"]
    order = np.argsort(-click, axis=1, kind="stable")[:, :k]
    good = np.take_along_axis(wide, order, axis=1)
    rest = arms.ranked(arms.champion, arms.ids.shape[1])[:, 2 * k :]
    hide = world.probabilities(np.arange(len(rest)), rest)["hide"]
    hated = np.take_along_axis(rest, np.argsort(-hide, axis=1, kind="stable")[:, :BAIT], axis=1)
    return {
        "champion": champion,
        "good": good,
        "bait": np.concatenate([good[:, : k - BAIT], hated], axis=1),
        "equal": champion,
        "harmful": arms.ranked(arms.champion, HEAD)[:, : -k - 1 : -1],
        "broken": champion,
    }


def law_of(world: World, lists: Ints, **bad: float) -> ArmLaw:
    """The exact law of a random person's session with these lists, in the world of day 0."""
    chance = world.probabilities(np.arange(len(lists)), lists)
    looked = world.examination(lists.shape[1])
    return arm_law({name: chance[name] * looked for name in ("click", "hide")}, **bad)


def watch_test(
    world: World, champion: Ints, candidate: Ints, *, sessions: int, seed: int = 0
) -> Stop:
    """A simulated 50/50 test over `DAYS` days, watched every hour for certain harm (lab 6)."""
    rng = np.random.default_rng([seed, 2])
    people = rng.integers(0, len(champion), sessions)
    arm = rng.integers(0, 2, sessions)
    day = np.sort(DAYS * rng.random(sessions))
    lists = np.where(arm[:, None] == 1, candidate[people], champion[people])
    found = respond(world, people, lists, day, rng)
    report = watch(
        Sessions(
            unit=np.arange(sessions),
            person=people,
            arm=arm,
            day=day,
            clicks=found.clicks.sum(axis=1),
            hides=found.hides.sum(axis=1),
            latency_ms=LATENCY_MS * np.exp(SPREAD * rng.standard_normal(sessions)),
            error=np.zeros(sessions, dtype=bool),
        ),
        np.arange(1.0, 24 * DAYS + 1),
    )
    end = DAYS if report.hour is None else report.hour / 24
    return Stop(report, int(((arm == 1) & (day < end)).sum()), int((arm == 1).sum()))


def study_experiment(
    world: World,
    arms: TwoArms,
    *,
    live: Sequence[Row] = (),
    plan: Plan | None = None,
    repeats: int = 200,
    users: int = 2000,
    sessions: int = 2000,
    watched: int = 20_000,
    explored: int = 12_000,
    slots: int = 1,
    seed: int = 0,
) -> ExperimentStudy:
    """Run every offline part.

    Parameters
    ----------
    arms
        Values of the champion and the candidate for the same candidates of every user.
    live
        What the live service said, for the table; without it the A/B test is a simulated one.
    repeats
        Of each candidate's rollout and of A/A.
    users, sessions, watched, explored
        Units of one A/A test; sessions of the interleaved test, of the watched test, and of the log
        with exploration slots.
    slots
        Exploration slots of a feed.
    """
    plan = plan or read_plan()
    lists = candidate_lists(world, arms)
    champion, candidate = lists["champion"], arms.ranked(arms.candidate, K)
    base = law_of(world, champion)
    rollouts = {
        name: characteristics(
            name,
            base,
            law_of(world, lists[name], **(BROKEN if name == "broken" else {})),
            plan,
            repeats=repeats,
            seed=seed + number,
        )
        for number, name in enumerate(KINDS)
    }
    stops = {
        name: watch_test(world, champion, lists[name], sessions=watched, seed=seed)
        for name in ("bait", "harmful", "equal")
    }
    policies = slot_policies(arms, k=K, slots=slots)
    log = simulate_log(world, policies, policies.logger, explored, seed=[seed, 3])
    found = estimate_slots(slot_rows(log, policies), K, world.n_items)
    truth = true_slot_value(world, policies, policies.target)
    ran = ran_for_real(world, policies, explored, seed=[seed, 4])
    whole = whole_feed(log, policies, arms)
    designs = compare_designs(world, champion, candidate, sessions=sessions, seed=seed)
    coverage = study_coverage(world, champion, candidate, repeats=repeats, users=users, seed=seed)
    whole_truth = float(world.expected(candidate)["clicks"].mean())
    rows = (
        *(live or simulated_rows(coverage)),
        *interleaving_rows(designs),
        *slot_table(found, ran, whole, truth, whole_truth),
    )
    return ExperimentStudy(
        rollouts=rollouts,
        stops=stops,
        aa=study_aa(world, champion, repeats=repeats, users=users, seed=seed),
        coverage=coverage,
        designs=designs,
        slots=found,
        slot_truth=truth,
        logger_truth=true_slot_value(world, policies, policies.logger),
        slot_ran=ran,
        whole=whole,
        rows=rows,
    )


def live_rows(live: Outcome) -> tuple[Row, ...]:
    """The A/B test through the service; none when its analysis was refused."""
    found = live.success
    if found is None:
        return ()
    return (
        Row(
            "A/B test, live service",
            "clicks a session, candidate minus champion",
            found.effect.estimate,
            *found.effect.interval,
            live.truth["clicks"],
        ),
    )


def simulated_rows(coverage: Coverage) -> tuple[Row, ...]:
    """The first of the simulated A/B tests."""
    first = coverage.first
    estimand = "clicks a session, candidate minus champion"
    return (Row("A/B test", estimand, first.effect, *first.ci95, coverage.true_effect),)


def interleaving_rows(designs: Agreement) -> tuple[Row, ...]:
    """Interleaving's credit: it has the sign of the effect, and another size."""
    preference = designs.preference
    estimand = "credit a session"
    return (Row("team-draft interleaving", estimand, preference.effect, *preference.ci95, None),)


def slot_table(
    estimates: Sequence[Estimate],
    ran: Estimate,
    whole: OffPolicyEstimate,
    truth: float,
    whole_truth: float,
) -> tuple[Row, ...]:
    """The exploration slots by every estimator, what serving it gave, and the whole feed."""
    estimand = "clicks an exploration slot"
    return (
        *(
            Row(
                f"off-policy, {each.estimator}",
                estimand,
                each.value,
                each.low,
                each.high,
                truth,
                each.refused or "",
            )
            for each in estimates
        ),
        Row("the candidate's draw, served", estimand, ran.value, ran.low, ran.high, truth),
        Row(
            f"off-policy, {whole.estimator}",
            "clicks a session, whole feed",
            whole.clicks,
            whole.low,
            whole.high,
            whole_truth,
            whole.refused or "",
        ),
    )


def metrics(found: ExperimentStudy) -> tuple[tuple[str, float, str, int], ...]:
    """What the study measured beside the shares of its table: (name, value, unit, n)."""
    held, significant = found.coverage.held, found.coverage.significant
    repeats = found.aa.planned.n
    rows: list[tuple[str, float, str, int]] = [
        ("aa.naive_expected", found.aa.naive_expected, "ratio", repeats),
        ("aa.variance_reduction", found.aa.variance_reduction, "ratio", repeats),
        ("ab.coverage", held.value, "ratio", held.n),
        ("ab.coverage_low", held.ci95[0], "ratio", held.n),
        ("ab.coverage_high", held.ci95[1], "ratio", held.n),
        ("ab.power", significant.value, "ratio", significant.n),
        ("slots.truth", found.slot_truth, "simulated clicks", 1),
        ("slots.logger_truth", found.logger_truth, "simulated clicks", 1),
        ("slots.unsupported", found.whole.unsupported, "ratio", 1),
    ]
    for name, each in found.rollouts.items():
        rows += [
            (f"rollout.{name}.by_guardrail", each.by_guardrail, "ratio", each.n),
            (f"rollout.{name}.true_effect", each.effect, "simulated clicks", each.n),
            (f"rollout.{name}.hides", each.hides, "ratio", each.n),
        ]
    for name, stop in found.stops.items():
        rows.append((f"stop.{name}.exposed_share", stop.exposed / stop.of, "ratio", stop.of))
        if stop.report.hour is not None:
            rows.append((f"stop.{name}.hours", stop.report.hour, "hours", stop.of))
    sensitivity = found.designs.sensitivity
    if sensitivity is not None:
        rows += [
            ("interleaving.sessions", sensitivity.interleaved_sessions, "sessions", 1),
            ("interleaving.ab_sessions", sensitivity.ab_sessions, "sessions", 1),
        ]
    return tuple(rows)


def covered(rows: Sequence[Row]) -> Floats:
    """Of the rows with a truth that were not refused: whether the interval holds it."""
    held = [row.holds_truth for row in rows]
    return np.array([each for each in held if each is not None], dtype=float)
